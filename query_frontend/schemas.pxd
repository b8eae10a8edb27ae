# cython: language_level=3
cdef Py_ssize_t _MAX_SIMDJSON_BYTES

cpdef bytes parse_doubles(bytes body)
cpdef bytes render_one(query_id, answer)
