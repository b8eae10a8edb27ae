# cython: language_level=3
cimport cython

from clipper_common.http_connection cimport HttpConnection
from clipper_common.http_framing cimport Head
from query_frontend.http.fast_path cimport FastPath
from query_frontend.serving.query cimport Query
from query_frontend.serving.waiting cimport BatchClients


cdef class FastPathConnection(HttpConnection):
    cdef FastPath _fast_path
    cdef object _reply
    cdef Query _query
    cdef BatchClients _clients
    cdef list _parts
    cdef double _arrival
    cdef Py_ssize_t _missing
    cdef dict _slot
    cdef object _answered

    cpdef data_received(self, bytes data)
    @cython.locals(fast_path=FastPath, query=Query, body_at=Py_ssize_t, size=Py_ssize_t, raw="const char *")
    cdef Py_ssize_t _answer(self, Head head, bytes data, double arrival) except -3
    cdef _await_rest(self, bytes data, Py_ssize_t missing, double arrival)
    cdef _add_part(self, bytes data)
    cdef bytes _take_parts(self)
    @cython.locals(head=Head, data=bytes)
    cdef _pass_parts(self)
    cpdef _reply_to(self, Query query, double now)
    @cython.locals(fast_path=FastPath)
    cdef _write(self, Query query, double now)
    cpdef bint _is_busy(self)
