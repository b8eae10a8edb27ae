# cython: language_level=3
cimport cython

cdef Py_ssize_t _MAX_SIMDJSON_BYTES

@cython.locals(start=Py_ssize_t)
cpdef bytes parse_doubles(bytes body)
cpdef bytes render_one(query_id, answer)
