# cython: language_level=3
cdef class Shelf:
    cdef public dict entries
    cdef public set used

    cpdef give_up(self, bytes payload, coming)


cdef class PredictionCache:
    cdef public bint enabled
    cdef readonly long long _max_bytes
    cdef readonly long long _bytes
    cdef readonly object _batches
