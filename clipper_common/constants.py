"""Ports, environment names, sizes and times that more than one program uses."""

from typing import Final

# --- ports (the same in every container manager; the process manager may have to move them) ---
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
"""The batch size that means: learn it."""
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""Largest accepted HTTP body, unless the query frontend or the application says otherwise."""
MAX_MANAGEMENT_BODY_BYTES: Final = 8 * 1024 * 1024
"""A default output, the largest thing that is registered, takes 6 MiB where each character of it is escaped."""
MAX_OUTPUT_BYTES: Final = 32 * 1024 * 1024
"""Largest output of a model for one input, unless the model version says otherwise."""
SIZE_LIMITS: Final = range(1 << 16, (1 << 30) + 1)
"""The range of a limit of bodies or outputs, in bytes. Smaller outputs are not checked one by one."""
MAX_INPUTS_PER_REQUEST: Final = 4096
"""One event loop serves all applications: no request may keep it for long."""
MAX_NAME_LENGTH: Final = 255
"""The longest names of applications and of models, their versions and their labels."""
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
"""No policy asks a model for more inputs than this at once."""
MAX_QUEUED_QUERIES: Final = 16384
"""Per model version in each worker of a query frontend; one more is answered with the default at once."""
MAX_QUEUED_BYTES: Final = 512 * 1024 * 1024
"""Per model version in each worker of a query frontend; the bytes of inputs are counted."""
MAX_WORKERS: Final = 64
"""Processes of one query frontend."""
MAX_CONNECTIONS: Final = 16_384
"""HTTP connections of one process, where the limit of file descriptors does not allow fewer."""

# --- times ---
HEARTBEAT_SECONDS: Final = 1.0
"""How often a version 4 container shows that it lives, whatever its model does."""
LEGACY_HEARTBEAT_SECONDS: Final = 5.0
"""How long a version 3 container is silent before it heartbeats."""
SILENCE_SECONDS: Final = 30.0
"""An idle peer that said nothing for so long is taken for gone (both sides, as in 0.4)."""
TRANSPORT_HEARTBEAT_MILLIS: Final = 1000
TRANSPORT_TIMEOUT_MILLIS: Final = 5000
"""ZMTP heartbeats: libzmq itself answers them, so they tell a busy process from a stopped one."""
DRAIN_SECONDS: Final = 10.0
"""The seconds in which a stopping container may finish its batch before it is killed."""
EXIT_SECONDS: Final = 1.0
"""How many seconds threads and exit handlers of a model may take after its last batch."""
LOAD_SECONDS: Final = 300
"""How long a deployment waits for replicas to load their model, unless it is told otherwise."""
IDLE_CONNECTION_SECONDS: Final = 75
"""For how many seconds a frontend keeps an idle HTTP connection: longer than clients and proxies keep theirs."""
BODY_SECONDS: Final = 300
"""For how many seconds a frontend waits for the body of a request."""
UNREAD_SECONDS: Final = 30.0
"""How long an HTTP client may read nothing of an answer that the kernel could not take as a whole."""
CONFIG_POLL_SECONDS: Final = 1.0
"""How often a frontend compares revisions when no message told it to."""
CONFIG_REREAD_SECONDS: Final = 30.0
"""How often it reads everything, for writers that know no revision (Clipper 0.4)."""
CLUSTER_LEASE_SECONDS: Final = 10.0
"""How long a cluster owns its Redis after the last of its frontends went silent."""
FRONTEND_LEASE_SECONDS: Final = 5.0
"""How long a query frontend that said nothing to Redis is taken to live, and its replicas with it."""
APPLY_SECONDS: Final = 0.5
"""How long the management frontend waits for the query frontends to follow a change."""

# --- process exit codes that a supervisor or a user reads ---
EXIT_USAGE: Final = 2
EXIT_MODEL_NOT_LOADED: Final = 3
EXIT_ADDRESS_IN_USE: Final = 4
EXIT_REDIS_TAKEN: Final = 5
EXIT_REDIS_REFUSES: Final = 6

LOG_FORMAT: Final = "%(asctime)s %(levelname)-8s [%(filename)s:%(lineno)d] %(message)s"
LOG_DATE_FORMAT: Final = "%y-%m-%d:%H:%M:%S"
