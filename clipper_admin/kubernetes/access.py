"""Access: how a cluster on Kubernetes is found, and at which addresses its services are reached from here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipper_admin.container_manager import CLIPPER_DOCKER_LABEL
from clipper_admin.kubernetes import cluster_annotation, names, status
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.spec import CLUSTER_IP, LOAD_BALANCER, NODE_PORT, Cluster
from clipper_admin.kubernetes.status import Viewpoint
from clipper_common.errors import ClipperException


@dataclass(frozen=True)
class RunningCluster:
    """A cluster as it was started, with what tells the addresses of its services."""

    cluster: Cluster
    services: Mapping[str, status.Object]
    nodes: Sequence[status.Object]


class Access:
    """The way from here to a cluster: by nodes, by load balancers, from inside Kubernetes, or through a proxy."""

    def __init__(self, api: Api, wanted: Cluster, proxy: str | None, wants_internal: bool) -> None:
        self._api = api
        self._wanted = wanted
        self._proxy = proxy
        self._wants_internal = wants_internal
        self._labels = names.as_text(names.cluster_selector(wanted.name))
        self._services = {
            "management": names.management_frontend(wanted.name),
            "query": names.query_frontend(wanted.name),
            "metric": names.metrics(wanted.name),
        }
        """The services that are reached from outside, by their keys in `service_types`."""

    def check(self) -> None:
        """Raise ClipperException for a cluster that could not be spoken to once it was started."""
        self._nodes(self._wanted)
        if self._proxy or self._api.is_inside:
            return
        for key, name in self._services.items():
            if key != "metric" and self._wanted.service_type(key) == CLUSTER_IP:
                raise ClipperException(status.no_way_to(name))

    def balanced(self) -> list[str]:
        """Return the services whose load balancers must be waited for."""
        if self._proxy:
            return []
        return [name for key, name in self._services.items() if self._wanted.service_type(key) == LOAD_BALANCER]

    def find(self) -> RunningCluster:
        """Return how the cluster was started and where its services are. Raises ClipperException when none runs."""
        frontends = self._api.get("Deployment", names.query_frontends(self._wanted.name))
        services = {status.name_of(service): service for service in self._api.list("Service", self._labels)}
        missing = [name for name in self._services.values() if name not in services]
        if frontends is None or status.is_terminating(frontends) or missing:
            raise ClipperException(self._no_cluster())
        cluster = cluster_annotation.read(frontends, self._wanted)
        return RunningCluster(cluster, services, self._nodes(cluster))

    def _nodes(self, cluster: Cluster) -> Sequence[status.Object]:
        """Return the nodes of the Kubernetes cluster, if it takes their addresses to speak to Clipper."""
        has_node_ports = any(cluster.service_type(key) == NODE_PORT for key in self._services)
        return self._api.list("Node") if has_node_ports and not self._proxy else []

    def _no_cluster(self) -> str:
        name, namespace = self._wanted.name, self._wanted.namespace
        found = self._api.list("Deployment", CLIPPER_DOCKER_LABEL)
        others = {deployment["metadata"]["labels"][CLIPPER_DOCKER_LABEL] for deployment in found}
        if name in others or self._api.list("ServiceAccount", self._labels):
            return (
                f"Cluster '{name}' in the namespace {namespace} is incomplete. stop_all() removes the "
                "rest of it, then start_clipper() starts anew."
            )
        return f"No cluster named '{name}' runs in the namespace {namespace}. " + (
            f"Those that do: {', '.join(sorted(others))}." if others else "Start one with start_clipper()."
        )

    def address(self, running: RunningCluster, key: str) -> str:
        """Return ``host:port`` of a service by its key, with a path behind it where a proxy is used."""
        viewpoint = Viewpoint(self._proxy, self._api.host, self._api.is_inside, self._wants_internal)
        return status.address_of(running.services[self._services[key]], running.nodes, viewpoint)
