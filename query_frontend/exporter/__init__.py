"""Serves the metrics of a query frontend to Prometheus. It imports nothing of the rest of `query_frontend`."""
