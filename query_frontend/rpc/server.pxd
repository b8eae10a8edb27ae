# cython: language_level=3
from query_frontend.monitoring.metric_kinds cimport Histogram


cdef class RpcServer:
    cdef object _host
    cdef object _port
    cdef object _router
    cdef object _events
    cdef Histogram _send_micros
    cdef dict _connections
    cdef dict _named
    cdef object _frontends
    cdef long long _numbers
    cdef bint _yields
    cdef dict _lost
    cdef dict _warned_at
    cdef object _loop
    cdef object _ticker

    cpdef bint send_batch(self, connection, request)
    cdef _receive(self, peer, frames)
    cdef _receive_answer(self, connection, response)
