# cython: language_level=3
cdef class CachePartition:
    cdef public dict entries
    cdef public set used

    cpdef remove_in_flight(self, key, coming)


cdef class PredictionCache:
    cdef public bint enabled
    cdef readonly long long _max_bytes
    cdef readonly long long _bytes
    cdef readonly object _batches
