"""KubernetesContainerManager: a Clipper cluster of pods on a Kubernetes cluster."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipper_admin import external_redis, images
from clipper_admin.arguments import check_redis_ip, check_text, check_texts
from clipper_admin.container_manager import (
    AlreadyExists,
    ContainerManager,
    ModelVersions,
    ReplicaFailure,
)
from clipper_admin.docker.engine import Engine
from clipper_admin.docker.image_builder import ImageBuilder
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import (
    cluster_annotation,
    manifests,
    names,
    namespaces,
    removal,
    status,
    waiting,
)
from clipper_admin.kubernetes.access import Access, RunningCluster
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.logs import Logs
from clipper_admin.kubernetes.manifest_files import ManifestFiles
from clipper_admin.kubernetes.replicas import PodReplicas, scaled
from clipper_admin.kubernetes.spec import (
    Cluster,
    Images,
    Ingress,
    RedisVolume,
    check_node_selector,
    check_proxy,
    check_resources,
    check_service_types,
    check_tolerations,
)
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.older_calls import check_manager_call, check_port
from clipper_admin.rollback import rollback_on_failure
from clipper_common import constants
from clipper_common.errors import ClipperException, UnconnectedException


class KubernetesContainerManager(ManifestFiles, ContainerManager):
    """Runs Clipper as Deployments on a Kubernetes cluster: the one that the command ``kubectl`` speaks to.

    Credentials come from the file that ``KUBECONFIG`` names, from ``~/.kube/config``, or, in a pod, from its service
    account. The cluster outlives the interpreter that started it: ``connect()`` finds it again from another, with the
    arguments with which it was started.

    Parameters
    ----------
    cluster_name : str
        The name of the cluster. Clusters with different names can run at the same time, also in one namespace.
    kubernetes_proxy_addr : str, optional
        ``host:port`` of a ``kubectl proxy``, through which all services are then reached.
    redis_ip : str, optional
        The host of a Redis to use, as pods reach it. If it is not given, the cluster gets a Redis of its own.
    redis_port : int
        The port of Redis.
    useInternalIP : bool
        Whether node ports are reached at the internal address of a node if none has an external one.
    namespace : str
        The namespace of all objects of the cluster.
    service_types : dict, optional
        ``NodePort``, ``LoadBalancer`` or ``ClusterIP`` for some of ``redis``, ``management``, ``query``,
        ``query-rpc`` and ``metric``. By default Redis is a ``ClusterIP`` and the others are ``NodePort``.
    create_namespace_if_not_exists : bool
        Whether the namespace is created if it does not exist. ``stop_all()`` removes it again once nothing else is in
        it.
    image_pull_secrets : list of str, optional
        Secrets of the namespace with which nodes pull images.
    node_selector : dict, optional
        Labels of the nodes that pods may run on.
    tolerations : list of dict, optional
        Tolerations of all pods, in Kubernetes' notation.
    ingress : Ingress, optional
        A host name by which the query frontends can be reached as well, through the ingress controller.
    redis_volume : RedisVolume, optional
        A volume for the data of the cluster's own Redis, which outlives its pod and is kept until ``stop_all()``.
    resources : dict, optional
        Requests and limits, in Kubernetes' notation, for some of ``redis``, ``mgmt-frontend``, ``query-frontend``,
        ``frontend-exporter``, ``metrics`` and ``model``, instead of the usual ones.
    network_policies : bool
        Whether network policies restrict which pods may connect to Clipper's pods.
    isolate_models : bool
        Whether models may connect only to the query frontends, where the network enforces network policies.
    restrict_models : bool
        Whether models run without privileges, as a user that is not root. With False they run as their images say,
        which images of Clipper 0.4 need.
    redis_image, prometheus_image : str
        Images to run instead of the usual ones, such as copies in a registry that your nodes can reach.
    """

    def __init__(
        self,
        cluster_name: str = "default-cluster",
        kubernetes_proxy_addr: str | None = None,
        redis_ip: str | None = None,
        redis_port: int = constants.REDIS_PORT,
        useInternalIP: bool = False,
        namespace: str = "default",
        service_types: Mapping[str, str] | None = None,
        create_namespace_if_not_exists: bool = False,
        *,
        image_pull_secrets: Sequence[str] = (),
        node_selector: Mapping[str, str] | None = None,
        tolerations: Sequence[Mapping[str, Any]] = (),
        ingress: Ingress | None = None,
        redis_volume: RedisVolume | None = None,
        resources: Mapping[str, Mapping[str, Any]] | None = None,
        network_policies: bool = True,
        isolate_models: bool = False,
        restrict_models: bool = True,
        redis_image: str = images.REDIS_IMAGE,
        prometheus_image: str = images.PROMETHEUS_IMAGE,
    ) -> None:
        check_manager_call(
            "KubernetesContainerManager",
            "kubernetes_proxy_addr",
            cluster_name,
            {"kubernetes_proxy_addr": kubernetes_proxy_addr, "redis_ip": redis_ip},
        )
        self._cluster = Cluster(
            name=cluster_name,
            namespace=namespace,
            makes_namespace=create_namespace_if_not_exists,
            redis_ip=check_redis_ip(redis_ip),
            redis_port=check_port("redis_port", redis_port),
            redis_volume=redis_volume,
            service_types=check_service_types(service_types),
            image_pull_secrets=tuple(check_texts("image_pull_secrets", image_pull_secrets)),
            node_selector=check_node_selector(node_selector),
            tolerations=check_tolerations(tolerations),
            ingress=ingress,
            resources=check_resources(resources),
            has_network_policies=network_policies,
            isolates_models=isolate_models,
            restricts_models=restrict_models,
        )
        super().__init__(cluster_name, cluster_name if namespace == "default" else f"{namespace}-{cluster_name}")
        self.namespace = namespace
        self._redis_image = check_text("redis_image", redis_image)
        self._prometheus_image = check_text("prometheus_image", prometheus_image)
        self._labels = names.as_text(names.cluster_selector(cluster_name))
        self._api = Api(namespace)
        proxy = None if kubernetes_proxy_addr is None else check_proxy(kubernetes_proxy_addr)
        self._access = Access(self._api, self._cluster, proxy, bool(useInternalIP))
        self._state: RunningCluster | None = None
        self._logs = Logs(self._api)
        self._replicas = PodReplicas(self._api, cluster_name, self._logs, self.logger)

    # --- start ---

    def start_clipper(self, options: FrontendOptions) -> None:
        """Apply the objects of the cluster, wait until all pods are ready, and connect to them."""
        objects = self._objects(options)
        self._access.check()
        if self._api.list("Deployment", self._labels):
            raise self._already_exists()
        if self._cluster.redis_ip is not None:
            external_redis.check_for_containers(self._cluster.redis_ip, self._cluster.redis_port)
        self._start([object_ for object_ in objects if object_["kind"] != "Namespace"])
        self.logger.info("Clipper listens on %s", self.get_query_addr())

    def _objects(self, options: FrontendOptions) -> list[dict[str, Any]]:
        wanted = Images(
            options.query_frontend_image,
            options.mgmt_frontend_image,
            options.frontend_exporter_image,
            self._redis_image,
            self._prometheus_image,
        )
        return cluster_annotation.recorded(manifests.cluster_objects(self._cluster, options, wanted), self._cluster)

    def _start(self, objects: Sequence[dict[str, Any]]) -> None:
        namespaces.ensure(self._api, self._cluster)
        try:
            self._api.create(objects[0])  # which only one can do
        except AlreadyExists:
            raise self._already_exists() from None
        complaint = "The cluster could not be removed again, which stop_all() does"
        with rollback_on_failure(lambda: self.stop_all(graceful=False), complaint, self.logger):
            for object_ in objects:
                self._api.apply(object_)
            self._wait_until_ready("Pods of Clipper", self._labels, _count_pods(objects))
            waiting.until_reachable(self._api, self._access.balanced(), self._labels, self.logger)
            self.connect()

    def _wait_until_ready(self, what: str, labels: str, wanted: int) -> None:
        waiting.until_pods(self._api, labels, wanted, what, status.is_ready, labels)

    def _already_exists(self) -> ClipperException:
        return ClipperException(
            f"Cluster {self.cluster_name} cannot be started because it already exists in the namespace "
            f"{self._cluster.namespace}. Please use ClipperConnection.connect() to connect to it, or stop_all() to "
            "stop it."
        )

    # --- connect ---

    def connect(self) -> None:
        """Find the cluster, and read how it was started and where its services are."""
        self._state = self._access.find()

    @property
    def _connected(self) -> RunningCluster:
        if self._state is None:
            raise UnconnectedException()
        return self._state

    @property
    def _present(self) -> Cluster:
        return self._state.cluster if self._state else self._cluster

    # --- attributes that this manager has in Clipper 0.4 ---

    @property
    def k8s_namespace(self) -> str:
        """`namespace` under its old name."""
        return self.namespace

    @property
    def redis_ip(self) -> str:
        """The host of Redis, as pods reach it."""
        return self._present.redis_address

    @property
    def redis_port(self) -> int:
        """The port of Redis, as pods reach it."""
        return self._present.redis_port

    @property
    def clipper_query_port(self) -> int:
        """The port in `get_query_addr`."""
        return _port_in(self.get_query_addr())

    @property
    def clipper_management_port(self) -> int:
        """The port in `get_admin_addr`."""
        return _port_in(self.get_admin_addr())

    @property
    def clipper_metric_port(self) -> int:
        """The port in `get_metric_addr`."""
        return _port_in(self.get_metric_addr())

    @property
    def _k8s_v1(self) -> Any:
        """A ``kubernetes.client.CoreV1Api``, which tests of Clipper 0.4 use."""
        return self._api.core_v1

    @property
    def _k8s_beta(self) -> Any:
        """The API of Deployments, under the name that it has in tests of Clipper 0.4."""
        return self._api.apps_v1

    # --- frontends ---

    def get_num_frontend_replicas(self) -> int:
        """Return the number of pods of query frontends that there should be."""
        _ = self._connected
        deployment = self._api.get("Deployment", names.query_frontends(self.cluster_name))
        return deployment["spec"]["replicas"] if deployment else 0

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop pods of query frontends, and wait until those that are started are ready."""
        before = self.get_num_frontend_replicas()
        name = names.query_frontends(self.cluster_name)
        labels = names.as_text(names.selector(self.cluster_name, names.QUERY))
        with scaled(self._api, name, num_frontend_replicas, before, self.logger):
            self._wait_until_ready("Query frontends", labels, num_frontend_replicas)

    # --- models ---

    def build_model(self, wanted: ImageSpec) -> None:
        """Build an image with Docker, and push it if there is a registry to push it to.

        Nodes that do not share this machine's Docker engine need one.
        """
        ImageBuilder(Engine(self.logger), self.logger).make(wanted)

    def remove_model(self, image: str) -> None:
        """Remove the image from this machine's Docker engine."""
        ImageBuilder(Engine(self.logger), self.logger).remove(image)

    def deploy_model(self, model: ModelSpec) -> None:
        """Apply the Deployment of a model version that has none, and wait until its containers run."""
        self._replicas.deploy(self._connected.cluster, model)

    def get_num_replicas(self, name: str, version: str) -> int:
        """Return the number of pods that the Deployment of the model version should have."""
        _ = self._connected
        return self._replicas.count(name, version)

    def set_num_replicas(self, model: ModelSpec) -> None:
        """Give the Deployment another number of pods. When new ones cannot start, it gets back the number it had."""
        if model.num_replicas < 0:
            raise ClipperException(f"num_replicas is {model.num_replicas}: it must not be negative")
        self._replicas.scale(self._connected.cluster, model)

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """The pods that are not ready and ended or cannot start, until they are ready, or gone."""
        _ = self._connected
        return self._replicas.failures(name, version)

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        """The last lines that the pods of a model version wrote, those first that are not ready."""
        _ = self._connected
        return self._replicas.last_lines(name, version)

    def stop_models(self, models: ModelVersions) -> None:
        """Delete the Deployments of these model versions, and wait until their pods are gone."""
        _ = self._connected
        self._replicas.remove([(name, str(version)) for name, versions in models.items() for version in versions])

    def stop_all_model_containers(self) -> None:
        """Delete the Deployments of all models, and wait until their pods are gone."""
        self._replicas.remove_all()

    # --- logs ---

    def get_logs(self, logging_dir: str) -> list[str]:
        """Write the log of each container into a folder, also that of the previous container if it was restarted.

        Kubernetes deletes the logs of deleted pods. For replicas that this manager stopped with their model, it also
        writes the logs of the last three of each version.
        """
        _ = self._connected
        return self._logs.write(self._labels, Path(logging_dir).expanduser().absolute())

    # --- stop ---

    def stop_all(self, graceful: bool = True) -> None:
        """Delete everything of the cluster, wait until it is gone, and delete the namespace if Clipper made it.

        A namespace in which there are other objects stays.
        """
        removal.remove_cluster(self._api, self._labels, graceful)
        namespaces.remove_if_unused(self._api, self.namespace)
        self._state = None
        self._logs.forget()

    # --- addresses ---

    def get_admin_addr(self) -> str:
        """``host:port`` of the management frontend, with a path behind it where a proxy is used."""
        return self._address("management")

    def get_query_addr(self) -> str:
        """``host:port`` of the query frontends, with a path behind it where a proxy is used."""
        return self._address("query")

    def get_metric_addr(self) -> str:
        """``host:port`` of Prometheus, which has the metrics of all programs."""
        return self._address("metric")

    def _address(self, key: str) -> str:
        return self._access.address(self._connected, key)


def _port_in(address: str) -> int:
    """The port of ``host:port``, behind which a path may follow."""
    return int(address.partition("/")[0].rpartition(":")[2])


def _count_pods(objects: Iterable[Mapping[str, Any]]) -> int:
    return sum(int(object_["spec"]["replicas"]) for object_ in objects if object_["kind"] == "Deployment")
