"""The namespace of a cluster: made when that was asked for, and removed with the last cluster in it."""

import contextlib
from typing import Final

from clipper_admin.container_manager import AlreadyExists
from clipper_admin.kubernetes import objects, removal, status, waiting
from clipper_admin.kubernetes.api import Api, Forbidden
from clipper_admin.kubernetes.spec import Cluster
from clipper_common.errors import ClipperException

MADE_LABEL: Final = "ai.clipper.namespace"
"""On namespaces that a manager made, and so may remove."""

_OTHERS: Final = ("Pod", "Secret", "StatefulSet")
"""The kinds of objects that people have in namespaces, besides those of which clusters consist."""
_IN_EVERY_NAMESPACE: Final = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}


def ensure(api: Api, cluster: Cluster) -> None:
    """Make the namespace if there is none, or raise ClipperException where that was not asked for."""
    name = cluster.namespace
    try:
        found = api.get("Namespace", name)
    except Forbidden:  # who may work in one namespace alone
        return
    if found and not status.is_terminating(found):
        return
    if found:
        waiting.until_gone(api, "Namespace", "", [name])
    if not cluster.makes_namespace:
        raise ClipperException(
            f"There is no namespace '{name}'. 'kubectl create namespace {name}' or "
            "create_namespace_if_not_exists=True makes it."
        )
    made = objects.namespace(cluster)
    made["metadata"]["labels"] = {**made["metadata"]["labels"], MADE_LABEL: name}
    with contextlib.suppress(AlreadyExists):  # somebody else was faster
        api.create(made)


def remove_if_unused(api: Api, name: str) -> None:
    """Remove a namespace that Clipper made, once nothing is in it, and wait until it is gone."""
    with contextlib.suppress(Forbidden):
        found = api.get("Namespace", name)
        if found and MADE_LABEL in found["metadata"].get("labels", {}) and not _holds_anything(api):
            api.delete("Namespace", name)
            waiting.until_gone(api, "Namespace", f"{MADE_LABEL}={name}")


def _holds_anything(api: Api) -> bool:
    return any(
        (kind, status.name_of(object_)) not in _IN_EVERY_NAMESPACE
        and object_.get("type") != "kubernetes.io/service-account-token"
        for kind in (*removal.KINDS, *_OTHERS)
        for object_ in api.list(kind)
    )
