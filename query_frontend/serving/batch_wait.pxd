# cython: language_level=3
cimport cython

from query_frontend.monitoring.metrics cimport ModelMetrics
from query_frontend.serving.model_queue cimport ModelQueue
from query_frontend.serving.replica cimport Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.waiting cimport Returns


cdef class BatchWait:
    cdef object _loop
    cdef ModelMetrics _metrics
    cdef object _dispatch
    cdef readonly Returns returns
    cdef bint _awaits_returns
    cdef double _delay_seconds
    cdef object _timer
    cdef double _timer_ends
    cdef bint _is_on
    cdef double _since
    cdef Py_ssize_t _num_first
    cdef double _delay_ends

    cpdef expect(self, Batch batch, ConnectedReplica replica, double now)
    @cython.locals(until=double)
    cpdef bint should_wait(self, ModelQueue queue, ReplicaPool replicas, ConnectedReplica replica, Py_ssize_t most, double delivery_seconds, double now)
    @cython.locals(last=double, seconds=double, latest=double)
    cdef double _end_of_returns(self, ModelQueue queue, ReplicaPool replicas, ConnectedReplica replica, Py_ssize_t most, double delivery_seconds, double now)
    cdef double _end_of_delay(self, ModelQueue queue, ConnectedReplica replica, Py_ssize_t most, double delivery_seconds, double now)
    cpdef close(self)
    cpdef end(self, Py_ssize_t queued, double now)
    cdef _cancel(self)
