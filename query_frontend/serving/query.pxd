# cython: language_level=3
cimport cython

from query_frontend.serving.deadlines cimport DeadlineWheel
from query_frontend.serving.model_queue cimport Task
from query_frontend.serving.registry cimport AppState
from query_frontend.serving.executor cimport Executor


cdef class QueryContext:
    cdef public Executor executor
    cdef public DeadlineWheel wheel


cdef class Query(Task):
    cdef QueryContext _context
    cdef object _done
    cdef dict _slot
    cdef public object answer
    cdef public AppState app
    cdef public object model_id

    @cython.locals(context=QueryContext)
    cpdef submit(self, done)
    @cython.locals(app=AppState)
    cpdef resolve(self, output, reason, double now)
    cdef _waited(self, double now)
    cpdef expire(self)
    cpdef abandon(self)
    cdef _withdraw(self)
