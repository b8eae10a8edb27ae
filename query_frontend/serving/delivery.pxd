# cython: language_level=3
cimport cython

from query_frontend.serving.cache cimport PredictionCache, CachePartition
from query_frontend.serving.model_queue cimport Task


cdef class Delivery:
    cdef PredictionCache _cache
    cdef CachePartition _partition
    cdef long long _max_output_bytes
    cdef bint _keeps

    @cython.locals(task=Task, value=bytes)
    cpdef deliver(self, list tasks, response, str raised, Py_ssize_t size, bytes embedded)
