# cython: language_level=3
cdef class Blame:
    cdef double _seconds
    cdef object _ends
    cdef long long _bytes
    cdef readonly bint is_empty
