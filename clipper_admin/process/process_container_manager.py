"""ProcessContainerManager: a Clipper cluster of local processes, without Docker."""

import functools
import math
import os
import re
import shutil
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from clipper_admin import workers as frontend_workers
from clipper_admin.arguments import check_redis_ip, check_whole_number
from clipper_admin.container_manager import ContainerManager, ModelVersions, ReplicaFailure
from clipper_admin.files import explained_logs
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.process import bundles, locks, processes, starting, supervisor_client
from clipper_admin.process.ports import LOOPBACK
from clipper_admin.process.replicas import STOP_SECONDS, ProcessReplicas
from clipper_admin.process.state import (
    Cluster,
    ClusterFiles,
    all_clusters,
    home,
    home_lock,
    in_home,
    remove_empty_home,
)
from clipper_admin.resources import UNLIMITED
from clipper_common import constants
from clipper_common.errors import ClipperException, UnconnectedException

_LOCK_SECONDS: Final = 60.0
_START_ATTEMPTS: Final = 3
_CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _explains_files(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a method say what is wrong with the folder in which clusters keep their files."""

    @functools.wraps(method)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with in_home():
            return method(*args, **kwargs)

    return called


class ProcessContainerManager(ContainerManager):
    """Runs Clipper as processes on this machine. It listens on 127.0.0.1 only.

    The cluster outlives the interpreter that started it: ``connect()`` finds it again from another. A supervisor
    restarts programs that crash. All files are in ``~/.clipper`` (or ``$CLIPPER_HOME``) until ``stop_all()``.

    A port that is taken is replaced by a free one; ``get_query_addr()`` and similar methods return the address in use.

    Parameters
    ----------
    cluster_name : str
        The name of the cluster. Clusters with different names can run at the same time.
    clipper_query_port : int
        The port of the query frontend for prediction requests.
    clipper_management_port : int
        The port of the management frontend, which ``ClipperConnection`` uses.
    clipper_rpc_port : int
        The port of the query frontend for model containers.
    redis_ip : str, optional
        The host of a Redis to use. If it is not given, the cluster gets a Redis of its own.
    redis_port : int
        The port of that Redis, or the port for the cluster's own.
    prometheus_port : int
        The port of the metrics of all programs, as Prometheus text.
    """

    def __init__(
        self,
        cluster_name: str = "default-cluster",
        clipper_query_port: int = constants.QUERY_PORT,
        clipper_management_port: int = constants.MANAGEMENT_PORT,
        clipper_rpc_port: int = constants.RPC_PORT,
        redis_ip: str | None = None,
        redis_port: int = constants.REDIS_PORT,
        prometheus_port: int = constants.PROMETHEUS_PORT,
    ) -> None:
        if not isinstance(cluster_name, str) or not _CLUSTER_NAME.fullmatch(cluster_name):
            raise ClipperException(
                f"{cluster_name!r} cannot be the name of a cluster. Use at most 64 letters, digits, '.', '_' and '-', "
                "and none starts with '.'"
            )
        for what, port in (
            ("clipper_query_port", clipper_query_port),
            ("clipper_management_port", clipper_management_port),
            ("clipper_rpc_port", clipper_rpc_port),
            ("redis_port", redis_port),
            ("prometheus_port", prometheus_port),
        ):
            check_whole_number(what, port, least=0, most=65535)
        super().__init__(cluster_name)
        redis_ip = check_redis_ip(redis_ip)
        self._wanted = Cluster(
            id="",
            query_port=clipper_query_port,
            management_port=clipper_management_port,
            rpc_port=clipper_rpc_port,
            metric_port=prometheus_port,
            redis_ip=redis_ip or LOOPBACK,
            redis_port=redis_port,
            has_own_redis=not redis_ip,
        )
        self._files = ClusterFiles(cluster_name)
        self._replicas = ProcessReplicas(self._files)
        self._is_connected = False

    # --- start and connect ---

    @_explains_files
    def start_clipper(self, options: FrontendOptions) -> None:
        """Start the cluster and connect to it. Names of images are ignored."""
        frontend_workers.total(options.num_frontend_replicas, options.workers)
        self._wanted = replace(
            self._wanted, workers=options.workers, num_frontend_replicas=options.num_frontend_replicas
        )
        with locks.locked(home_lock(), _LOCK_SECONDS):  # so that two starts do not choose the same port
            self._refuse_existing()
            self._files.remove(keep_images=True)
            self._start_on_free_ports(options)
        self._is_connected = True
        self.logger.info("Clipper listens on %s", self.get_query_addr())

    def _start_on_free_ports(self, options: FrontendOptions) -> None:
        """Start the programs, and again with other ports if another program took a port after it was found free."""
        cluster = starting.choose_ports(self._wanted, self.logger)
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            try:
                starting.start(self._files, replace(cluster, id=f"{self.cluster_name}/{uuid.uuid4().hex}"), options)
                return
            except BaseException as error:
                self._kill_and_remove()
                if not (attempts_left and isinstance(error, ClipperException)):
                    raise
                tried, cluster = cluster, starting.choose_ports(cluster, self.logger)
                if cluster == tried:
                    raise

    def _refuse_existing(self) -> None:
        if self._is_alive():
            raise ClipperException(
                f"Cluster {self.cluster_name} cannot be started because it already exists. Please use "
                "ClipperConnection.connect() to connect to it, or stop_all() to stop it."
            )

    def _is_alive(self) -> bool:
        if supervisor_client.is_supervised(self._files) or processes.marked(self._files.marks()):
            return True
        return any(status.identity.is_alive() for status in self._files.statuses().values())

    @_explains_files
    def connect(self) -> None:
        """Find the running cluster. A supervisor that was killed is replaced."""
        is_recorded = self._files.read_cluster() is not None
        if not is_recorded and self._is_alive():
            raise ClipperException(
                f"The record of cluster {self.cluster_name} in {home()} is damaged. stop_all() ends what runs of it."
            )
        if not is_recorded or not self._is_alive():
            others = ", ".join(name for name in all_clusters() if name != self.cluster_name)
            raise ClipperException(
                f"No cluster named '{self.cluster_name}' runs here. "
                + (f"Those that are recorded in {home()}: {others}." if others else "Start one with start_clipper().")
            )
        supervisor_client.ensure(self._files)
        self._is_connected = True

    def _cluster(self) -> Cluster:
        if not self._is_connected:
            raise UnconnectedException()
        # Read it each time, because another interpreter may have stopped the cluster and started it again.
        cluster = self._files.read_cluster()
        if cluster is None:
            raise ClipperException(f"Cluster {self.cluster_name} is gone: its record in {home()} cannot be read")
        return cluster

    # --- attributes that Clipper 0.4's managers have, and the ports of a running cluster ---

    @property
    def clipper_query_port(self) -> int:
        """The port for prediction requests; before the cluster runs, the port that the constructor was given."""
        return self._present().query_port

    @property
    def clipper_management_port(self) -> int:
        """The port of the management frontend."""
        return self._present().management_port

    @property
    def clipper_rpc_port(self) -> int:
        """The port of the query frontend for model containers."""
        return self._present().rpc_port

    @property
    def prometheus_port(self) -> int:
        """The port of the metrics of all programs."""
        return self._present().metric_port

    @property
    def redis_ip(self) -> str:
        """The host of Redis."""
        return self._present().redis_ip

    @property
    def redis_port(self) -> int:
        """The port of Redis."""
        return self._present().redis_port

    def _present(self) -> Cluster:
        return self._cluster() if self._is_connected else self._wanted

    # --- frontends ---

    def get_num_frontend_replicas(self) -> int:
        """Return the number of query frontends: the number of all workers, divided by that of one frontend."""
        cluster = self._cluster()
        total = frontend_workers.wanted_number(self.get_admin_addr())
        return cluster.num_frontend_replicas if total is None else math.ceil(total / cluster.workers)

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop workers, until there are as many as this number of query frontends has."""
        total = frontend_workers.total(num_frontend_replicas, self._cluster().workers)
        frontend_workers.change(self.get_admin_addr(), self.get_query_addr(), total)

    # --- models ---

    @_explains_files
    def build_model(self, wanted: ImageSpec) -> None:
        """Copy the model folder, and install the packages in front of those of the running Python.

        A registry is ignored: nothing is pushed.
        """
        bundles.build(self._files, wanted.image, wanted.model_data_path, wanted.base_image, wanted.pkgs_to_install)

    @_explains_files
    def remove_model(self, image: str) -> None:
        """Remove the copy of the model folder."""
        bundles.remove(self._files, image)

    def deploy_model(self, model: ModelSpec) -> None:
        """Start replicas of a model version that has none. Their resources are not limited."""
        if model.resources != UNLIMITED:
            self.logger.warning("ProcessContainerManager cannot limit processes: resources and gpus have no effect")
        self.set_num_replicas(model)

    def get_num_replicas(self, name: str, version: str) -> int:
        """Return the number of replicas that the model version should have."""
        self._cluster()
        return len(self._files.replicas(name, version))

    @_explains_files
    def set_num_replicas(self, model: ModelSpec) -> None:
        """Start or stop replicas until there are `model.num_replicas`. Those to be stopped are gone on return."""
        if model.num_replicas < 0:
            raise ClipperException(f"num_replicas is {model.num_replicas}: it must not be negative")
        self._replicas.scale(self._cluster(), model)

    @_explains_files
    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """The replicas that ended since they were asked for, also if they run again, until they are stable."""
        self._cluster()
        return self._replicas.failures(name, version)

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        """The last lines in the logs of a model version's replicas."""
        self._cluster()
        return self._replicas.last_lines(name, version)

    # --- logs ---

    def get_logs(self, logging_dir: str) -> list[str]:
        """Copy the log of each program, running or stopped, into a folder."""
        self._cluster()
        folder = Path(logging_dir).expanduser().absolute()
        with explained_logs(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return [str(shutil.copy(log, folder)) for log in self._files.logs()]

    # --- stop ---

    @_explains_files
    def stop_models(self, models: ModelVersions) -> None:
        """Stop all replicas of these model versions, and wait until they are gone."""
        self._cluster()
        unwanted = {(name, str(version)) for name, versions in models.items() for version in versions}
        self._replicas.stop(lambda program: (program.model_name, program.model_version) in unwanted)

    @_explains_files
    def stop_all_model_containers(self) -> None:
        """Stop the replicas of all models, and wait until they are gone."""
        if not self._is_connected:
            self.connect()
        self._cluster()
        self._replicas.stop(lambda program: bool(program.model_name))

    @_explains_files
    def stop_all(self, graceful: bool = True) -> None:
        """Stop everything and remove all files of the cluster, whatever state it is in."""
        if graceful and self._is_alive():
            try:
                supervisor_client.stop(self._files, STOP_SECONDS)
            except (ClipperException, OSError) as error:
                self.logger.warning("The supervisor cannot stop the programs (%s): they are killed", error)
        self._kill_and_remove()
        self._is_connected = False
        if home().is_dir() and (lock := locks.try_lock(home_lock())) is not None:
            remove_empty_home()
            os.close(lock)

    def _kill_and_remove(self) -> None:
        processes.kill_marked(self._files.marks())
        for status in self._files.statuses().values():
            status.identity.send(signal.SIGKILL)  # an old Redis, which hides its marks
        self._files.remove()

    # --- addresses ---

    def get_admin_addr(self) -> str:
        """``host:port`` of the management frontend."""
        return f"{LOOPBACK}:{self._cluster().management_port}"

    def get_query_addr(self) -> str:
        """``host:port`` of the query frontend."""
        return f"{LOOPBACK}:{self._cluster().query_port}"

    def get_metric_addr(self) -> str:
        """``host:port`` of the metrics of all programs, as Prometheus text."""
        return f"{LOOPBACK}:{self._cluster().metric_port}"
