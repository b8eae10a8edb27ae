# cython: language_level=3
cimport cython

from query_frontend.serving.deadlines cimport DeadlineWheel
from query_frontend.serving.query cimport Query, QueryContext
from query_frontend.serving.registry cimport AppState, Registry
from query_frontend.serving.waiting cimport BatchClients

cdef bytes _END_OF_HEAD
cdef Py_ssize_t _MAX_HELD_BYTES


cdef class Head:
    cdef bytes text
    cdef Py_ssize_t length
    cdef object app


cdef class FastPath:
    cdef DeadlineWheel wheel
    cdef double content_seconds
    cdef dict heads
    cdef object draining
    cdef Registry _registry
    cdef QueryContext _context
    cdef object _query_ids
    cdef double _second_ends
    cdef dict _heads
    cdef object _answerer
    cdef dict _its_heads

    cpdef Head recognise(self, bytes head)
    cpdef bint knows(self, str app_name)
    @cython.locals(app=AppState, query=Query)
    cpdef Query ask(self, str app_name, bytes body, double arrival, done, BatchClients clients)
    @cython.locals(body=bytes, head=bytes)
    cpdef bytes render(self, Query query, double now)
    cdef bytes _render_head(self, Py_ssize_t length)
    cdef _forget_heads(self)


cdef class FastPathConnection:
    cdef object _handler
    cdef FastPath _fast_path
    cdef object _reply
    cdef object _transport
    cdef bint _passes
    cdef bint _ends
    cdef bint _is_paused
    cdef bint _aiohttp_waits
    cdef Head _head
    cdef long long _answers
    cdef readonly double answered_at
    cdef Py_ssize_t _owed
    cdef Query _query
    cdef BatchClients _clients
    cdef list _held
    cdef Py_ssize_t _held_bytes
    cdef bint _holds_back
    cdef list _parts
    cdef double _arrival
    cdef Py_ssize_t _missing
    cdef dict _slot
    cdef object _body_due
    cdef object _idle

    cpdef data_received(self, bytes data)
    @cython.locals(fast_path=FastPath, head=Head, query=Query, body_at=Py_ssize_t, size=Py_ssize_t, num_taken=int, is_whole=bint)
    cdef _take(self, bytes data, double arrival)
    @cython.locals(head=Head, text=bytes)
    cdef Head _find_head(self, bytes data)
    cdef bytes _pass(self, bytes data, Py_ssize_t size)
    cdef bint _find_aiohttp_waiting(self)
    cdef _aiohttp_takes(self, bytes data)
    cdef _tell_answers(self)
    cdef _await_rest(self, bytes data, Py_ssize_t missing, double arrival)
    cdef _add_part(self, bytes data)
    cdef _hold(self, bytes data)
    cpdef _reply_to(self, Query query, double now)
    @cython.locals(fast_path=FastPath)
    cdef _write(self, Query query, double now)
