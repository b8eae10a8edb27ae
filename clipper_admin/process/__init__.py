"""A cluster of local processes."""
