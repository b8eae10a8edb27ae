"""The query frontend's configuration: a value, read once from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from clipper_common import __version__, constants
from query_frontend.serving.poison import BLAME_SECONDS


@dataclass(frozen=True)
class Config:
    redis_ip: str = "localhost"
    redis_port: int = constants.REDIS_PORT
    rpc_service_port: int = constants.RPC_PORT
    prediction_cache_size: int = constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES
    thread_pool_size: int = 1
    timeout_request: int = constants.IDLE_CONNECTION_SECONDS
    timeout_content: int = constants.BODY_SECONDS
    host: str = "0.0.0.0"
    port: int = constants.QUERY_PORT
    cluster_id: str = ""
    fast_lane: int = 1
    workers: int = 1
    follow_workers: int = 1
    advertise: str = ""
    drain_seconds: int = 0
    restore_seconds: int = 0
    body_memory: int = 0
    max_connections: int = 0
    max_body_bytes: int = constants.MAX_BODY_BYTES
    inflate_bodies: int = 0
    slow_turn_millis: int = 20
    blame_seconds: int = BLAME_SECONDS


_HELP: Final = {
    "redis_ip": "host of Redis",
    "redis_port": "port of Redis",
    "rpc_service_port": "port to which model containers connect",
    "prediction_cache_size": "bytes that the prediction cache may hold, 0 turns it off",
    "thread_pool_size": "accepted for Clipper 0.4, without effect: one event loop serves all",
    "timeout_request": "seconds after which an idle HTTP connection is closed",
    "timeout_content": "seconds that reading a request's body may take",
    "host": "address to listen on, for HTTP and for model containers",
    "port": "HTTP port",
    "fast_lane": "0 answers predictions by aiohttp's general path too: the same bytes, several times slower",
    "workers": "processes that share the port, until Redis says another number",
    "follow_workers": "0 keeps to --workers, whatever number is in Redis",
    "advertise": "host by which model containers and other frontends reach this one; needed where there are several",
    "drain_seconds": "on SIGTERM, seconds in which connections are still accepted and each answer closes its own",
    "restore_seconds": "seconds given to others to write back into an empty Redis, before it is taken for a new one",
    "body_memory": "bytes that large bodies, their inputs, outputs and answers that clients do not read may hold in "
    "each worker; 0 is a quarter of the memory, divided by --workers, and at least 256 MiB",
    "max_connections": "HTTP connections of each worker; 0 is three quarters of the file descriptors that a process "
    f"may have (ulimit -n), and at most {constants.MAX_CONNECTIONS}",
    "max_body_bytes": "bytes of the largest body of a request to an application that has no limit of its own",
    "inflate_bodies": "1 inflates bodies with the Content-Encoding gzip or deflate, up to the size that a body may "
    "have; 0 refuses them",
    "slow_turn_millis": "longer turns of the event loop are counted and written to the log; 0 does not measure them",
    "blame_seconds": "seconds for which an input that two replicas died of is not sent to others",
    "cluster_id": "name/id of the cluster; with it, a second cluster on the same Redis is refused",
}
_AT_LEAST: Final = {
    "prediction_cache_size": 0,
    "timeout_request": 1,
    "timeout_content": 1,
    "thread_pool_size": 1,
    "workers": 1,
    "drain_seconds": 0,
    "restore_seconds": 0,
    "body_memory": 0,
    "max_connections": 0,
    "max_body_bytes": constants.SIZE_LIMITS[0],
    "inflate_bodies": 0,
    "slow_turn_millis": 0,
    "blame_seconds": 1,
}


def parse_arguments(arguments: Sequence[str] | None = None) -> Config:
    """Read flags such as ``--redis_ip=localhost``; a bad one ends the program with exit code 2."""
    parser = argparse.ArgumentParser("query_frontend", description="Answers prediction requests.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    for field in fields(Config):
        kind: Any = type(field.default)
        text = f"{_HELP[field.name]} (default: {field.default})"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=text)
    values = vars(parser.parse_args(arguments))
    for name, least in _AT_LEAST.items():
        if values[name] < least:
            parser.error(f"argument --{name}: {values[name]} is less than {least}")
    if values["max_body_bytes"] > constants.SIZE_LIMITS[-1]:
        parser.error(f"argument --max_body_bytes: {values['max_body_bytes']} is more than {constants.SIZE_LIMITS[-1]}")
    if values["workers"] > constants.MAX_WORKERS:
        parser.error(f"argument --workers: {values['workers']} is more than {constants.MAX_WORKERS}")
    return Config(**values)
