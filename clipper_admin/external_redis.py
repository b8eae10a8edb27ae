"""Checks of a Redis that is not the cluster's own, before anything is started."""

import ipaddress

from clipper_common.errors import ClipperException


def check(host: str, port: int) -> None:
    """Raise ClipperException when this Redis refuses. One that does not answer may yet answer others."""
    from clipper_common.redis_client import refusal_at  # imported here, because it imports the client of Redis

    if reason := refusal_at(host, port):
        raise ClipperException(f"Redis at {host}:{port} cannot be used: {reason}")


def check_for_containers(host: str, port: int) -> None:
    """Check the Redis, if containers and this machine reach the same one at this address."""
    if is_the_same_in_containers(host):
        check(host, port)


def is_the_same_in_containers(host: str) -> bool:
    """Whether `host` is the same machine here and in a container. Loopback addresses and names of containers are
    not."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." in host
