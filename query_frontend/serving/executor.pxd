# cython: language_level=3
cimport cython

from query_frontend.serving.cache cimport PredictionCache, CachePartition
from query_frontend.monitoring.metrics cimport ModelMetrics, SystemMetrics
from query_frontend.serving.model_queue cimport ModelQueue, Task


cdef class ModelState:
    cdef public object model
    cdef public double slo_seconds
    cdef public CachePartition partition
    cdef public ModelMetrics metrics
    cdef public ModelQueue queue
    cdef public list replicas
    cdef public bint is_served
    cdef public bint has_own
    cdef public bint is_counted
    cdef public object idle
    cdef public object suspects
    cdef public object trial
    cdef public object blame
    cdef public int filling
    cdef public Py_ssize_t num_filled
    cdef public bint dispatch_due
    cdef public object delayed
    cdef public bint live


cdef class ReplicaState:
    cdef public object connection
    cdef public bint is_relay
    cdef public ModelState state
    cdef public object sizer
    cdef public object batch
    cdef public bint draining
    cdef public int deliveries
    cdef public bint rest_due


cdef class Executor:
    cdef object _loop
    cdef double _blame_seconds
    cdef PredictionCache _cache
    cdef SystemMetrics _metrics
    cdef readonly dict _models
    cdef readonly dict _replicas
    cdef object _message_ids
    cdef object _rpc
    cdef object _replicas_changed

    @cython.locals(state=ModelState)
    cpdef submit(self, model_id, Task task)
    @cython.locals(state=ModelState, host=Task)
    cpdef leave(self, Task task, model_id)
    @cython.locals(task=Task)
    cpdef _send(self, ModelState state, ReplicaState replica, list tasks)
    @cython.locals(state=ModelState, task=Task, value=bytes)
    cpdef _deliver(self, batch, response, str raised, Py_ssize_t size, bytes embedded)
    cpdef _dispatch_soon(self, ModelState state)
