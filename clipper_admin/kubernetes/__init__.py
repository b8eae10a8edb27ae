"""The container manager for Kubernetes."""
