"""Asking a Redis that is not the cluster's own whether it serves Clipper, before anything is started."""

import ipaddress

from clipper_common.errors import ClipperException


def check(host: str, port: int) -> None:
    """Raise ClipperException when this Redis refuses. One that does not answer may yet answer others."""
    from clipper_common.redis_client import refusal_at  # here, because it brings the client of Redis along

    if reason := refusal_at(host, port):
        raise ClipperException(f"Redis at {host}:{port} cannot be used: {reason}")


def check_for_containers(host: str, port: int) -> None:
    """`check` it, if what the containers reach under this address is what we reach."""
    if is_the_same_in_containers(host):
        check(host, port)


def is_the_same_in_containers(host: str) -> bool:
    """Whether `host` names the same machine here and in a container, as loopback and a container's name do not."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." in host
