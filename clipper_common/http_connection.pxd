# cython: language_level=3
cimport cython

from clipper_common.http_framing cimport ChunkReader, Head, Heads

cdef int _MAX_AT_ONCE
cdef Py_ssize_t _SMALL_BYTES
cdef Py_ssize_t _MAX_HELD_BYTES


cdef class HttpConnection:
    cdef public object transport
    cdef public double answered_at
    cdef public object body_due
    cdef object _server
    cdef Heads _heads
    cdef object _handler
    cdef Head _head
    cdef bint _is_answering
    cdef Py_ssize_t _owed
    cdef ChunkReader _chunks
    cdef bytes _begun
    cdef bint _passes
    cdef bint _ends
    cdef bint _is_paused
    cdef bint _is_full
    cdef bint _is_parsing
    cdef object _held
    cdef Py_ssize_t _held_bytes
    cdef bint _holds_back
    cdef object _content
    cdef bint _is_malformed

    cpdef data_received(self, bytes data)
    cdef _receive(self, bytes data)
    cdef bint _is_aiohttps(self)
    @cython.locals(num_taken=int, size=Py_ssize_t, head=Head)
    cdef _take(self, bytes data, double arrival)
    @cython.locals(head=Head, end=Py_ssize_t)
    cdef Head _find_head(self, bytes data)
    cdef Py_ssize_t _answer(self, Head head, bytes data, double arrival) except -3
    @cython.locals(before=Py_ssize_t, begun=bytes, end=Py_ssize_t, head=Head)
    cdef Py_ssize_t _begin(self, bytes data) except -3
    cdef _expect(self, Head head)
    @cython.locals(end=Py_ssize_t)
    cdef Py_ssize_t _find_end(self, bytes data) except -3
    cdef bytes _feed(self, bytes data, Py_ssize_t size)
    cdef _hold(self, bytes data)
    cdef _put_back(self, bytes data)
    cpdef _go_on(self)
    @cython.locals(holds_back=bint)
    cdef _adjust_reading(self)
    cpdef bint _is_busy(self)
