"""The metrics of a query frontend."""
