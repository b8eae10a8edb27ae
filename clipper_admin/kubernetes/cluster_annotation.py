"""The values of a cluster, kept on one of its objects, so that any program can go on with them. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.objects import annotated
from clipper_admin.kubernetes.spec import Cluster, Ingress, RedisVolume

ANNOTATION: Final = "ai.clipper.cluster"
"""On the Deployment of the query frontends."""

Manifest = dict[str, Any]


def recorded(objects: Iterable[Manifest], cluster: Cluster) -> list[Manifest]:
    """The same objects, one of them with the values of the cluster."""
    keeper = ("Deployment", names.query_frontends(cluster.name))
    return [
        annotated(object_, {ANNOTATION: json.dumps(asdict(cluster), sort_keys=True)})
        if (object_["kind"], object_["metadata"]["name"]) == keeper
        else object_
        for object_ in objects
    ]


def read(deployment: Mapping[str, Any], otherwise: Cluster) -> Cluster:
    """The values of a cluster, from the Deployment of its query frontends; `otherwise` if somebody removed them."""
    text = deployment["metadata"].get("annotations", {}).get(ANNOTATION)
    if text is None:
        return otherwise
    values = json.loads(text)
    known = {name: values[name] for name in asdict(otherwise) if name in values}
    known |= {name: tuple(known.get(name) or ()) for name in ("image_pull_secrets", "tolerations")}
    if known.get("ingress"):
        known["ingress"] = Ingress(**known["ingress"])
    if known.get("redis_volume"):
        known["redis_volume"] = RedisVolume(**known["redis_volume"])
    return Cluster(**known)
