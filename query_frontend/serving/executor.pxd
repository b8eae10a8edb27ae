# cython: language_level=3
cimport cython

from query_frontend.monitoring.metrics cimport SystemMetrics
from query_frontend.serving.model_queue cimport Task
from query_frontend.serving.replica cimport Batch, ConnectedReplica
from query_frontend.serving.served_model cimport ServedModel


cdef class Executor:
    cdef object _loop
    cdef object _rpc
    cdef object _replicas_changed
    cdef SystemMetrics _metrics
    cdef object _context
    cdef readonly dict _models
    cdef readonly dict _replicas
    cdef dict _of_model
    cdef object _limit
    cdef readonly bint uses_keys

    @cython.locals(model=ServedModel)
    cpdef submit(self, model_id, Task task)
    @cython.locals(model=ServedModel)
    cpdef withdraw(self, Task task, model_id)
    @cython.locals(replica=ConnectedReplica, batch=Batch, model=ServedModel)
    cpdef on_batch_answered(self, connection, response)
