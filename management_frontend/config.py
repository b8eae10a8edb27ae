"""The command-line options of the management frontend."""

from argparse import ArgumentTypeError
from dataclasses import dataclass

from clipper_common.constants import MANAGEMENT_PORT, MAX_MANAGEMENT_BODY_BYTES, REDIS_PORT
from clipper_common.options import Options, option
from management_frontend.origins import Origin, name_of


def _origins(text: str) -> frozenset[Origin]:
    try:
        return frozenset(map(Origin.parse, _items(text)))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _hosts(text: str) -> frozenset[str]:
    return frozenset(map(name_of, _items(text)))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


@dataclass(frozen=True)
class Config(Options):
    """Options of the management frontend, which changes the configuration of a cluster."""

    redis_ip: str = option("localhost", "host of the Redis that holds the configuration")
    redis_port: int = option(REDIS_PORT, "its port")
    host: str = option("0.0.0.0", "address to listen on")
    port: int = option(MANAGEMENT_PORT, "port to listen on")
    cluster_id: str | None = option(None, "refuse a Redis that a cluster with another id uses")
    follow_workers: bool = option(True, "0 if query frontends keep to their --workers: then nothing can change that")
    max_body_bytes: int = option(MAX_MANAGEMENT_BODY_BYTES, "bytes of the largest body of a request")
    allowed_origins: frozenset[Origin] = option(
        frozenset(), "origins whose web pages may send requests, such as https://a.example.com,http://b:8080", _origins
    )
    allowed_hosts: frozenset[str] = option(
        frozenset(), "names by which it may be asked where it listens on a loopback address, such as a,b.local", _hosts
    )
