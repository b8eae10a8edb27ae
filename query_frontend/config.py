"""The command-line options of the query frontend."""

from dataclasses import dataclass

from clipper_common import constants
from clipper_common.options import Options, option
from query_frontend.serving.poison import BLAME_SECONDS


@dataclass(frozen=True)
class Config(Options):
    """Options of the query frontend, which answers prediction requests."""

    redis_ip: str = option("localhost", "host of Redis")
    redis_port: int = option(constants.REDIS_PORT, "port of Redis")
    rpc_service_port: int = option(constants.RPC_PORT, "port to which model containers connect")
    prediction_cache_size: int = option(
        constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES,
        "bytes that the prediction cache may hold, 0 turns it off",
        least=0,
    )
    thread_pool_size: int = option(1, "accepted for Clipper 0.4, without effect: one event loop serves all", least=1)
    timeout_request: int = option(
        constants.IDLE_CONNECTION_SECONDS, "seconds after which an idle HTTP connection is closed", least=1
    )
    timeout_content: int = option(constants.BODY_SECONDS, "seconds that reading a request's body may take", least=1)
    host: str = option("0.0.0.0", "address to listen on, for HTTP and for model containers")
    port: int = option(constants.QUERY_PORT, "HTTP port")
    cluster_id: str = option("", "name/id of the cluster; with it, a second cluster on the same Redis is refused")
    fast_lane: bool = option(
        True, "0 answers predictions by aiohttp's general path too: the same bytes, several times slower"
    )
    workers: int = option(
        1, "processes that share the port, until Redis says another number", least=1, most=constants.MAX_WORKERS
    )
    follow_workers: bool = option(True, "0 keeps to --workers, whatever number is in Redis")
    advertise: str = option(
        "", "host by which model containers and other frontends reach this one; needed where there are several"
    )
    drain_seconds: int = option(
        0, "on SIGTERM, seconds in which connections are still accepted and each answer closes its own", least=0
    )
    restore_seconds: int = option(
        0, "seconds given to others to write back into an empty Redis, before it is taken for a new one", least=0
    )
    body_memory: int = option(
        0,
        "bytes that large bodies, their inputs, outputs and answers that clients do not read may hold in each worker; "
        "0 is a quarter of the memory, divided by --workers, and at least 256 MiB",
        least=0,
    )
    max_connections: int = option(
        0,
        "HTTP connections of each worker; 0 is five eighths of the file descriptors that a process may have "
        f"(ulimit -n), and at most {constants.MAX_CONNECTIONS}",
        least=0,
    )
    max_body_bytes: int = option(
        constants.MAX_BODY_BYTES,
        "bytes of the largest body of a request to an application that has no limit of its own",
        least=constants.SIZE_LIMITS[0],
        most=constants.SIZE_LIMITS[-1],
    )
    inflate_bodies: bool = option(
        False,
        "1 inflates bodies with the Content-Encoding gzip or deflate, up to the size that a body may have; 0 refuses "
        "them",
    )
    slow_turn_millis: int = option(
        20, "longer turns of the event loop are counted and written to the log; 0 does not measure them", least=0
    )
    blame_seconds: int = option(
        BLAME_SECONDS, "seconds for which an input that two replicas died of is not sent to others", least=1
    )
