"""Removing a cluster: all objects that carry its label, and what Kubernetes made for them."""

import contextlib
from typing import Final

from clipper_admin.kubernetes import status, waiting
from clipper_admin.kubernetes.api import Api, Forbidden

KINDS: Final = (
    *("Ingress", "PodDisruptionBudget", "Deployment", "Service", "ConfigMap", "RoleBinding", "Role"),
    *("ServiceAccount", "NetworkPolicy", "PersistentVolumeClaim"),
)
"""The kinds of objects of a cluster, in the order in which they are removed."""
_FOLLOWING: Final = ("ReplicaSet", "Endpoints", "EndpointSlice")
"""The kinds of objects that Kubernetes creates for these, and removes with them."""


def remove_cluster(api: Api, labels: str, graceful: bool) -> None:
    """Delete everything with these labels, and wait until it is gone."""
    for kind in KINDS:
        for object_ in api.list(kind, labels):
            api.delete(kind, status.name_of(object_))
    for kind in ("ReplicaSet", "Pod"):  # which somebody left without what they were made for
        for object_ in api.list(kind, labels):
            if "ownerReferences" not in object_["metadata"]:
                api.delete(kind, status.name_of(object_))
    # All at the same time: frontends answer what they were asked before they end, and so do replicas.
    waiting.until_pods_gone(api, labels, at_once=not graceful)
    for kind in KINDS:
        waiting.until_gone(api, kind, labels)
    for kind in _FOLLOWING:
        with contextlib.suppress(Forbidden):  # who made none of them need not be allowed to see them
            waiting.until_gone(api, kind, labels)
