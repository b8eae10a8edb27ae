"""KubernetesContainerManager: a Clipper cluster of pods on a Kubernetes cluster."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipper_admin import external_redis, images
from clipper_admin.arguments import check_frontend_options, check_redis_ip, check_text, check_texts
from clipper_admin.container_manager import (
    CLIPPER_DOCKER_LABEL,
    AlreadyExists,
    ContainerManager,
    ModelVersions,
    ReplicaFailure,
)
from clipper_admin.docker.containers import PROMETHEUS_IMAGE, REDIS_IMAGE
from clipper_admin.docker.engine import Engine
from clipper_admin.files import explained
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.image_builder import ImageBuilder
from clipper_admin.kubernetes import cluster_annotation, export, manifests, names, namespaces, removal, status, waiting
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.logs import Logs
from clipper_admin.kubernetes.spec import (
    CLUSTER_IP,
    LOAD_BALANCER,
    NODE_PORT,
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
from clipper_admin.kubernetes.status import Viewpoint
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.older_calls import check_manager_call, check_port
from clipper_admin.resources import UNLIMITED, Resources
from clipper_admin.rollback import rollback_on_failure
from clipper_common import constants
from clipper_common.errors import ClipperException, UnconnectedException


@dataclass(frozen=True)
class _Connected:
    """What is known of a running cluster."""

    cluster: Cluster
    services: Mapping[str, status.Object]
    nodes: Sequence[status.Object]


class KubernetesContainerManager(ContainerManager):
    """Runs Clipper as Deployments on a Kubernetes cluster: the one that the command ``kubectl`` speaks to.

    Credentials come from the file that ``KUBECONFIG`` names, from ``~/.kube/config``, or, in a pod, from its service
    account. The cluster outlives the interpreter that started it: ``connect()`` finds it again from another, with all
    that was chosen when it was started.

    Parameters
    ----------
    cluster_name : str
        Several clusters with different names can stand side by side, also in one namespace.
    kubernetes_proxy_addr : str, optional
        ``host:port`` of a ``kubectl proxy``, through which all services are then reached.
    redis_ip : str, optional
        The host of a Redis to use, as pods reach it. If it is not given, the cluster gets a Redis of its own.
    redis_port : int
        The port of Redis.
    useInternalIP : bool
        Reach node ports at the internal address of a node, if none has an external one.
    namespace : str
        Where all objects of the cluster are.
    service_types : dict, optional
        ``NodePort``, ``LoadBalancer`` or ``ClusterIP`` for some of ``redis``, ``management``, ``query``,
        ``query-rpc`` and ``metric``. By default Redis is a ``ClusterIP`` and the others are ``NodePort``.
    create_namespace_if_not_exists : bool
        Make the namespace if there is none. ``stop_all()`` removes it again once nothing else is in it.
    image_pull_secrets : list of str, optional
        Secrets of the namespace with which nodes pull images.
    node_selector : dict, optional
        Labels of the nodes that pods may run on.
    tolerations : list of dict, optional
        Taints of nodes that pods bear, as Kubernetes writes them.
    ingress : Ingress, optional
        Reach the query frontends by a host name, through the Kubernetes cluster's ingress controller as well.
    redis_volume : RedisVolume, optional
        Keep what the cluster's own Redis holds on a volume, which outlives its pod, until ``stop_all()``.
    resources : dict, optional
        Requests and limits, as Kubernetes writes them, for some of ``redis``, ``mgmt-frontend``, ``query-frontend``,
        ``frontend-exporter``, ``metrics`` and ``model``, instead of the usual ones.
    network_policies : bool
        False lets everything in the Kubernetes cluster reach all ports of Clipper's pods.
    isolate_models : bool
        Let models speak to the query frontends alone, where the Kubernetes cluster enforces network policies.
    restrict_models : bool
        False lets models run with the user and the rights that their images ask for, such as those of Clipper 0.4.
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
        redis_image: str = REDIS_IMAGE,
        prometheus_image: str = PROMETHEUS_IMAGE,
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
        self._proxy = None if kubernetes_proxy_addr is None else check_proxy(kubernetes_proxy_addr)
        self._wants_internal = bool(useInternalIP)
        self._labels = names.as_text(names.cluster_selector(cluster_name))
        self._model_labels = names.as_text(names.selector(cluster_name, names.MODEL))
        self._api = Api(namespace)
        self._state: _Connected | None = None
        self._logs = Logs(self._api)

    # --- start ---

    def start_clipper(self, options: FrontendOptions) -> None:
        """Apply the objects of the cluster, wait until all pods are ready, and connect to them."""
        objects = self._objects(options)
        self._check_ways()
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
            waiting.until_reachable(self._api, self._balanced(), self._labels, self.logger)
            self.connect()

    def _wait_until_ready(self, what: str, labels: str, wanted: int) -> None:
        waiting.until_pods(self._api, labels, wanted, what, status.is_ready, labels)

    def _check_ways(self) -> None:
        """Refuse a cluster that this could not speak to."""
        self._nodes(self._cluster)
        if self._proxy or self._api.is_inside:
            return
        for key, name in self._services_by_key().items():
            if key != "metric" and self._cluster.service_type(key) == CLUSTER_IP:
                raise ClipperException(status.no_way_to(name))

    def _services_by_key(self) -> dict[str, str]:
        """The services that are reached from outside, by their keys in `service_types`."""
        return {
            "management": names.management_frontend(self.cluster_name),
            "query": names.query_frontend(self.cluster_name),
            "metric": names.metrics(self.cluster_name),
        }

    def _balanced(self) -> list[str]:
        keys = self._services_by_key().items()
        return [] if self._proxy else [name for key, name in keys if self._cluster.service_type(key) == LOAD_BALANCER]

    def _already_exists(self) -> ClipperException:
        return ClipperException(
            f"Cluster {self.cluster_name} cannot be started because it already exists in the namespace "
            f"{self._cluster.namespace}. Please use ClipperConnection.connect() to connect to it, or stop_all() to "
            "stop it."
        )

    # --- connect ---

    def connect(self) -> None:
        """Find the cluster, and read how it was started and where its services are."""
        frontends = self._api.get("Deployment", names.query_frontends(self.cluster_name))
        services = {status.name_of(service): service for service in self._api.list("Service", self._labels)}
        missing = [name for name in self._services_by_key().values() if name not in services]
        if frontends is None or status.is_terminating(frontends) or missing:
            raise ClipperException(self._no_cluster())
        cluster = cluster_annotation.read(frontends, self._cluster)
        self._state = _Connected(cluster, services, self._nodes(cluster))

    def _nodes(self, cluster: Cluster) -> list[dict[str, Any]]:
        """The nodes of the Kubernetes cluster, if it takes their addresses to speak to Clipper."""
        has_node_ports = any(cluster.service_type(key) == NODE_PORT for key in self._services_by_key())
        return self._api.list("Node") if has_node_ports and not self._proxy else []

    def _no_cluster(self) -> str:
        namespace = self._cluster.namespace
        found = self._api.list("Deployment", CLIPPER_DOCKER_LABEL)
        others = {deployment["metadata"]["labels"][CLIPPER_DOCKER_LABEL] for deployment in found}
        if self.cluster_name in others or self._api.list("ServiceAccount", self._labels):
            return (
                f"Cluster '{self.cluster_name}' in the namespace {namespace} is incomplete. stop_all() removes the "
                "rest of it, then start_clipper() starts anew."
            )
        return f"No cluster named '{self.cluster_name}' runs in the namespace {namespace}. " + (
            f"Those that do: {', '.join(sorted(others))}." if others else "Start one with start_clipper()."
        )

    @property
    def _connected(self) -> _Connected:
        if self._state is None:
            raise UnconnectedException()
        return self._state

    # --- attributes that this manager has in Clipper 0.4 ---

    @property
    def k8s_namespace(self) -> str:
        """`namespace` under its old name."""
        return self.namespace

    @property
    def redis_ip(self) -> str:
        """The host of Redis, as pods reach it."""
        cluster = self._state.cluster if self._state else self._cluster
        return cluster.redis_ip or names.redis(self.cluster_name)

    @property
    def redis_port(self) -> int:
        """The port of Redis, as pods reach it."""
        return (self._state.cluster if self._state else self._cluster).redis_port

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
        """How many pods of query frontends there should be."""
        _ = self._connected
        deployment = self._api.get("Deployment", names.query_frontends(self.cluster_name))
        return deployment["spec"]["replicas"] if deployment else 0

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop pods of query frontends, and wait until those that are started are ready."""
        before = self.get_num_frontend_replicas()
        name = names.query_frontends(self.cluster_name)
        labels = names.as_text(names.selector(self.cluster_name, names.QUERY))
        with self._scaled(name, num_frontend_replicas, before):
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
        objects = manifests.model_objects(self._connected.cluster, model)
        try:
            self._api.create(objects[-1])  # which only one can do
        except AlreadyExists:
            raise AlreadyExists(f"Somebody else just deploys {model}, or stops it. Try again.") from None
        complaint = f"The replicas of {model} could not be removed again, which stop_models() does"
        with rollback_on_failure(lambda: self._remove_models([(model.name, model.version)]), complaint, self.logger):
            for object_ in objects:
                self._api.apply(object_)
            self._wait_until_started(model)

    def get_num_replicas(self, name: str, version: str) -> int:
        """How many pods the Deployment of the model version should have."""
        _ = self._connected
        deployment = self._deployment_of(name, version)
        return deployment["spec"]["replicas"] if deployment else 0

    def _deployment_of(self, name: str, version: str) -> status.Object | None:
        found = self._api.get("Deployment", names.model(self.cluster_name, name, version))
        return None if found is None or status.is_terminating(found) else found

    def set_num_replicas(self, model: ModelSpec) -> None:
        """Give the Deployment another number of pods. When new ones cannot start, it gets back the number it had."""
        if model.num_replicas < 0:
            raise ClipperException(f"num_replicas is {model.num_replicas}: it must not be negative")
        _ = self._connected
        deployment = self._deployment_of(model.name, model.version)
        if deployment is None:
            self.deploy_model(model)
            return
        with self._scaled(status.name_of(deployment), model.num_replicas, deployment["spec"]["replicas"]):
            self._wait_until_started(model)

    @contextlib.contextmanager
    def _scaled(self, deployment: str, replicas: int, before: int) -> Iterator[None]:
        """Scale a Deployment, and back again if the block does not succeed."""
        self._api.scale(deployment, replicas)
        complaint = f"{deployment} could not be scaled back to {before}"
        # What somebody else wants stays.
        with rollback_on_failure(
            lambda: self._api.scale(deployment, before), complaint, self.logger, waiting.Overruled
        ):
            yield

    def _wait_until_started(self, model: ModelSpec) -> None:
        labels = self._labels_of(model.name, model.version)
        seconds = max(waiting.PODS_SECONDS, model.load_seconds)  # who loads a large model often pulls a large image
        what = f"Pods of {model}"
        waiting.until_pods(self._api, labels, model.num_replicas, what, status.is_started, labels, seconds)

    def _labels_of(self, name: str, version: str) -> str:
        return names.as_text(names.model_selector(self.cluster_name, name, version))

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """The pods that are not ready and ended or cannot start, until they are ready, or gone."""
        _ = self._connected
        pods = self._api.list("Pod", self._labels_of(name, version))
        troubles = [trouble for pod in pods if (trouble := status.trouble_of(pod))]
        return [
            ReplicaFailure(trouble.pod, trouble.reason, waiting.last_words(self._api, trouble)) for trouble in troubles
        ]

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        """The last lines that the pods of a model version wrote, those first that are not ready."""
        _ = self._connected
        pods = self._api.list("Pod", self._labels_of(name, version))
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
        return {status.name_of(pod): waiting.tail(self._api, pod) for pod in sorted(pods, key=status.is_ready)}

    def stop_models(self, models: ModelVersions) -> None:
        """Delete the Deployments of these model versions, and wait until their pods are gone."""
        _ = self._connected
        self._remove_models([(name, str(version)) for name, versions in models.items() for version in versions])

    def stop_all_model_containers(self) -> None:
        """Delete the Deployments of all models, and wait until their pods are gone."""
        self._delete_models(self._api.list("Deployment", self._model_labels))

    def _remove_models(self, models: Iterable[tuple[str, str]]) -> None:
        deployments = (self._deployment_of(name, version) for name, version in models)
        self._delete_models([deployment for deployment in deployments if deployment])

    def _delete_models(self, deployments: Sequence[status.Object]) -> None:
        found = [status.name_of(deployment) for deployment in deployments]
        if not found:
            return
        for deployment in deployments:
            self._logs.keep(_selector_of(deployment))
            for kind in ("PodDisruptionBudget", "Deployment"):
                self._api.delete(kind, status.name_of(deployment))
        for deployment in deployments:
            waiting.until_pods_gone(self._api, _selector_of(deployment))
        waiting.until_gone(self._api, "Deployment", self._model_labels, found)

    # --- logs ---

    def get_logs(self, logging_dir: str) -> list[str]:
        """Write the log of each container into a folder, also that of the one before it if it was started again.

        Kubernetes forgets the logs of deleted pods. Those of the replicas that this manager stopped with their model,
        the last three of each version, are written too.
        """
        _ = self._connected
        return self._logs.write(self._labels, Path(logging_dir).expanduser().absolute())

    # --- stop ---

    def stop_all(self, graceful: bool = True) -> None:
        """Delete everything of the cluster, wait until it is gone, and delete the namespace if Clipper made it.

        A namespace in which anything else is stays.
        """
        removal.remove_cluster(self._api, self._labels, graceful)
        namespaces.remove_if_unused(self._api, self.namespace)
        self._state = None
        self._logs.forget()

    # --- manifests ---

    def export(
        self,
        folder: str | Path,
        query_frontend_image: str = images.image_name(images.QUERY_FRONTEND),
        mgmt_frontend_image: str = images.image_name(images.MANAGEMENT_FRONTEND),
        frontend_exporter_image: str = images.image_name(images.FRONTEND_EXPORTER),
        cache_size: int = constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES,
        qf_http_thread_pool_size: int = 1,
        qf_http_timeout_request: int = constants.IDLE_CONNECTION_SECONDS,
        qf_http_timeout_content: int = 300,
        num_frontend_replicas: int = 1,
        workers: int = 1,
        *,
        query_frontend_flags: Mapping[str, int] | None = None,
        mgmt_frontend_flags: Mapping[str, Iterable[str]] | None = None,
        fits_server: bool = False,
    ) -> list[str]:
        """Write what `start_clipper` would apply into a folder, as YAML. Needs no cluster.

        ``kubectl apply -f folder`` then starts the cluster, and ``connect()`` finds it.

        Parameters
        ----------
        folder : str
            It is made if need be.
        query_frontend_image, mgmt_frontend_image, frontend_exporter_image, cache_size, qf_http_thread_pool_size, \
