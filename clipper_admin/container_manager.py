"""The interface of container managers, which start and stop the programs of a cluster."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.resources import ALL_GPUS as ALL_GPUS
from clipper_admin.resources import UNLIMITED as UNLIMITED
from clipper_admin.resources import Resources as Resources
from clipper_common import constants
from clipper_common.errors import ClipperException

CLIPPER_QUERY_PORT = constants.QUERY_PORT
CLIPPER_MANAGEMENT_PORT = constants.MANAGEMENT_PORT
CLIPPER_RPC_PORT = constants.RPC_PORT
CLIPPER_METRIC_PORT = constants.METRIC_PORT
CLIPPER_REDIS_PORT = constants.REDIS_PORT
CLIPPER_FLUENTD_PORT = constants.FLUENTD_PORT

CLIPPER_DOCKER_LABEL = "ai.clipper.container.label"
CLIPPER_NAME_LABEL = "ai.clipper.name"
CLIPPER_MODEL_CONTAINER_LABEL = "ai.clipper.model_container.label"
CLIPPER_QUERY_FRONTEND_CONTAINER_LABEL = "ai.clipper.query_frontend.label"
CLIPPER_MGMT_FRONTEND_CONTAINER_LABEL = "ai.clipper.management_frontend.label"
CLIPPER_REDIS_IP_LABEL = "ai.clipper.redis.ip"
CLIPPER_REDIS_PORT_LABEL = "ai.clipper.redis.port"
CLIPPER_QUERY_PORT_LABEL = "ai.clipper.query_frontend.query.port"
CLIPPER_RPC_PORT_LABEL = "ai.clipper.query_frontend.rpc.port"
CLIPPER_MANAGEMENT_PORT_LABEL = "ai.clipper.management.port"
CLIPPER_METRIC_PORT_LABEL = "ai.clipper.metric.port"
CLIPPER_FLUENTD_PORT_LABEL = "ai.clipper.fluentd.port"
CLIPPER_METRIC_CONFIG_LABEL = "ai.clipper.metric.config"
CLIPPER_FLUENTD_CONFIG_LABEL = "ai.clipper.fluentd.config"

CONTAINERLESS_MODEL_IMAGE = "NO_CONTAINER"
"""The image of a model version whose containers Clipper does not manage."""

# Names of Clipper 0.4, for scripts that import them.
CLIPPER_INTERNAL_QUERY_PORT = CLIPPER_QUERY_PORT
CLIPPER_INTERNAL_MANAGEMENT_PORT = CLIPPER_MANAGEMENT_PORT
CLIPPER_INTERNAL_RPC_PORT = CLIPPER_RPC_PORT
CLIPPER_INTERNAL_METRIC_PORT = CLIPPER_METRIC_PORT
CLIPPER_INTERNAL_REDIS_PORT = CLIPPER_REDIS_PORT
CLIPPER_INTERNAL_FLUENTD_PORT = CLIPPER_FLUENTD_PORT
CLIPPER_DOCKER_PORT_LABELS = {
    "redis": CLIPPER_REDIS_PORT_LABEL,
    "query_rest": CLIPPER_QUERY_PORT_LABEL,
    "query_rpc": CLIPPER_RPC_PORT_LABEL,
    "management": CLIPPER_MANAGEMENT_PORT_LABEL,
    "metric": CLIPPER_METRIC_PORT_LABEL,
    "fluentd": CLIPPER_FLUENTD_PORT_LABEL,
}

ModelVersions = Mapping[str, Iterable[str]]
"""Model names, each with some of its versions."""


def create_model_container_label(name: str, version: str) -> str:
    """The label that the containers of a model version carry."""
    return f"{name}_{version}"


def parse_model_container_label(label: str) -> tuple[str, str]:
    """The model name and version in `label`. Raises ClipperException when it holds none."""
    name, separator, version = label.partition("_")
    if not (name and separator and version) or "_" in version:
        raise ClipperException(f"'{label}' is no model container label: it should be <name>_<version>")
    return name, version


class Unreachable(ClipperException):
    """The Docker engine or API server does not answer now. It may do so later."""


class AlreadyExists(ClipperException):
    """Raised when another process created the object meanwhile, so it must not be removed when our creation fails."""


class ClusterAdapter(logging.LoggerAdapter[logging.Logger]):
    """Puts the name of the cluster in front of each message."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Prefix `msg` with the cluster's identifier."""
        name = (self.extra or {}).get("cluster_name", "")
        return f"[{name}] {msg}", kwargs


@dataclass(frozen=True)
class ReplicaFailure:
    """The death of a replica, for the user who waits for it."""

    replica: str
    """Name of the process, container or pod."""
    reason: str
    """The reason, such as ``exited with code 3``."""
    log_tail: str
    """The last lines of its log."""


