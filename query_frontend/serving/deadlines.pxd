# cython: language_level=3
cimport cython

cdef long _SLOTS_PER_SECOND


cdef class DeadlineWheel:
    cdef object _loop
    cdef readonly dict _slots
    cdef readonly list _order
    cdef Py_ssize_t _many
    cdef long long _last_number
    cdef dict _last_slot
    cdef object _timer
    cdef long long _timer_number
    cdef bint _has_read
    cdef object _due

    @cython.locals(number="long long", slot=dict)
    cpdef dict add(self, item, double deadline)
    cdef dict _find(self, long long number)
