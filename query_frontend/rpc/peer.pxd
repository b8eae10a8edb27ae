# cython: language_level=3
from query_frontend.rpc.zmtp cimport Conversation


cdef class Peer:
    cdef object _loop
    cdef object _socket
    cdef object _events
    cdef Conversation _conversation
    cdef object _unsent
    cdef long _waiting
    cdef list _inbox
    cdef bint _has_more
    cdef str _end
    cdef bint _is_open
    cdef long _unread
    cdef double _lives_at
    cdef bint _write_failed
    cdef readonly bint closed
    cdef long long _held
    cdef double _held_since
    cdef object _strangers
    cdef bint _is_stranger
    cdef double _stranger_since

    cpdef bint send(self, list frames)
    cpdef report_held(self)
    cdef _deliver(self)
    cdef _write(self, list pieces)
    cdef _forget_sent(self, Py_ssize_t sent)