class ContainerManager(ABC):
    """Starts, finds, scales, reads the logs of and stops the programs of one Clipper cluster.

    ``ClipperConnection`` uses a manager only through this class. A method that fails raises ``ClipperException`` with a
    text that says what to do next. Every method has a time limit. All methods except ``start_clipper``, ``connect``,
    ``build_model`` and ``stop_all`` need a connected manager; the two ``stop_all...`` methods connect if necessary.

    Parameters
    ----------
    cluster_name : str
        The name of the cluster. Clusters with different names can run at the same time.
    cluster_identifier : str, optional
        A unique name of the cluster, if its name alone is not unique.

    Attributes
    ----------
    cluster_name : str
        As given.
    cluster_identifier : str
        The prefix of the names of images that are built for this cluster, and of log messages.
    logger : logging.LoggerAdapter
        The logger of the manager.
    """

    def __init__(self, cluster_name: str, cluster_identifier: str | None = None) -> None:
        self.cluster_name = cluster_name
        self.cluster_identifier = cluster_identifier or cluster_name
        self.logger = ClusterAdapter(logging.getLogger("clipper_admin"), {"cluster_name": self.cluster_identifier})

    @abstractmethod
    def start_clipper(self, options: FrontendOptions) -> None:
        """Start Redis (unless an external one was named), the frontends and the metrics, and connect to them.

        All query frontends are behind one address. Returns when the programs have been started, before they answer.
        Raises ClipperException, and leaves nothing running, when the cluster exists already or a program cannot be
        started or dies at once.
        """

    @abstractmethod
    def get_num_frontend_replicas(self) -> int:
        """Return the number of query frontends that the cluster should have."""

    @abstractmethod
    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop query frontends until exactly `num_frontend_replicas` answer, without failing a query.

        Idempotent. On return, new query frontends answer queries. Those to be stopped finish their requests first,
        perhaps after the return. Raises ClipperException when a new one does not start.
        """

    @abstractmethod
    def connect(self) -> None:
        """Find a running cluster of this name, which another process may have started.

        Idempotent. Raises ClipperException when there is none.
        """

    @abstractmethod
    def build_model(self, wanted: ImageSpec) -> None:
        """Package the folder `wanted.model_data_path` with its base image and extra pip packages.

        This needs no running cluster. An existing image of this name is replaced. With a registry, the image is pushed.
        Raises ClipperException with the output of the failed step, and leaves no incomplete image.
        """

    @abstractmethod
    def remove_model(self, image: str) -> None:
        """Remove an image that `build_model` made and that could not be deployed. It stays in the registry.

        Idempotent. A failure is only logged, so that it does not hide the one of the deployment.
        """

    @abstractmethod
    def deploy_model(self, model: ModelSpec) -> None:
        """Start `model.num_replicas` replicas of a model version that has none.

        Returns when they have been started, before they serve. For `model.load_seconds` the manager does not restart a
        replica for not serving yet. Replicas that `set_num_replicas` adds later get the same `model.resources`. A
        manager that cannot limit resources logs a warning. Raises ClipperException when the image cannot be found, and
        `AlreadyExists` if somebody else deploys the same version.
        """

    @abstractmethod
    def get_num_replicas(self, name: str, version: str) -> int:
        """Return the number of replicas that the model version should have, 0 if it is unknown."""

    @abstractmethod
    def set_num_replicas(self, model: ModelSpec) -> None:
        """Start or stop replicas until exactly `model.num_replicas` of the model version run.

        New replicas get the resources with which the version was deployed; `model.resources` is ignored.
        Idempotent. Replicas to be stopped finish their batch first; those that are started may not serve yet on
        return. Raises ClipperException when the image cannot be found.
        """

    @abstractmethod
    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """Return the replicas of a model version that died, or could not start, since they were requested.

        Raises `Unreachable` when this cannot be found out now.
        """

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        """Return the last lines of a model version's replicas by their names, the newest replica first.

        Raises ClipperException when the logs cannot be read now.
        """
        return {}

    @abstractmethod
    def get_logs(self, logging_dir: str) -> list[str]:
        """Write the log of each program of the cluster, stopped ones too, into a folder, and return the paths."""

    @abstractmethod
    def stop_models(self, models: ModelVersions) -> None:
        """Stop all replicas of these model versions. They finish their batch first. Unknown ones are skipped."""

    @abstractmethod
    def stop_all_model_containers(self) -> None:
        """Stop the replicas of all models; works when the frontends are dead."""

    @abstractmethod
    def stop_all(self, graceful: bool = True) -> None:
        """Stop all programs of the cluster, and remove all its objects and files.

        Idempotent. It works on a damaged cluster, and on one that another process started.

        Parameters
        ----------
        graceful : bool, optional
            Whether programs finish their requests and batches first, which is the default; otherwise they are killed.
        """

    @abstractmethod
    def get_admin_addr(self) -> str:
        """Return ``host:port`` of the management frontend."""

    @abstractmethod
    def get_query_addr(self) -> str:
        """Return ``host:port`` of the query frontend."""

    @abstractmethod
    def get_metric_addr(self) -> str:
        """Return ``host:port`` of the metrics."""