qf_http_timeout_request, qf_http_timeout_content, num_frontend_replicas, workers, query_frontend_flags, \
mgmt_frontend_flags
            As in ``ClipperConnection.start_clipper``.
        fits_server : bool, optional
            Ask the API server which API groups it offers, and write older ones where it has nothing better.

        Returns
        -------
        list of str
            The paths of the files, in the order in which they are to be applied.
        """
        options = check_frontend_options(
            query_frontend_flags,
            mgmt_frontend_flags,
            query_frontend_image=query_frontend_image,
            mgmt_frontend_image=mgmt_frontend_image,
            frontend_exporter_image=frontend_exporter_image,
            cache_size=cache_size,
            qf_http_thread_pool_size=qf_http_thread_pool_size,
            qf_http_timeout_request=qf_http_timeout_request,
            qf_http_timeout_content=qf_http_timeout_content,
            num_frontend_replicas=num_frontend_replicas,
            workers=workers,
        )
        objects = self._objects(options)
        return self._write(folder, objects, fits_server)

    def export_model(
        self,
        folder: str | Path,
        name: str,
        version: str,
        input_type: str,
        image: str,
        num_replicas: int = 1,
        resources: Resources = UNLIMITED,
        *,
        fits_server: bool = False,
        load_seconds: float = constants.LOAD_SECONDS,
    ) -> list[str]:
        """Write what `deploy_model` would apply into a folder, as YAML. Needs no cluster.

        Once it was applied, ``ClipperConnection.register_model`` sends queries there.

        Parameters
        ----------
        folder : str
            It is made if need be.
        name, version, input_type, image, num_replicas, resources
            As in `deploy_model`.
        fits_server : bool, optional
            As in `export`.
        load_seconds : float, optional
            How long a replica may take to load the model. Kubernetes starts it anew after an hour, or after twice this
            time if that is longer.

        Returns
        -------
        list of str
            The paths of the files.
        """
        cluster = self._state.cluster if self._state else self._cluster
        model = ModelSpec(name, str(version), input_type, image, num_replicas, resources, load_seconds)
        return self._write(folder, manifests.model_objects(cluster, model), fits_server)

    def _write(self, folder: str | Path, objects: Sequence[dict[str, Any]], fits_server: bool) -> list[str]:
        if fits_server:
            objects = [self._api.fitted(object_) for object_ in objects]
        place = Path(folder).expanduser().absolute()
        files = export.files(objects)
        with explained(f"The manifests cannot be written to {place}", "Name a folder that this user may write to."):
            place.mkdir(parents=True, exist_ok=True)
            for former in export.replaced(files, [path.name for path in place.iterdir()]):
                (place / former).unlink()
            for name, text in files.items():
                (place / name).write_text(text)
        return [str(place / name) for name in files]

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
        state = self._connected
        viewpoint = Viewpoint(self._proxy, self._api.host, self._api.is_inside, self._wants_internal)
        return status.address_of(state.services[self._services_by_key()[key]], state.nodes, viewpoint)


def _port_in(address: str) -> int:
    """The port of ``host:port``, behind which a path may follow."""
    return int(address.partition("/")[0].rpartition(":")[2])


def _selector_of(deployment: status.Object) -> str:
    return names.as_text(deployment["spec"]["selector"]["matchLabels"])


def _count_pods(objects: Iterable[Mapping[str, Any]]) -> int:
    return sum(int(object_["spec"]["replicas"]) for object_ in objects if object_["kind"] == "Deployment")
