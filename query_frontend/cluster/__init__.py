"""Coordination of query frontends: membership, readiness and relays."""
