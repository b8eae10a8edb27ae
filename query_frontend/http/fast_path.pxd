# cython: language_level=3
cimport cython

from clipper_common.http_framing cimport Head
from query_frontend.http.connection_drain cimport ConnectionDrain
from query_frontend.serving.deadlines cimport DeadlineWheel
from query_frontend.serving.query cimport Query, QueryContext
from query_frontend.serving.registry cimport AppState, ArmState, ArmChooser, Registry
from query_frontend.serving.waiting cimport BatchClients

cdef class FastPath:
    cdef DeadlineWheel wheel
    cdef double content_seconds
    cdef ConnectionDrain draining
    cdef Registry _registry
    cdef QueryContext _context
    cdef object _query_ids
    cdef double _second_ends
    cdef dict _heads
    cdef object _answerer
    cdef dict _its_heads

    cpdef bint knows(self, str app_name)
    @cython.locals(app=AppState, query=Query)
    cpdef Query ask(self, str app_name, Head head, bytes body, double arrival, done, BatchClients clients)
    @cython.locals(arm=ArmState, query=Query)
    cdef Query _ask_arm(
        self, AppState app, ArmChooser chooser, Head head, bytes body, double arrival, done, BatchClients clients
    )
    @cython.locals(body=bytes, before=bytes, head=bytes)
    cpdef bytes render(self, Query query, double now)
    cdef bytes _head(self, model, Py_ssize_t length)
    cdef bytes _render_head(self, Py_ssize_t length)
    cdef _forget_heads(self)
