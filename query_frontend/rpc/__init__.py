"""Model containers: their connections, and the messages on these."""
