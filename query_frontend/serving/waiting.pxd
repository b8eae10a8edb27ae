# cython: language_level=3
cimport cython


cdef class BatchClients:
    cdef object model_id
    cdef Py_ssize_t size
    cdef readonly double expected_at
    cdef double answered_at
    cdef double horizon
    cdef public Py_ssize_t num_returned
    cdef Returns _returns

    cpdef open(self, Returns returns, double now, double horizon)
    @cython.locals(seconds=double)
    cpdef note_return(self, model_id, double now)


cdef class Returns:
    cdef readonly double share
    cdef double _quantile
    cdef list _open
    cdef double _answered
    cdef double _returned

    cpdef double seconds(self)
    cpdef learn_seconds(self, double seconds)
    cpdef expect(self, BatchClients clients, double now, double fixed_seconds)
    @cython.locals(clients=BatchClients)
    cdef _close(self, double now)
    cpdef bint are_likely(self)
    @cython.locals(clients=BatchClients, expected=double, until=double, end=double)
    cpdef double wait_until(self, Py_ssize_t queued, Py_ssize_t most, double gain_seconds, double latest, double now)
