"""DockerContainerManager: a Clipper cluster of containers on one Docker engine."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipper_admin import container_manager as labels
from clipper_admin import external_redis
from clipper_admin import workers as frontend_workers
from clipper_admin.arguments import check_redis_ip
from clipper_admin.container_manager import (
    ContainerManager,
    ModelVersions,
    ReplicaFailure,
    create_model_container_label,
)
from clipper_admin.docker import containers, inspection, metric_file, starting
from clipper_admin.docker.containers import Cluster
from clipper_admin.docker.engine import Engine, NameTaken, in_parallel, translated
from clipper_admin.docker.image_builder import ImageBuilder
from clipper_admin.docker.inspection import RunningCluster
from clipper_admin.docker.replicas import ContainerReplicas
from clipper_admin.docker.starting import Plan
from clipper_admin.files import explained_logs
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.older_calls import check_manager_call, check_port
from clipper_common import constants
from clipper_common.errors import ClipperException, UnconnectedException


class DockerContainerManager(ContainerManager):
    """Runs Clipper as containers on a Docker engine: the one that the command ``docker`` speaks to.

    The cluster outlives the interpreter that started it: ``connect()`` finds it again from another. Docker restarts
    containers that crash, also after a reboot, but not those that ``docker stop`` or ``docker kill`` ended.

    A port of the host that is taken is replaced by a free one; ``get_query_addr()`` and similar methods return the
    address in use.

    Parameters
    ----------
    cluster_name : str
        The name of the cluster. Clusters with different names can run at the same time, also on one network.
    docker_ip_address : str
        The address at which the ports that Docker publishes can be reached from here.
    use_centralized_log : bool
        Whether the logs of the containers are also sent to Fluentd, by Docker's log driver for it.
    fluentd_port : int
        The host's port for the cluster's own Fluentd.
    clipper_query_port : int
        The host's port of the query frontend for prediction requests.
    clipper_management_port : int
        The host's port of the management frontend, which ``ClipperConnection`` uses.
    clipper_rpc_port : int
        The host's port for model containers that run elsewhere; those of this cluster do not use it.
    redis_ip : str, optional
        The host of a Redis to use, as containers reach it. If it is not given, the cluster gets a Redis of its own,
        which cannot be reached from outside its network.
    redis_port : int
        The port of the Redis at `redis_ip`.
    prometheus_port : int
        The host's port of Prometheus.
    docker_network : str
        The network of the containers, which is created if it does not exist, and removed again by ``stop_all()``.
    extra_container_kwargs : dict, optional
        Further arguments of docker's ``containers.run`` for each container. ``labels`` and ``environment`` are added
        to those of Clipper.
    fluentd_address : str, optional
        ``host:port`` of a Fluentd to use, as the Docker engine reaches it, instead of one of the cluster's own.
    """

    def __init__(
        self,
        cluster_name: str = "default-cluster",
        docker_ip_address: str = "localhost",
        use_centralized_log: bool = False,
        fluentd_port: int = constants.FLUENTD_PORT,
        clipper_query_port: int = constants.QUERY_PORT,
        clipper_management_port: int = constants.MANAGEMENT_PORT,
        clipper_rpc_port: int = constants.RPC_PORT,
        redis_ip: str | None = None,
        redis_port: int = constants.REDIS_PORT,
        prometheus_port: int = constants.PROMETHEUS_PORT,
        docker_network: str = "clipper_network",
        extra_container_kwargs: Mapping[str, Any] | None = None,
        fluentd_address: str | None = None,
    ) -> None:
        check_manager_call(
            "DockerContainerManager",
            "docker_ip_address",
            cluster_name,
            {"docker_ip_address": docker_ip_address, "redis_ip": redis_ip, "docker_network": docker_network},
        )
        redis_ip = check_redis_ip(redis_ip)
        containers.check_cluster_name(cluster_name)
        containers.check_network(docker_network)
        containers.check_extra_arguments(extra_container_kwargs or {})
        super().__init__(cluster_name)
        self.docker_ip_address = docker_ip_address
        self._cluster = Cluster(
            name=cluster_name,
            network=docker_network,
            redis_ip=redis_ip or containers.redis_name(cluster_name),
            redis_port=check_port("redis_port", redis_port) if redis_ip else constants.REDIS_PORT,
            extra=dict(extra_container_kwargs or {}),
        )
        self._has_own_redis = not redis_ip
        self._fluentd = (fluentd_address or int(fluentd_port)) if use_centralized_log else None
        self._ports = {
            "query_port": clipper_query_port,
            "management_port": clipper_management_port,
            "rpc_port": clipper_rpc_port,
            "prometheus_port": prometheus_port,
        }
        self._engine = Engine(self.logger)
        self._replicas = ContainerReplicas(self._engine, cluster_name)
        self._state: RunningCluster | None = None

    # --- start ---

    def start_clipper(self, options: FrontendOptions) -> None:
        """Start the containers and connect to them; images that this machine lacks are pulled first."""
        plan = Plan(self._cluster, self._has_own_redis, self._fluentd, options, **self._ports)
        self._refuse_existing()
        if not self._has_own_redis:
            external_redis.check_for_containers(self._cluster.redis_ip, self._cluster.redis_port)
        in_parallel(self._engine.ensure_image, plan.images)
        self._start(plan)
        self.logger.info("Clipper listens on %s", self.get_query_addr())

    def _start(self, plan: Plan) -> None:
        self._engine.ensure_network(self._cluster.network)
        try:
            exporter = starting.claim(self._engine, plan)
        except NameTaken:
            raise self._already_exists() from None
        try:
            if self._has_own_redis:
                self.logger.info("Starting managed Redis instance in Docker")
            starting.start(self._engine, plan)
            with translated(f"start the container '{exporter.name}'"):
                exporter.start()
            self.connect()
            starting.watch(self._engine, self.cluster_name, self.get_admin_addr(), self.get_query_addr())
        except BaseException:
            self.stop_all(graceful=False)
            raise

    def _refuse_existing(self) -> None:
        found = self._all()
        if any(container.status not in ("exited", "dead") for container in found):
            raise self._already_exists()
        self._engine.remove(found)

    def _already_exists(self) -> ClipperException:
        return ClipperException(
            f"Cluster {self.cluster_name} cannot be started because it already exists. Please use "
            "ClipperConnection.connect() to connect to it, or stop_all() to stop it."
        )

    # --- connect ---

    def connect(self) -> None:
        """Find the containers of the cluster, and read its ports, its network and its Redis from them."""
        found = self._all()
        frontends = [found_ for found_ in found if labels.CLIPPER_QUERY_FRONTEND_CONTAINER_LABEL in found_.labels]
        if not frontends:
            raise ClipperException(self._no_cluster(bool(found)))
        all_labels = {name: value for container in found for name, value in container.labels.items()}
        self._state = inspection.running_cluster(self._cluster, all_labels, frontends[0].attrs)

    def _no_cluster(self, has_rest: bool) -> str:
        if has_rest:
            return (
                f"Cluster '{self.cluster_name}' has no query frontend any more. stop_all() removes the rest of it, "
                "start_clipper() starts anew."
            )
        others = {container.labels[labels.CLIPPER_DOCKER_LABEL] for container in self._find()}
        return f"No cluster named '{self.cluster_name}' runs on this Docker engine. " + (
            f"Those that do: {', '.join(sorted(others))}." if others else "Start one with start_clipper()."
        )

    @property
    def _connected(self) -> RunningCluster:
        if self._state is None:
            raise UnconnectedException()
        return self._state

    def _find(self, *more: str) -> list[Any]:
        return self._engine.find(labels.CLIPPER_DOCKER_LABEL, *more)

    def _all(self) -> list[Any]:
        return self._find(f"{labels.CLIPPER_DOCKER_LABEL}={self.cluster_name}")

    # --- attributes that this manager has in Clipper 0.4 ---

    @property
    def clipper_query_port(self) -> int:
        """The host's port of the query frontend; before the cluster runs, the port that the constructor was given."""
        return self._state.query_port if self._state else self._ports["query_port"]

    @property
    def clipper_management_port(self) -> int:
        """The host's port of the management frontend."""
        return self._state.management_port if self._state else self._ports["management_port"]

    @property
    def clipper_rpc_port(self) -> int:
        """The host's port for model containers that run elsewhere."""
        return self._state.rpc_port if self._state else self._ports["rpc_port"]

    @property
    def prometheus_port(self) -> int:
        """The host's port of Prometheus."""
        return self._state.metric_port if self._state else self._ports["prometheus_port"]

    @property
    def redis_ip(self) -> str:
        """The host of Redis, as containers reach it."""
        return self._present.redis_ip

    @property
    def redis_port(self) -> int:
        """The port of Redis, as containers reach it."""
        return self._present.redis_port

    @property
    def external_redis(self) -> bool:
        """Whether Redis is not the cluster's own."""
        return not self._has_own_redis

    @property
    def docker_network(self) -> str:
        """The network of the containers."""
        return self._present.network

    @property
    def docker_client(self) -> Any:
        """A ``docker.DockerClient`` for the engine that the cluster runs on."""
        return self._engine.client

    @property
    def public_hostname(self) -> str:
        """`docker_ip_address` under its old name."""
        return self.docker_ip_address

    @property
    def centralize_log(self) -> bool:
        """Whether containers send what they write to Fluentd."""
        if self._state is None:
            return self._fluentd is not None
        return (self._state.cluster.log_config or {}).get("type") == "fluentd"

    @property
    def log_config(self) -> Mapping[str, Any] | None:
        """The log driver of a running cluster's containers and its options; None for the engine's default."""
        return self._present.log_config

    @property
    def logging_system_instance(self) -> None:
        """Return nothing: Fluentd is a container like the others here."""

    @property
    def _present(self) -> Cluster:
        return self._state.cluster if self._state else self._cluster

    # --- frontends ---

    def get_num_frontend_replicas(self) -> int:
        """Return the number of query frontends: the number of all workers, divided by that of one frontend."""
        state = self._connected
        total = frontend_workers.wanted_number(self.get_admin_addr())
        return math.ceil((state.total_workers if total is None else total) / state.workers)

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop workers, until there are as many as this number of query frontends has."""
        total = frontend_workers.total(num_frontend_replicas, self._connected.workers)
        frontend_workers.change(self.get_admin_addr(), self.get_query_addr(), total)

    # --- models ---

    def build_model(self, wanted: ImageSpec) -> None:
        """Build an image, and push it if there is a registry to push it to."""
        ImageBuilder(self._engine, self.logger).make(wanted)

    def remove_model(self, image: str) -> None:
        """Remove the image from this engine."""
        ImageBuilder(self._engine, self.logger).remove(image)

    def deploy_model(self, model: ModelSpec) -> None:
        """Start replicas of a model version that has none."""
        self._scale(model)

    def get_num_replicas(self, name: str, version: str) -> int:
        """Return the number of replicas that Docker runs, or is about to restart."""
        _ = self._connected
        return len(self._replicas.wanted_containers(name, version))

    def set_num_replicas(self, model: ModelSpec) -> None:
        """Start or stop replicas until there are `model.num_replicas`. Those to be stopped have ended on return."""
        self._scale(self._replicas.as_deployed(model))

    def _scale(self, model: ModelSpec) -> None:
        if model.num_replicas < 0:
            raise ClipperException(f"num_replicas is {model.num_replicas}: it must not be negative")
        self._replicas.scale(self._connected.cluster, model)

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """The replicas that ended since they were asked for, also if they run again, until they are stable."""
        _ = self._connected
        return self._replicas.failures(name, version)

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        """The last lines in the logs of a model version's replicas that should run."""
        _ = self._connected
        return self._replicas.last_lines(name, version)

    # --- logs ---

    def get_logs(self, logging_dir: str) -> list[str]:
        """Write the log of each container, running or stopped, into a folder."""
        _ = self._connected
        folder = Path(logging_dir).expanduser().absolute()
        with explained_logs(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return in_parallel(lambda container: self._write_log(container, folder), self._all())

    def _write_log(self, container: Any, folder: Path) -> str:
        path = folder / f"{container.name}-{container.short_id}.log"
        with explained_logs(folder), path.open("wb") as file, translated(f"read the log of '{container.name}'"):
            for chunk in container.logs(stream=True, follow=False):
                file.write(chunk)
        return str(path)

    # --- stop ---

    def stop_models(self, models: ModelVersions) -> None:
        """Stop all replicas of these model versions, all at the same time."""
        _ = self._connected
        unwanted = {
            create_model_container_label(name, str(version))
            for name, versions in models.items()
            for version in versions
        }
        self._replicas.stop(lambda label: label in unwanted)

    def stop_all_model_containers(self) -> None:
        """Stop the replicas of all models, all at the same time."""
        if self._state is None:
            self.connect()
        self._replicas.stop(lambda label: True)

    def stop_all(self, graceful: bool = True) -> None:
        """Stop and remove all containers of the cluster with their volumes, and the network if Clipper made it."""
        found = self._all()
        if graceful:
            self._stop_in_order(found)
        self._engine.remove(found)
        for path in {container.labels.get(labels.CLIPPER_METRIC_CONFIG_LABEL) for container in found} - {None}:
            metric_file.remove(path)
        networks = {str(container.attrs["HostConfig"]["NetworkMode"]) for container in found}
        for network in {*networks, self._cluster.network}:
            self._engine.remove_network_if_unused(network)
        self._state = None

    def _stop_in_order(self, found: Sequence[Any]) -> None:
        # Replicas stop first, so that their batches are still answered; Fluentd last, because it gets the others' logs.
        def rank(container: Any) -> int:
            if labels.CLIPPER_MODEL_CONTAINER_LABEL in container.labels:
                return 0
            return 2 if labels.CLIPPER_FLUENTD_PORT_LABEL in container.labels else 1

        for wanted in range(3):
            self._engine.stop(
                [container for container in found if rank(container) == wanted and container.status != "exited"]
            )

    # --- addresses ---

    def get_admin_addr(self) -> str:
        """``host:port`` of the management frontend."""
        return f"{self.docker_ip_address}:{self._connected.management_port}"

    def get_query_addr(self) -> str:
        """``host:port`` of the query frontend."""
        return f"{self.docker_ip_address}:{self._connected.query_port}"

    def get_metric_addr(self) -> str:
        """``host:port`` of Prometheus, which has the metrics of all programs."""
        return f"{self.docker_ip_address}:{self._connected.metric_port}"
