"""All objects of a cluster and of a model version, in the order in which they are applied. Pure."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.images import REDIS_COMMAND
from clipper_admin.kubernetes import names, network, objects, pods, prometheus, resources
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import Cluster, Images
from clipper_admin.model_spec import ModelSpec
from clipper_common import constants

PRESTOP_SECONDS: Final = 3
"""Seconds for which a pod that is asked to stop goes on serving, while the removal of its address propagates."""
DRAIN_SECONDS: Final = 5
"""Seconds for which a frontend that is asked to stop accepts connections, and closes each with its answer."""
RESTORE_SECONDS: Final = 1
"""Seconds for which a frontend that starts at an empty Redis lets others write their configuration back."""
FRONTEND_GRACE_SECONDS: Final = 60
MODEL_GRACE_SECONDS: Final = int(constants.DRAIN_SECONDS) + 20
MODEL_START_SECONDS: Final = 3600
"""A replica that no frontend knew within this time is started anew, unless its model may take longer to load."""
READY_FILE: Final = "/model_is_ready.check"

_START_SECONDS: Final = 300
"""Frontends wait for Redis before they listen."""
_POD_IP: Final = "POD_IP"
_FIXED_WORKERS: Final = {"follow_workers": 0}
"""CPU and memory are requested for as many as there are at first."""
_PRESTOP: Final[Manifest] = {"preStop": {"exec": {"command": ["sleep", str(PRESTOP_SECONDS)]}}}


def cluster_objects(cluster: Cluster, options: FrontendOptions, images: Images) -> list[Manifest]:
    """Return all objects of a cluster but those of its models."""
    return [
        *([objects.namespace(cluster)] if cluster.makes_namespace else []),
        *prometheus.access(objects.metadata(cluster, names.prometheus_account(cluster.name), names.METRICS)),
        *(network.policies(cluster) if cluster.has_network_policies else []),
        *(_redis(cluster, images) if cluster.redis_ip is None else []),
        *_management_frontend(cluster, options, images),
        *_query_frontends(cluster, options, images),
        *_prometheus(cluster, images),
    ]


def model_objects(cluster: Cluster, model: ModelSpec) -> list[Manifest]:
    """The Deployment of a model version, and what keeps its replicas from being evicted together."""
    metadata: Manifest = {
        "name": names.model(cluster.name, model.name, model.version),
        "namespace": cluster.namespace,
        "labels": names.model_labels(cluster.name, model.name, model.version),
    }
    selector = names.model_selector(cluster.name, model.name, model.version)
    template = _model_template(cluster, model, metadata["labels"], selector)
    return [
        objects.disruption_budget(metadata, selector),
        pods.deployment(
            metadata,
            selector,
            model.num_replicas,
            template,
            pods.ROLLING,
            # The Deployment must not count as failed while a large model is loaded.
            progressDeadlineSeconds=_start_seconds(model),
        ),
    ]


# --- components ---


def _redis(cluster: Cluster, images: Images) -> list[Manifest]:
    name, selector = names.redis(cluster.name), names.selector(cluster.name, names.REDIS)
    metadata = objects.metadata(cluster, name, names.REDIS)
    container = pods.container(
        names.REDIS,
        images.redis,
        # As a command: what images do before, as root, is done by the volume's group.
        command=[*REDIS_COMMAND, "--dir", "/data"],
        ports=[pods.port("redis", constants.REDIS_PORT)],
        resources=resources.of(cluster, names.REDIS),
        volumeMounts=[pods.mount("data", "/data")],
        readinessProbe=pods.tcp_probe("redis", 2, 3),
        livenessProbe=pods.command_probe(["redis-cli", "-p", str(constants.REDIS_PORT), "ping"], 10, 6),
    )
    volume = cluster.redis_volume
    data = {"name": "data", "persistentVolumeClaim": {"claimName": name}} if volume else pods.empty_volume("data")
    template = pods.template(cluster, metadata["labels"], pods.REDIS_USER, [container], [data])
    return [
        *([objects.volume_claim(metadata, volume)] if volume else []),
        objects.service(metadata, selector, cluster.service_type("redis"), cluster.redis_port, "redis"),
        # Two of them must not write to one volume, nor be taken for one Redis.
        pods.deployment(metadata, selector, 1, template, pods.RECREATE),
    ]


def _management_frontend(cluster: Cluster, options: FrontendOptions, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.MANAGEMENT)
    metadata = objects.metadata(cluster, names.management_frontend(cluster.name), names.MANAGEMENT)
    container = pods.container(
        names.MANAGEMENT,
        images.mgmt_frontend,
        args=_options({**_redis_options(cluster), **_FIXED_WORKERS, **options.mgmt_frontend_flags}),
        ports=[pods.port("http", constants.MANAGEMENT_PORT)],
        resources=resources.of(cluster, names.MANAGEMENT),
        volumeMounts=[pods.TMP_MOUNT],
        **pods.http_probes("/admin/ping", "/admin/ping", _START_SECONDS),
        lifecycle=_PRESTOP,
    )
    template = pods.template(cluster, metadata["labels"], pods.CLIPPER_USER, [container], [pods.TMP_VOLUME])
    return [
        objects.service(metadata, selector, cluster.service_type("management"), constants.MANAGEMENT_PORT, "http"),
        pods.deployment(metadata, selector, 1, template, pods.ROLLING),
    ]


def _query_frontends(cluster: Cluster, options: FrontendOptions, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.QUERY)
    metadata = objects.metadata(cluster, names.query_frontends(cluster.name), names.QUERY)
    template = pods.template(
        cluster,
        metadata["labels"],
        pods.CLIPPER_USER,
        [_query_frontend(cluster, options, images.query_frontend), _exporter(cluster, images.frontend_exporter)],
        [pods.TMP_VOLUME],
        prometheus.SCRAPED,
        terminationGracePeriodSeconds=FRONTEND_GRACE_SECONDS,
        topologySpreadConstraints=pods.spread(selector),
    )
    public = objects.metadata(cluster, names.query_frontend(cluster.name), names.QUERY)
    return [
        objects.disruption_budget(metadata, selector),
        objects.service(metadata, selector, cluster.service_type("query-rpc"), constants.RPC_PORT, "rpc"),
        objects.service(public, selector, cluster.service_type("query"), constants.QUERY_PORT, "http"),
        pods.deployment(metadata, selector, options.num_frontend_replicas, template, pods.ROLLING),
        *([objects.ingress(public, cluster.ingress, constants.QUERY_PORT)] if cluster.ingress else []),
    ]


def _query_frontend(cluster: Cluster, options: FrontendOptions, image: str) -> Manifest:
    flags = {
        **_redis_options(cluster),
        **options.query_frontend_arguments(),
        "workers": options.workers,
        **_FIXED_WORKERS,
        "advertise": f"$({_POD_IP})",
        "drain_seconds": DRAIN_SECONDS,
        "restore_seconds": RESTORE_SECONDS,
    }
    return pods.container(
        names.QUERY,
        image,
        args=_options(flags),
        env=[{"name": _POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[pods.port("http", constants.QUERY_PORT), pods.port("rpc", constants.RPC_PORT)],
        resources=resources.of_query_frontend(cluster, options),
        volumeMounts=[pods.TMP_MOUNT],
        **pods.http_probes("/livez", "/readyz", _START_SECONDS),
        lifecycle=_PRESTOP,
    )


def _exporter(cluster: Cluster, image: str) -> Manifest:
    return pods.container(
        names.EXPORTER,
        image,
        args=["--query_frontend_name", f"localhost:{constants.QUERY_PORT}"],
        ports=[pods.port("metrics", constants.METRIC_PORT)],
        resources=resources.of(cluster, names.EXPORTER),
        volumeMounts=[pods.TMP_MOUNT],
        # No readiness probe: it would make the whole pod not ready, and predictions need no metrics.
        livenessProbe=pods.tcp_probe("metrics", 10, 6),
    )


def _prometheus(cluster: Cluster, images: Images) -> list[Manifest]:
    selector = names.selector(cluster.name, names.METRICS)
    metadata = objects.metadata(cluster, names.metrics(cluster.name), names.METRICS)
    configuration = objects.config_map(
        objects.metadata(cluster, names.prometheus_configuration(cluster.name), names.METRICS),
        prometheus.configurations(cluster),
    )
    container = pods.container(
        "prometheus",
        images.prometheus,
        command=["sh", "-c", prometheus.COMMAND],
        ports=[pods.port("http", constants.PROMETHEUS_PORT)],
        resources=resources.of(cluster, names.METRICS),
        volumeMounts=[
            pods.mount("configuration", prometheus.FOLDER, readOnly=True),
            pods.mount("data", "/prometheus"),
        ],
        **pods.http_probes("/-/healthy", "/-/ready", _START_SECONDS),
    )
    template = pods.template(
        cluster,
        metadata["labels"],
        pods.PROMETHEUS_USER,
        [container],
        [
            {"name": "configuration", "configMap": {"name": configuration["metadata"]["name"]}},
            pods.empty_volume("data"),
        ],
        # Another configuration is another template, and so another pod.
        {"ai.clipper.metric.config": _checksum(configuration["data"])},
        serviceAccountName=names.prometheus_account(cluster.name),
        automountServiceAccountToken=True,
    )
    return [
        configuration,
        *(objects.headless_service(cluster, name, component) for name, component in prometheus.services(cluster)),
        objects.service(metadata, selector, cluster.service_type("metric"), constants.PROMETHEUS_PORT, "http"),
        pods.deployment(metadata, selector, 1, template, pods.ROLLING),
    ]


def _model_template(
    cluster: Cluster, model: ModelSpec, labels: Mapping[str, str], selector: Mapping[str, str]
) -> Manifest:
    environment = {
        constants.ENV_MODEL_NAME: model.name,
        constants.ENV_MODEL_VERSION: model.version,
        constants.ENV_RPC_HOST: names.query_frontends(cluster.name),
        constants.ENV_INPUT_TYPE: model.input_type,
    }
    is_ready = ["test", "-s", READY_FILE]
    container = pods.container(
        names.MODEL,
        model.image,
        env=[{"name": name, "value": value} for name, value in environment.items()],
        ports=[pods.port("metrics", constants.METRIC_PORT)],
        resources=resources.of_model(cluster, model.resources),
        volumeMounts=[pods.TMP_MOUNT],
        # No liveness probe: none can tell a model that hangs from one that computes for minutes. Frontends do not
        # wait for a silent replica, and a process that ended is started again without one.
        startupProbe=pods.command_probe(is_ready, 2, _start_seconds(model) // 2),
        readinessProbe=pods.command_probe(is_ready, 5, 2),
    )
    template = pods.template(
        cluster,
        labels,
        pods.CLIPPER_USER,
        [container],
        [pods.TMP_VOLUME],
        prometheus.SCRAPED,
        terminationGracePeriodSeconds=MODEL_GRACE_SECONDS,
        topologySpreadConstraints=pods.spread(selector),
    )
    return template if cluster.restricts_models else pods.unrestricted(template)


def _start_seconds(model: ModelSpec) -> int:
    return max(MODEL_START_SECONDS, 2 * math.ceil(model.load_seconds))  # pulling its image takes time, too


# --- arguments ---


def _redis_options(cluster: Cluster) -> dict[str, Any]:
    options: dict[str, Any] = {"redis_ip": cluster.redis_address, "redis_port": cluster.redis_port}
    # The option is needed only where another cluster could use the same Redis.
    return options if cluster.redis_ip is None else options | {"cluster_id": f"{cluster.name}/{cluster.namespace}"}


def _options(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _checksum(texts: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(texts.values()).encode()).hexdigest()
