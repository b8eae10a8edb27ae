"""The exporter serves the metrics of a query frontend to Prometheus. It imports nothing else of `query_frontend`."""
