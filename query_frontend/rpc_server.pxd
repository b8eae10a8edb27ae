# cython: language_level=3
from query_frontend.metrics cimport Histogram


cdef class RpcServer:
    cdef object _address
    cdef object _events
    cdef Histogram _send_micros
    cdef dict _connections
    cdef object _frontends
    cdef long long _numbers
    cdef bint _yields
    cdef dict _complained
    cdef object _loop
    cdef object _context
    cdef object _socket
    cdef object _monitor
    cdef object _ticker

    cpdef bint send_batch(self, connection, request)
    cdef bint _is_readable(self)
    cdef _receive(self, bytes identity, frames)
    cdef _send(self, connection, frames)
    cdef _send_to(self, bytes identity, frames)
