# cython: language_level=3
from query_frontend.monitoring.metric_kinds cimport Counter, Histogram, RatioCounter


cdef class ArmCounters:
    cdef public Counter num_predictions
    cdef public Counter num_defaults


cdef class AppMetrics:
    cdef public Counter num_predictions
    cdef public Histogram prediction_latency
    cdef public object prediction_throughput
    cdef public RatioCounter default_prediction_ratio
    cdef dict _defaults
    cdef dict _arms

    cpdef add_answer(self, double seconds)


cdef class ArmMetrics(AppMetrics):
    cdef AppMetrics _of_app
    cdef ArmCounters _counters

    cpdef add_answer(self, double seconds)


cdef class ModelMetrics:
    cdef public Counter _outputs
    cdef public Counter num_predictions
    cdef public Histogram prediction_latency
    cdef public object prediction_throughput
    cdef public RatioCounter cache_hit_ratio
    cdef public Histogram batch_size
    cdef public object batching
    cdef public Counter waited_micros
    cdef public Counter gained_queries
    cdef public object blamed
    cdef public Counter blamed_answers

    cpdef add_batch(self, long size, double seconds)


cdef class SystemMetrics:
    cdef public Histogram rpc_request_queueing_delay
    cdef public Counter prediction_cache_lookups
    cdef public RatioCounter prediction_cache_hit_ratio
    cdef public Counter aggregate_outputs
    cdef public object aggregate_throughput
    cdef public Counter aggregate_num_predictions
    cdef public object workers
    cdef public object body_memory
    cdef public object connections
    cdef public Counter slow_turns
    cdef public Counter slow_computing_turns
    cdef public object longest_turn
    cdef dict _apps
    cdef dict _models
    cdef ModelMetrics _gone
