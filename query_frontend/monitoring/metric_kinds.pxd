# cython: language_level=3
cdef class Counter:
    cdef public long long count


cdef class RatioCounter:
    cdef public long long hits
    cdef public Counter times


cdef class Histogram:
    cdef object _unit
    cdef long long _capacity
    cdef readonly list _sample
    cdef list _new
    cdef long long _count
    cdef double _sum
    cdef long long _next
    cdef double _weight

    cpdef add(self, double value)
    cpdef add_times(self, double value, long times)
