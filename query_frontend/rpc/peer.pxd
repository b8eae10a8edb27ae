# cython: language_level=3
cimport cython

from query_frontend.rpc.zmtp cimport Conversation

cdef int _READS_PER_STEP
cdef int _MAX_PIECES


cdef class Peer:
    cdef object _loop
    cdef object _socket
    cdef object _events
    cdef Conversation _conversation
    cdef object _unsent
    cdef long _waiting
    cdef long long _unsent_bytes
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
    @cython.locals(_=int, conversation=Conversation, messages=list)
    cdef bint _read(self) except -1
    cdef _receive(self)
    cdef _deliver(self, list messages, bint has_more)
    @cython.locals(size=Py_ssize_t)
    cdef _write(self, list pieces)
    cdef _append(self, list pieces, Py_ssize_t size)
    cdef _forget_sent(self, Py_ssize_t sent)
