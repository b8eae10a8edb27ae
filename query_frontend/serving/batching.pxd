# cython: language_level=3
cimport cython

cdef double _MEMORY
cdef double _ORIGIN_WEIGHT
cdef double _OUTLIER
cdef int _BELIEVED
cdef double _USUAL_DEVIATIONS
cdef double _SETTLED
cdef double _GROWTH
cdef int _FIRST
cdef double _CHEAP
cdef double _EXPLORE
cdef double _SAME
cdef double _DOUBT


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

    @cython.locals(expected=double, memory=double)
    cpdef observe(self, long size, double seconds)
    cdef bint _is_surprising(self, double seconds, double expected)
    @cython.locals(weight=double, spread=double, slope=double, base=double)
    cdef _fit_line(self)
    cpdef double expect(self, long size)
    cpdef double fixed(self)
    cdef double _learn_fixed(self, long size)
    @cython.locals(base=double, slope=double, limit=double)
    cpdef long _largest_within(self, double seconds)
    @cython.locals(variance=double)
    cdef bint _is_uniform(self)


cdef class FixedBatchSize(_BatchTimes):
    cdef long _size


cdef class LearnedBatchSize(_BatchTimes):
    pass


cdef class QuantileBatchSize(_BatchTimes):
    cdef double _factor

    @cython.locals(exceeds=bint)
    cpdef observe(self, long size, double seconds)


cdef class AimdBatchSize(_BatchTimes):
    cdef double _limit
    cdef double _budget

    cpdef observe(self, long size, double seconds)
