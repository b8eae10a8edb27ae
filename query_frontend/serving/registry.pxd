# cython: language_level=3
from query_frontend.monitoring.metrics cimport AppMetrics


cdef class AppState:
    cdef public object record
    cdef public object linked
    cdef public object model_id
    cdef public AppMetrics metrics
    cdef public object input_type
    cdef public bint missing_values
    cdef public double slo_seconds
    cdef bytes _default_output

    cpdef default_answer(self, str reason, waited=*)


cdef class Registry:
    cdef dict __dict__
    cdef object __weakref__
    cdef object _metrics
    cdef object _models_changed
    cdef dict _apps
    cdef object _snapshot
    cdef object _loaded

    cpdef AppState app(self, str name)
