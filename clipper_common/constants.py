"""Ports, environment names, sizes and times that more than one program uses."""

from typing import Final

# --- ports; the process manager replaces those that are taken ---
QUERY_PORT: Final = 1337
MANAGEMENT_PORT: Final = 1338
RPC_PORT: Final = 7000
METRIC_PORT: Final = 1390
REDIS_PORT: Final = 6379
PROMETHEUS_PORT: Final = 9090
FLUENTD_PORT: Final = 24224

# --- environment of a model container ---
ENV_MODEL_NAME: Final = "CLIPPER_MODEL_NAME"
ENV_MODEL_VERSION: Final = "CLIPPER_MODEL_VERSION"
ENV_MODEL_PATH: Final = "CLIPPER_MODEL_PATH"
ENV_INPUT_TYPE: Final = "CLIPPER_INPUT_TYPE"
ENV_RPC_HOST: Final = "CLIPPER_IP"
ENV_RPC_PORT: Final = "CLIPPER_PORT"
ENV_METRIC_PORT: Final = "CLIPPER_METRIC_PORT"
ENV_READY_FILE: Final = "CLIPPER_READY_FILE"
ENV_REPLICA_ID: Final = "CLIPPER_REPLICA_ID"
ENV_EXIT_SECONDS: Final = "CLIPPER_EXIT_SECONDS"

# --- sizes ---
DEFAULT_PREDICTION_CACHE_SIZE_BYTES: Final = 32 * 1024 * 1024
DEFAULT_BATCH_SIZE: Final = -1
"""The batch size with which the batch policy learns the size."""
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""Largest accepted HTTP body, unless the query frontend or the application says otherwise."""
MAX_MANAGEMENT_BODY_BYTES: Final = 8 * 1024 * 1024
"""Largest body of a request to the management frontend. The longest default output takes 6 MiB if all of it is
escaped."""
MAX_OUTPUT_BYTES: Final = 32 * 1024 * 1024
"""Largest output of a model for one input, unless the model version says otherwise."""
SIZE_LIMITS: Final = range(1 << 16, (1 << 30) + 1)
"""The range of a limit of bodies or outputs, in bytes. Smaller outputs are not checked one by one."""
MAX_INPUTS_PER_REQUEST: Final = 4096
"""Largest number of inputs in a request, so that no request keeps the event loop, which all share, for long."""
MAX_NAME_LENGTH: Final = 255
"""The most characters of a name of an application or a model, of a version and of a label."""
MAX_LABELS: Final = 64
"""The most labels of one model version."""
MAX_PATH_LENGTH: Final = 4096
"""The most characters of the image, and of the data path, of a model version."""
MAX_APPLICATIONS: Final = 16_384
MAX_MODEL_VERSIONS: Final = 16_384
"""The most model versions that may be registered at the same time."""
MAX_INT32: Final = 2**31 - 1
"""The largest whole number in a request of the management frontend, as in 0.4."""
MAX_DEFAULT_OUTPUT_BYTES: Final = 1024 * 1024
MAX_BATCH_SIZE: Final = 4096
"""Largest batch of a policy that learns."""
MAX_QUEUED_QUERIES: Final = 16384
"""The most queued queries of a model version in each worker; one more gets the default at once."""
MAX_QUEUED_BYTES: Final = 512 * 1024 * 1024
"""The most bytes of the queued inputs of a model version in each worker; one more input gets the default at once."""
MAX_WORKERS: Final = 64
"""The most workers of one query frontend."""
MAX_CONNECTIONS: Final = 16_384
"""The most HTTP connections of one process, unless the limit of file descriptors allows fewer."""

# --- times ---
HEARTBEAT_SECONDS: Final = 1.0
"""Seconds between two heartbeats of a version 4 container, whatever its model does."""
LEGACY_HEARTBEAT_SECONDS: Final = 5.0
"""Seconds of silence after which a version 3 container sends a heartbeat."""
SILENCE_SECONDS: Final = 30.0
"""Seconds of silence after which an idle peer is taken for dead, on both sides, as in 0.4."""
TRANSPORT_HEARTBEAT_MILLIS: Final = 1000
TRANSPORT_TIMEOUT_MILLIS: Final = 5000
"""Time limit for answers to ZMTP heartbeats. libzmq answers them itself, so a busy process answers and a stopped one
does not."""
DRAIN_SECONDS: Final = 10.0
"""Seconds in which a stopping container may finish its batch before it is killed."""
EXIT_SECONDS: Final = 1.0
"""Seconds that threads and exit handlers of a model may take after its last batch."""
LOAD_SECONDS: Final = 300
"""Seconds for which a deployment waits for its replicas to serve, by default."""
IDLE_CONNECTION_SECONDS: Final = 75
"""Seconds for which a frontend keeps an idle HTTP connection, which is longer than clients and proxies keep theirs."""
BODY_SECONDS: Final = 300
"""Seconds in which the body of a request must arrive."""
UNREAD_SECONDS: Final = 30.0
"""Seconds after which a client is disconnected that reads nothing of an answer larger than the kernel's buffer."""
CONFIG_POLL_SECONDS: Final = 1.0
"""Seconds between two comparisons of the revision, if no message arrives."""
CONFIG_REREAD_SECONDS: Final = 30.0
"""Seconds between two reads of the whole configuration, for writers without revisions such as Clipper 0.4."""
CLUSTER_LEASE_SECONDS: Final = 10.0
"""Seconds for which a cluster owns its Redis after the last report of its frontends."""
FRONTEND_LEASE_SECONDS: Final = 5.0
"""Seconds for which a query frontend, and its replicas, count as live after its last report to Redis."""
APPLY_SECONDS: Final = 0.5
"""Seconds for which the management frontend waits until the query frontends apply a change."""

# --- exit codes ---
EXIT_USAGE: Final = 2
EXIT_MODEL_NOT_LOADED: Final = 3
EXIT_ADDRESS_IN_USE: Final = 4
EXIT_REDIS_TAKEN: Final = 5
EXIT_REDIS_REFUSES: Final = 6

LOG_FORMAT: Final = "%(asctime)s %(levelname)-8s [%(filename)s:%(lineno)d] %(message)s"
LOG_DATE_FORMAT: Final = "%y-%m-%d:%H:%M:%S"
