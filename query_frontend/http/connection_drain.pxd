# cython: language_level=3
cdef class ConnectionDrain:
    cdef set _some
    cdef bint _all
    cdef readonly bint is_empty
