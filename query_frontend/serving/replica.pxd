# cython: language_level=3
cimport cython

from query_frontend.serving.model_queue cimport Task
from query_frontend.serving.waiting cimport BatchClients


cdef class Batch:
    cdef readonly object served_model
    cdef readonly object message_id
    cdef readonly list tasks
    cdef readonly double sent_at
    cdef readonly BatchClients clients

    cpdef list tasks_of(self, response)


cdef class ConnectedReplica:
    cdef public object connection
    cdef object _transport
    cdef public bint is_relay
    cdef public bint takes_deadlines
    cdef public object served_model
    cdef public object sizer
    cdef public Batch batch
    cdef public Py_ssize_t times_skipped
    cdef public bint is_draining
    cdef bint _is_lost
    cdef double _wait_seconds
    cdef int _deliveries
    cdef bint _idle_due

    @cython.locals(task=Task)
    cpdef bint send(self, Batch batch, input_type)
    @cython.locals(starts_at=double, seconds=double)
    cpdef bint would_answer(self, double deadline, double now)
    cpdef double seconds_busy(self, double now)
    cpdef double expect(self, long size)
    @cython.locals(seconds=double)
    cpdef long most_inputs(self, double budget_seconds)
    @cython.locals(own_seconds=double)
    cpdef double finish(self, Batch batch, turn_micros)
    cpdef become_idle(self, bint is_quick)


cdef class ReplicaPool:
    cdef list _all
    cdef readonly bint has_several
    cdef readonly bint is_served
    cdef readonly bint has_own
    cdef readonly object idle

    @cython.locals(replica=ConnectedReplica)
    cpdef ConnectedReplica choose(self, double deadline, double now, bint relays=*)
    @cython.locals(replica=ConnectedReplica, number=Py_ssize_t)
    cpdef Py_ssize_t num_usable(self, double deadline, double now)
