"""From an input to its answer: applications, models, queues, batches, the cache and deadlines."""
