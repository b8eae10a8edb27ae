# cython: language_level=3
cdef class Suspects:
    cdef readonly object parts
