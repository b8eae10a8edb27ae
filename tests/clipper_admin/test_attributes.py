"""Attributes that scripts and tests of Clipper 0.4 read, at the same places."""

import shutil
from pathlib import Path

from clipper_admin import DockerContainerManager, KubernetesContainerManager, ProcessContainerManager, container_manager
from clipper_admin.deployers.deployer_utils import save_python_function, serialize_object
from clipper_common.modeldir import load_function


def test_constants() -> None:
    found = {name: value for name, value in vars(container_manager).items() if name.startswith("CLIPPER_INTERNAL_")}
    assert found == {
        "CLIPPER_INTERNAL_QUERY_PORT": 1337,
        "CLIPPER_INTERNAL_MANAGEMENT_PORT": 1338,
        "CLIPPER_INTERNAL_RPC_PORT": 7000,
        "CLIPPER_INTERNAL_METRIC_PORT": 1390,
        "CLIPPER_INTERNAL_REDIS_PORT": 6379,
        "CLIPPER_INTERNAL_FLUENTD_PORT": 24224,
    }
    assert set(container_manager.CLIPPER_DOCKER_PORT_LABELS) == {
        *("redis", "query_rest", "query_rpc", "management", "metric", "fluentd")
    }
    assert container_manager.CONTAINERLESS_MODEL_IMAGE == "NO_CONTAINER"


def test_docker() -> None:
    cm = DockerContainerManager(
        "c", "1.2.3.4", True, 24225, 1, 2, 3, "redis-host", "4", 5, "net", {"labels": {"a": "b"}}
    )
    ports = (cm.clipper_query_port, cm.clipper_management_port, cm.clipper_rpc_port, cm.redis_port, cm.prometheus_port)
    assert ports == (1, 2, 3, 4, 5)
    assert (cm.public_hostname, cm.redis_ip, cm.external_redis, cm.docker_network) == (
        "1.2.3.4",
        "redis-host",
        True,
        "net",
    )
    assert cm.centralize_log and cm.logging_system_instance is None


def test_docker_without_options() -> None:
    cm = DockerContainerManager()
    assert (cm.external_redis, cm.centralize_log, cm.logging_system_instance) == (False, False, None)
    assert cm.log_config is None


def test_kubernetes() -> None:
    cm = KubernetesContainerManager("c", "127.0.0.1:8001", "redis-host", 1, True, "n", {"query": "LoadBalancer"})
    assert (cm.k8s_namespace, cm.redis_ip, cm.redis_port) == ("n", "redis-host", 1)


def test_processes() -> None:
    cm = ProcessContainerManager("c", 1, 2, 3, "[::1]", 4, 5)
    assert (cm.clipper_query_port, cm.clipper_management_port, cm.clipper_rpc_port) == (1, 2, 3)
    assert (cm.redis_ip, cm.redis_port, cm.prometheus_port) == ("::1", 4, 5)


def test_helpers_of_deployers() -> None:
    folder = Path(save_python_function("mine", lambda xs: [len(xs)]))
    try:
        assert load_function(folder)([1, 2]) == [2]
        assert isinstance(serialize_object(len), bytes)
    finally:
        shutil.rmtree(folder)
