"""The objects of a cluster, in the order in which they are applied. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from clipper_admin.container_manager import Resources
from clipper_admin.kubernetes import names, network, pods, prometheus
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import Cluster, FrontendOptions, Images, Model
from clipper_common import constants
from clipper_common.errors import ClipperException

PRESTOP_SECONDS: Final = 3
"""A pod that shall go still serves for so long, until everybody knows that it does."""
FRONTEND_GRACE_SECONDS: Final = 60
MODEL_GRACE_SECONDS: Final = int(constants.DRAIN_SECONDS) + 20
MODEL_START_SECONDS: Final = 3600
"""A replica that was not registered within this time is started anew."""
READY_FILE: Final = "/model_is_ready.check"

POLICY_API: Final = "policy/v1"
OLDER_APIS: Final = {POLICY_API: "policy/v1beta1"}
"""Where an older group has the same object, for servers without the newer one."""

_RESOURCES: Final[Mapping[str, Mapping[str, Any]]] = {
    names.REDIS: {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "1Gi"}},
    names.MANAGEMENT: {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
    "frontend-exporter": {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
    names.METRICS: {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}},
}
_MEBIBYTE: Final = 2**20


def cluster_objects(cluster: Cluster, options: FrontendOptions, images: Images) -> list[Manifest]:
    """Everything of a cluster but its models."""
    return [
        *([namespace(cluster)] if cluster.makes_namespace else []),
        *prometheus.access(_metadata(cluster, names.prometheus_account(cluster.name), names.METRICS)),
        _prometheus_configuration(cluster),
        *(network.policies(cluster) if cluster.has_network_policies else []),
        *_own_redis(cluster, images),
        *_management_frontend(cluster, images),
        *_query_frontends(cluster, options, images),
        *_prometheus(cluster, images),
    ]


def model_objects(cluster: Cluster, model: Model) -> list[Manifest]:
    """The Deployment of a model version, and what protects its replicas from being evicted together."""
    name = names.model(cluster.name, model.name, model.version)
    labels = names.model_labels(cluster.name, model.name, model.version)
    selector = names.model_selector(cluster.name, model.name, model.version)
    metadata = {"name": name, "namespace": cluster.namespace, "labels": labels}
    return [_disruption_budget(metadata, selector), _model_deployment(cluster, model, metadata, selector)]


def namespace(cluster: Cluster) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "clipper", "app.kubernetes.io/managed-by": names.MANAGED_BY}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace, "labels": labels}}


# --- components ---


def _own_redis(cluster: Cluster, images: Images) -> list[Manifest]:
    if cluster.redis_ip is not None:
        return []
    name, selector = names.redis(cluster.name), names.selector(cluster.name, names.REDIS)
    metadata = _metadata(cluster, name, names.REDIS)
    alive = ["redis-cli", "-p", str(constants.REDIS_PORT), "ping"]
    container = pods.container(
        names.REDIS,
        images.redis,
        command=["redis-server"],
        # The log of changes brings the configuration back when the container, or the pod with its volume, starts again.
        args=_words(
            {
                "--port": constants.REDIS_PORT,
                "--protected-mode": "no",
                "--save": "",
                "--appendonly": "yes",
                "--dir": "/data",
            }
        ),
        ports=[pods.port("redis", constants.REDIS_PORT)],
        resources=_resources(cluster, names.REDIS),
        volumeMounts=[pods.mount("data", "/data")],
        readinessProbe=pods.tcp_probe("redis", 2, 3),
        livenessProbe=pods.command_probe(alive, 10, 6),
    )
    volume = cluster.redis_volume
    data = {"name": "data", "persistentVolumeClaim": {"claimName": name}} if volume else pods.empty_volume("data")
    template = pods.template(cluster, metadata["labels"], pods.REDIS_USER, [container], [data])
    return [
        *([_volume_claim(metadata, volume.size, volume.storage_class)] if volume else []),
        _service(cluster, metadata, selector, "redis", [("redis", cluster.redis_port, "redis")]),
        # Two of them must not write to one volume, nor be taken for one Redis.
        pods.deployment(metadata, selector, 1, template, pods.RECREATE),
    ]


def _management_frontend(cluster: Cluster, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.MANAGEMENT)
    metadata = _metadata(cluster, names.management_frontend(cluster.name), names.MANAGEMENT)
    container = pods.container(
        names.MANAGEMENT,
        images.mgmt_frontend,
        args=_options(_redis_options(cluster)),
        ports=[pods.port("http", constants.MANAGEMENT_PORT)],
        resources=_resources(cluster, names.MANAGEMENT),
        volumeMounts=[pods.TMP_MOUNT],
        **_http_probes("http", "/admin/ping", "/admin/ping"),
        lifecycle=_PRESTOP,
    )
    template = pods.template(cluster, metadata["labels"], pods.CLIPPER_USER, [container], [pods.TMP_VOLUME])
    return [
        _service(cluster, metadata, selector, "management", [("http", constants.MANAGEMENT_PORT, "http")]),
        pods.deployment(metadata, selector, 1, template, pods.ROLLING),
    ]


def _query_frontends(cluster: Cluster, options: FrontendOptions, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.QUERY)
    metadata = _metadata(cluster, names.query_frontends(cluster.name), names.QUERY)
    flags = {
        **_redis_options(cluster),
        "prediction_cache_size": options.cache_size,
        "thread_pool_size": options.thread_pool_size,
        "timeout_request": options.timeout_request,
        "timeout_content": options.timeout_content,
    }
    container = pods.container(
        names.QUERY,
        images.query_frontend,
        args=_options(flags),
        ports=[pods.port("http", constants.QUERY_PORT), pods.port("rpc", constants.RPC_PORT)],
        resources=_query_resources(cluster, options),
        volumeMounts=[pods.TMP_MOUNT],
        **_http_probes("http", "/livez", "/readyz"),
        lifecycle=_PRESTOP,
    )
    exporter = pods.container(
        "frontend-exporter",
        images.frontend_exporter,
        args=["--query_frontend_name", f"localhost:{constants.QUERY_PORT}"],
        ports=[pods.port("metrics", constants.METRIC_PORT)],
        resources=_resources(cluster, "frontend-exporter"),
        volumeMounts=[pods.TMP_MOUNT],
        # Not ready would make the whole pod so, and predictions need no metrics.
        livenessProbe=pods.tcp_probe("metrics", 10, 6),
    )
    template = pods.template(
        cluster,
        metadata["labels"],
        pods.CLIPPER_USER,
        [container, exporter],
        [pods.TMP_VOLUME],
        prometheus.SCRAPED,
        terminationGracePeriodSeconds=FRONTEND_GRACE_SECONDS,
        topologySpreadConstraints=pods.spread(selector),
    )
    http = _metadata(cluster, names.query_frontend(cluster.name), names.QUERY)
    return [
        _disruption_budget(metadata, selector),
        _service(cluster, metadata, selector, "query-rpc", [("rpc", constants.RPC_PORT, "rpc")]),
        _service(cluster, http, selector, "query", [("http", constants.QUERY_PORT, "http")]),
        pods.deployment(metadata, selector, options.num_replicas, template, pods.ROLLING),
        *([_ingress(cluster, http)] if cluster.ingress else []),
    ]


def _prometheus_configuration(cluster: Cluster) -> Manifest:
    metadata = _metadata(cluster, names.prometheus_configuration(cluster.name), names.METRICS)
    data = prometheus.configurations(cluster)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _prometheus(cluster: Cluster, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.METRICS)
    metadata = _metadata(cluster, names.metrics(cluster.name), names.METRICS)
    container = pods.container(
        "prometheus",
        images.prometheus,
        command=["sh", "-c", prometheus.COMMAND],
        ports=[pods.port("http", constants.PROMETHEUS_PORT)],
        resources=_resources(cluster, names.METRICS),
        volumeMounts=[
            pods.mount("configuration", prometheus.FOLDER, readOnly=True),
            pods.mount("data", "/prometheus"),
        ],
        **_http_probes("http", "/-/healthy", "/-/ready"),
    )
    configuration = {"name": "configuration", "configMap": {"name": names.prometheus_configuration(cluster.name)}}
    template = pods.template(
        cluster,
        metadata["labels"],
        pods.PROMETHEUS_USER,
        [container],
        [configuration, pods.empty_volume("data")],
        # Another configuration is another template, and so another pod.
        {"ai.clipper.metric.config": _checksum(prometheus.configurations(cluster))},
        serviceAccountName=names.prometheus_account(cluster.name),
        automountServiceAccountToken=True,
    )
    return [
        *(_headless_service(cluster, component, name) for component, name in prometheus.jobs(cluster).values()),
        _service(cluster, metadata, selector, "metric", [("http", constants.PROMETHEUS_PORT, "http")]),
        pods.deployment(metadata, selector, 1, template, pods.ROLLING),
    ]


def _model_deployment(cluster: Cluster, model: Model, metadata: Manifest, selector: Mapping[str, str]) -> Manifest:
    environment = {
        constants.ENV_MODEL_NAME: model.name,
        constants.ENV_MODEL_VERSION: model.version,
        constants.ENV_RPC_HOST: names.query_frontends(cluster.name),
        constants.ENV_INPUT_TYPE: model.input_type,
    }
    ready = ["test", "-s", READY_FILE]
    container = pods.container(
        names.MODEL,
        model.image,
        env=[{"name": name, "value": value} for name, value in environment.items()],
        ports=[pods.port("metrics", constants.METRIC_PORT)],
        resources=_model_resources(cluster, model.resources),
        volumeMounts=[pods.TMP_MOUNT],
        startupProbe=pods.command_probe(ready, 2, MODEL_START_SECONDS // 2),
        readinessProbe=pods.command_probe(ready, 5, 2),
        # No liveness probe: none can tell a model that hangs from one that computes for minutes. Frontends do not
        # wait for a silent replica, and a process that ended is started again without one.
    )
    template = pods.template(
        cluster,
        metadata["labels"],
        pods.CLIPPER_USER,
        [container],
        [pods.TMP_VOLUME],
        prometheus.SCRAPED,
        terminationGracePeriodSeconds=MODEL_GRACE_SECONDS,
        topologySpreadConstraints=pods.spread(selector),
    )
    return pods.deployment(metadata, selector, model.num_replicas, template, pods.ROLLING)


# --- objects ---


def _metadata(cluster: Cluster, name: str, component: str) -> Manifest:
    return {"name": name, "namespace": cluster.namespace, "labels": names.labels(cluster.name, component)}


def _service(
    cluster: Cluster,
    metadata: Manifest,
    selector: Mapping[str, str],
    key: str,
    ports: list[tuple[str, int, str]],
) -> Manifest:
    spec = {
        "type": cluster.service_type(key),
        "selector": dict(selector),
        "ports": [
            {"name": name, "protocol": "TCP", "port": number, "targetPort": target} for name, number, target in ports
        ],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _headless_service(cluster: Cluster, component: str, name: str) -> Manifest:
    """A name in the DNS for the addresses of all pods of a component that serve metrics."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.selector(cluster.name, component),
        "ports": [{"name": "metrics", "protocol": "TCP", "port": constants.METRIC_PORT, "targetPort": "metrics"}],
    }
    metadata = _metadata(cluster, name, component)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _disruption_budget(metadata: Manifest, selector: Mapping[str, str]) -> Manifest:
    # Not `minAvailable`: with one replica it would keep its node from ever being drained.
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(selector)}}
    return {"apiVersion": POLICY_API, "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}


def _volume_claim(metadata: Manifest, size: str, storage_class: str | None) -> Manifest:
    spec: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _ingress(cluster: Cluster, metadata: Manifest) -> Manifest:
    ingress = cluster.ingress
    assert ingress
    backend = {"service": {"name": metadata["name"], "port": {"name": "http"}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    spec: Manifest = {"rules": [{"host": ingress.host, "http": {"paths": paths}}]}
    if ingress.class_name is not None:
        spec["ingressClassName"] = ingress.class_name
    if ingress.tls_secret is not None:
        spec["tls"] = [{"hosts": [ingress.host], "secretName": ingress.tls_secret}]
    metadata = {**metadata, "annotations": dict(ingress.annotations)} if ingress.annotations else metadata
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


# --- fields ---

_PRESTOP: Final[Manifest] = {"preStop": {"exec": {"command": ["sleep", str(PRESTOP_SECONDS)]}}}


def _http_probes(port: str, alive: str, ready: str) -> Manifest:
    return {
        # They wait for Redis before they listen.
        "startupProbe": pods.http_probe(alive, port, 1, 300),
        "readinessProbe": pods.http_probe(ready, port, 2, 2),
        "livenessProbe": pods.http_probe(alive, port, 10, 6),
    }


def _checksum(texts: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(texts.values()).encode()).hexdigest()


def _redis_options(cluster: Cluster) -> dict[str, Any]:
    options: dict[str, Any] = {"redis_ip": cluster.redis_address, "redis_port": cluster.redis_port}
    # Only where another cluster could get at the same Redis.
    return options if cluster.redis_ip is None else options | {"cluster_id": f"{cluster.name}/{cluster.namespace}"}


def _options(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _words(values: Mapping[str, Any]) -> list[str]:
    return [str(word) for option in values.items() for word in option]


def _resources(cluster: Cluster, component: str) -> Manifest:
    return _copied(cluster.resources.get(component, _RESOURCES[component]))


def _query_resources(cluster: Cluster, options: FrontendOptions) -> Manifest:
    if names.QUERY in cluster.resources:
        return _copied(cluster.resources[names.QUERY])
    cache = -(-options.cache_size // _MEBIBYTE)
    # No limit of CPU: a frontend that is held back misses deadlines while the node idles.
    return {
        "requests": {"cpu": f"{100 * options.workers}m", "memory": f"{128 * options.workers}Mi"},
        "limits": {"memory": f"{(2048 + cache) * options.workers}Mi"},
    }


def _copied(resources: Mapping[str, Any]) -> Manifest:
    return {kind: dict(values) for kind, values in resources.items()}


def _model_resources(cluster: Cluster, resources: Resources) -> Manifest:
    """Limits are requests too: no node gets more than it has."""
    limits: dict[str, str] = {}
    if resources.cpus is not None:
        limits["cpu"] = f"{round(resources.cpus * 1000)}m"
    if resources.memory_bytes is not None:
        limits["memory"] = str(resources.memory_bytes)
    if resources.gpus is not None:
        limits["nvidia.com/gpu"] = str(_number_of_gpus(resources.gpus))
    usual = _copied(cluster.resources.get(names.MODEL, {"requests": {"cpu": "50m", "memory": "64Mi"}}))
    requests = {**usual.get("requests", {}), **limits}
    limits = {**usual.get("limits", {}), **limits}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _number_of_gpus(gpus: int | tuple[str, ...]) -> int:
    if isinstance(gpus, tuple) or gpus < 1:
        raise ClipperException(
            f"Invalid value: gpus={gpus!r}. Kubernetes chooses the GPUs of a replica by itself: say how many it gets."
        )
    return gpus


def for_server(objects: list[Manifest], offers: Any) -> list[Manifest]:
    """The same objects in older API groups where the server does not offer those of today."""
    return [
        {**found, "apiVersion": OLDER_APIS[found["apiVersion"]]}
        if found["apiVersion"] in OLDER_APIS and found["apiVersion"] not in offers
        else found
        for found in objects
    ]
