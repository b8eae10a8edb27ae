# cython: language_level=3
cimport cython

cdef int _BRACKET

cpdef bytes parse_doubles(bytes body)
@cython.locals(last=Py_ssize_t, at=Py_ssize_t)
cdef bint _has_one_array(bytes body)
