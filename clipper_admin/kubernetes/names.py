"""The names of the objects of a cluster, and the labels by which they are found. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from clipper_admin.container_manager import (
    CLIPPER_DOCKER_LABEL,
    CLIPPER_MODEL_CONTAINER_LABEL,
    CLIPPER_NAME_LABEL,
    create_model_container_label,
)
from clipper_common.datatypes import is_dns_name
from clipper_common.errors import ClipperException

REDIS: Final = "redis"
MANAGEMENT: Final = "mgmt-frontend"
QUERY: Final = "query-frontend"
METRICS: Final = "metrics"
MODEL: Final = "model"
"""The components: values of the label `CLIPPER_NAME_LABEL`."""
EXPORTER: Final = "frontend-exporter"
"""A container in the pods of `QUERY`."""

LONGEST: Final = 63
"""The most characters of the name of a service, and of the value of a label."""
MANAGED_BY: Final = "clipper"

_APPLICATION: Final = {REDIS: "redis", METRICS: "prometheus"}
"""The names of components that are not programs of Clipper."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
_NOT_IN_LABELS: Final = re.compile(r"[^A-Za-z0-9_.-]")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_CLUSTER_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")

Labels = dict[str, str]


def check_cluster_name(name: str) -> None:
    """Raise ClipperException for a name that labels and images cannot carry."""
    if not isinstance(name, str) or not _CLUSTER_NAME.fullmatch(name) or len(name) > LONGEST:
        raise ClipperException(
            f"Invalid value: cluster_name={name!r}. It becomes part of labels and of the names of images: use up to "
            f"{LONGEST} lower case letters and digits, with single '.', '_' or '-' between them."
        )


def check_namespace(name: str) -> None:
    """Raise ClipperException for what cannot be the name of a namespace."""
    if not isinstance(name, str) or not is_dns_name(name):
        raise ClipperException(
            f"Invalid value: namespace={name!r}. A namespace has at most 63 lower case letters, digits and '-', and "
            "begins and ends with a letter or digit."
        )


# --- names ---


def redis(cluster: str) -> str:
    """The name of the Deployment, Service and PersistentVolumeClaim of the cluster's own Redis."""
    return _of("redis-at", cluster)


def management_frontend(cluster: str) -> str:
    return _of("mgmt-frontend-at", cluster)


def query_frontend(cluster: str) -> str:
    """The name of the service (and Ingress) where applications ask for predictions."""
    return _of("query-frontend-at", cluster)


def query_frontends(cluster: str) -> str:
    """The name of the Deployment of all query frontends, and of the service to which model containers connect."""
    return _of("query-frontend-0-at", cluster)


def metrics(cluster: str) -> str:
    return _of("metrics-at", cluster)


def prometheus_configuration(cluster: str) -> str:
    return _of("prometheus-config-at", cluster)


def exporters(cluster: str) -> str:
    """The headless service of the query frontends' metrics."""
    return _of("exporters-at", cluster)


def replicas(cluster: str) -> str:
    """The headless service of the models' metrics."""
    return _of("replicas-at", cluster)


def prometheus_account(cluster: str) -> str:
    """The name of Prometheus' ServiceAccount, Role and RoleBinding."""
    return _fitted(f"{cluster}-prometheus", cluster)


def model(cluster: str, name: str, version: str) -> str:
    """The name of the Deployment of a model version, and of its PodDisruptionBudget."""
    # Model "a-1" version "2" must not be called as model "a" version "1-2" is.
    return _of(f"{name}-{version}-deployment-at-0-at", cluster, name, version, is_clear="-" not in version)


def models(cluster: str) -> str:
    """The name of what concerns the pods of all models."""
    return _of("models-at", cluster)


def _of(kind: str, cluster: str, *model: str, is_clear: bool = True) -> str:
    return _fitted(f"{kind}-{cluster}", cluster, *model, is_clear=is_clear and "-at-" not in cluster)


def _fitted(name: str, *parts: str, is_clear: bool = True) -> str:
    """`name` if it is a DNS label that only these `parts` make, else one made from it, unique by a hash of `parts`."""
    if is_clear and is_dns_name(name):
        return name
    number = _number(*parts)
    plain = _NOT_IN_NAMES.sub("-", name.lower()).strip("-")
    return f"{plain[: LONGEST - len(number) - 1].rstrip('-')}-{number}"


def _number(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


# --- labels ---


def label_value(text: str) -> str:
    """`text` if a label can hold it, else what is left of it, with a hash."""
    if _LABEL.fullmatch(text):
        return text
    number = _number(text)
    plain = _NOT_IN_LABELS.sub("-", text)[: LONGEST - len(number) - 1].strip("-_.")
    return f"{plain}-{number}".lstrip("-")


def cluster_selector(cluster: str) -> Labels:
    """Return the selector of all objects of a cluster."""
    return {CLIPPER_DOCKER_LABEL: cluster}


def selector(cluster: str, component: str) -> Labels:
    """Return the selector of a component's objects, such as all models. Deployments require that it never changes."""
    return cluster_selector(cluster) | {CLIPPER_NAME_LABEL: component}


def model_selector(cluster: str, name: str, version: str) -> Labels:
    """Return the selector of the objects of a model version."""
    label = label_value(create_model_container_label(name, version))
    return selector(cluster, MODEL) | {CLIPPER_MODEL_CONTAINER_LABEL: label}


def as_text(labels: Mapping[str, str]) -> str:
    """A selector as the API and kubectl want it."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def labels(cluster: str, component: str) -> Labels:
    """All labels of an object, the recommended ones too."""
    return selector(cluster, component) | {
        "app.kubernetes.io/name": _APPLICATION.get(component, "clipper"),
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "clipper",
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }


def model_labels(cluster: str, name: str, version: str) -> Labels:
    """All labels of an object of a model version."""
    own = {"app.kubernetes.io/version": label_value(version)}
    return model_selector(cluster, name, version) | labels(cluster, MODEL) | own
