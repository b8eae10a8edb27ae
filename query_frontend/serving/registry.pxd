# cython: language_level=3
from query_frontend.monitoring.metrics cimport AppMetrics


cdef class ArmChooser


cdef class AppState:
    cdef public object record
    cdef public object linked
    cdef public object model_id
    cdef public AppMetrics metrics
    cdef public object input_type
    cdef public bint missing_values
    cdef public double slo_seconds
    cdef public bytes default_output
    cdef public ArmChooser chooser

    cpdef default_answer(self, str reason, waited=*)


cdef class ArmState(AppState):
    cdef public str link


cdef class ArmChooser:
    cdef public str policy
    cdef public bint by_uid
    cdef public str header
    cdef public list model_ids
    cdef dict _arms
    cdef object _split
    cdef object _random

    cpdef ArmState choose(self, bytes key)
    cpdef double share_of(self, str link)


cdef class Registry:
    cdef dict __dict__
    cdef object __weakref__
    cdef object _metrics
    cdef object _models_changed
    cdef dict _apps
    cdef object _snapshot
    cdef object _loaded

    cpdef AppState app(self, str name)
