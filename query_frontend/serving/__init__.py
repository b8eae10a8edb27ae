"""Turns an input into its answer: applications, models, queues, batches, the cache and deadlines."""
