"""The network policies of a cluster: which pods may connect to which. Pure."""

from collections.abc import Sequence

from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import CLUSTER_IP, Cluster
from clipper_common import constants

_DNS_PORT = 53


def policies(cluster: Cluster) -> list[Manifest]:
    """Return the connections that each kind of pod accepts. All others are refused."""
    management = [_anyone(constants.MANAGEMENT_PORT)]
    query = [
        _anyone(constants.QUERY_PORT),
        # Each worker of a frontend has a port of its own, for containers and for its peers.
        {"from": _pods(cluster, names.MODEL, names.QUERY)},
        _scraping(cluster),
        *_published(cluster, "query-rpc", constants.RPC_PORT),
    ]
    return [
        *(_redis(cluster) if cluster.redis_ip is None else []),
        _policy(cluster, names.management_frontend(cluster.name), names.MANAGEMENT, management),
        _policy(cluster, names.query_frontends(cluster.name), names.QUERY, query),
        _policy(cluster, names.metrics(cluster.name), names.METRICS, [_anyone(constants.PROMETHEUS_PORT)]),
        _models(cluster),
    ]


def _redis(cluster: Cluster) -> list[Manifest]:
    frontends = {"from": _pods(cluster, names.QUERY, names.MANAGEMENT), "ports": [_port(constants.REDIS_PORT)]}
    accepted = [frontends, *_published(cluster, "redis", constants.REDIS_PORT)]
    return [_policy(cluster, names.redis(cluster.name), names.REDIS, accepted)]


def _models(cluster: Cluster) -> Manifest:
    policy = _policy(cluster, names.models(cluster.name), names.MODEL, [_scraping(cluster)])
    if cluster.isolates_models:
        dns = {"ports": [_port(_DNS_PORT, "UDP"), _port(_DNS_PORT)]}
        policy["spec"] |= {
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": _pods(cluster, names.QUERY)}, dns],
        }
    return policy


def _policy(cluster: Cluster, name: str, component: str, accepted: Sequence[Manifest]) -> Manifest:
    labels = names.labels(cluster.name, component)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": labels},
        "spec": {
            "podSelector": {"matchLabels": names.selector(cluster.name, component)},
            "policyTypes": ["Ingress"],
            "ingress": list(accepted),
        },
    }


def _scraping(cluster: Cluster) -> Manifest:
    return {"from": _pods(cluster, names.METRICS), "ports": [_port(constants.METRIC_PORT)]}


def _published(cluster: Cluster, service: str, number: int) -> list[Manifest]:
    """Return a rule that admits everybody to a service that is reached from outside; none for others."""
    return [] if cluster.service_type(service) == CLUSTER_IP else [_anyone(number)]


def _anyone(number: int) -> Manifest:
    return {"ports": [_port(number)]}


def _pods(cluster: Cluster, *components: str) -> list[Manifest]:
    return [{"podSelector": {"matchLabels": names.selector(cluster.name, component)}} for component in components]


def _port(number: int, protocol: str = "TCP") -> Manifest:
    return {"protocol": protocol, "port": number}
