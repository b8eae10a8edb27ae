# cython: language_level=3
cimport cython

from query_frontend.serving.cache cimport PredictionCache, CachePartition
from query_frontend.serving.model_queue cimport Task


cdef class Delivery:
    cdef PredictionCache _cache
    cdef CachePartition _partition
    cdef long long _max_output_bytes
    cdef bint _keeps

    cpdef deliver(self, list tasks, response, str raised, Py_ssize_t size)
    cdef list _values(self, list tasks, list outputs, list failed, str raised, Py_ssize_t size, bytes embedded=*)
    @cython.locals(index=Py_ssize_t, least=Py_ssize_t, now=double, task=Task)
    cdef Py_ssize_t _give(self, list tasks, list values, Py_ssize_t begin, double until) except -1
