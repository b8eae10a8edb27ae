"""The container manager for Docker."""
