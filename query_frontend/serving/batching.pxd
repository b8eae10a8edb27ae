# cython: language_level=3
cdef class _BatchTimes:
    cdef double _reach
    cdef double _weight
    cdef double _sizes
    cdef double _squares
    cdef double _times
    cdef double _products
    cdef double _base
    cdef double _slope
    cdef double _fixed
    cdef double _variance
    cdef int _surprises

    cdef bint _is_surprising(self, double seconds, double expected)
    cpdef double expect(self, long size)
    cpdef double fixed(self)
    cdef double _learn_fixed(self, long size)
    cpdef long _largest_within(self, double seconds)
    cdef bint _is_uniform(self)


cdef class FixedBatchSize(_BatchTimes):
    cdef long _size


cdef class LearnedBatchSize(_BatchTimes):
    pass


cdef class QuantileBatchSize(_BatchTimes):
    cdef double _factor


cdef class AimdBatchSize(_BatchTimes):
    cdef double _limit
    cdef double _budget
