# cython: language_level=3
cimport cython

from query_frontend.monitoring.metric_kinds cimport Counter
from query_frontend.monitoring.metrics cimport ModelMetrics
from query_frontend.serving.batch_wait cimport BatchWait
from query_frontend.serving.cache cimport PredictionCache, CachePartition
from query_frontend.serving.delivery cimport Delivery
from query_frontend.serving.model_queue cimport ModelQueue, Task
from query_frontend.serving.poison cimport Blame
from query_frontend.serving.replica cimport Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.suspects cimport Suspects


cdef class ServedModel:
    cdef object _loop
    cdef PredictionCache _cache
    cdef object _message_ids
    cdef Counter _num_outputs
    cdef readonly object record
    cdef readonly double slo_seconds
    cdef readonly CachePartition partition
    cdef Delivery _delivery
    cdef readonly ModelMetrics metrics
    cdef public ModelQueue queue
    cdef readonly ReplicaPool replicas
    cdef Suspects _suspects
    cdef Batch _trial
    cdef Blame _blame
    cdef readonly int filling
    cdef Py_ssize_t _num_filled
    cdef bint _has_unrelayed
    cdef bint _dispatch_due
    cdef BatchWait _wait
    cdef bint _is_registered

    @cython.locals(replicas=ReplicaPool, is_cached=bint)
    cpdef submit(self, Task task)
    @cython.locals(host=Task)
    cpdef withdraw(self, Task task)
    cpdef _dispatch_soon(self)
    @cython.locals(replicas=ReplicaPool, replica=ConnectedReplica)
    cpdef _dispatch(self, bint waited=*)
    cdef ConnectedReplica _choose_replica(self, double now)
    cdef Py_ssize_t _num_usable(self, double now)
    @cython.locals(batch=Batch, task=Task)
    cpdef bint _send(self, ConnectedReplica replica, list tasks)
    @cython.locals(size=Py_ssize_t)
    cpdef on_batch_answered(self, ConnectedReplica replica, Batch batch, response)
    cpdef deliver(self, ConnectedReplica replica, Batch batch, response)
    cpdef on_replica_idle(self, ConnectedReplica replica, bint is_quick)
