"""Who may speak to whom in a cluster: NetworkPolicies, for networks that enforce them. Pure."""

from collections.abc import Mapping
from typing import Any

from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import CLUSTER_IP, Cluster
from clipper_common import constants


def policies(cluster: Cluster) -> list[Manifest]:
    """What each kind of pod accepts. What no rule names is refused."""

    def policy(name: str, component: str, *rules: Manifest) -> Manifest:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": name,
                "namespace": cluster.namespace,
                "labels": names.labels(cluster.name, component),
            },
            "spec": {
                "podSelector": {"matchLabels": names.selector(cluster.name, component)},
                "policyTypes": ["Ingress"],
                "ingress": list(rules),
            },
        }

    def peers(*components: str) -> list[Mapping[str, Any]]:
        return [{"podSelector": {"matchLabels": names.selector(cluster.name, component)}} for component in components]

    def published(service: str, number: int) -> list[Manifest]:
        return [] if cluster.service_type(service) == CLUSTER_IP else [_anyone(number)]

    scraped = {"from": peers(names.METRICS), "ports": [_port(constants.METRIC_PORT)]}
    own_redis = policy(
        names.redis(cluster.name),
        names.REDIS,
        {"from": peers(names.QUERY, names.MANAGEMENT), "ports": [_port(constants.REDIS_PORT)]},
        *published("redis", constants.REDIS_PORT),
    )
    return [
        *([own_redis] if cluster.redis_ip is None else []),
        policy(names.management_frontend(cluster.name), names.MANAGEMENT, _anyone(constants.MANAGEMENT_PORT)),
        policy(
            names.query_frontends(cluster.name),
            names.QUERY,
            _anyone(constants.QUERY_PORT),
            # Each worker of a frontend has a port of its own for containers, and for its peers.
            {"from": peers(names.MODEL, names.QUERY)},
            scraped,
            *published("query-rpc", constants.RPC_PORT),
        ),
        policy(names.metrics(cluster.name), names.METRICS, _anyone(constants.PROMETHEUS_PORT)),
        policy(names.models(cluster.name), names.MODEL, scraped),
    ]


def _anyone(number: int) -> Manifest:
    return {"ports": [_port(number)]}


def _port(number: int) -> Manifest:
    return {"protocol": "TCP", "port": number}
