"""Tests of the calls, imports and attributes of scripts for Clipper 0.4 and for older documents."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipper_admin import (
    ClipperConnection,
    ClipperException,
    DockerContainerManager,
    KubernetesContainerManager,
    ProcessContainerManager,
    container_manager,
)
from clipper_admin.deployers import deployer_utils
from clipper_common import constants, modeldir

# --- positional arguments in the order of documents older than 0.4 ---

ADDRESSES = ["192.168.1.5", "localhost", "::1", "[::1]", "docker.example.com:2376", "tcp://10.0.0.7:2375"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_address_of_docker_is_no_cluster_name(address: str) -> None:
    with pytest.raises(ClipperException, match="by keyword: DockerContainerManager.docker_ip_address="):
        DockerContainerManager(address)


@pytest.mark.parametrize("address", [*ADDRESSES, None])
def test_the_address_of_a_proxy_is_no_cluster_name(address: Any) -> None:
    with pytest.raises(ClipperException, match="by keyword: KubernetesContainerManager.kubernetes_proxy_addr="):
        KubernetesContainerManager(address)


def test_all_arguments_of_a_manager_in_the_older_order() -> None:
    with pytest.raises(ClipperException, match="cluster_name='localhost', .*an address"):
        DockerContainerManager("localhost", 1337, 1338, 7000)  # type: ignore[arg-type]
    with pytest.raises(ClipperException, match="docker_ip_address=1337.*cluster_name since Clipper 0.4"):
        DockerContainerManager("myhost", 1337, 1338)  # type: ignore[arg-type]
    with pytest.raises(ClipperException, match="cluster_name=None, .*nothing.*kubernetes_proxy_addr"):
        KubernetesContainerManager(None, "redis.example.com")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["default-cluster", "v1.2", "my-host", "10", "a.b.c"])
def test_names_of_clusters_are_no_addresses(name: str) -> None:
    assert DockerContainerManager(name).cluster_name == name
    assert KubernetesContainerManager(name).cluster_name == name


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("q", "m", 33554432), r"start_clipper\(..., cache_size=33554432\)"),
        (("q", "m", 33554432, 2), r"start_clipper\(..., cache_size=33554432, num_frontend_replicas=2\)"),
        (("q", "m", 0, 1), r"start_clipper\(..., cache_size=0, num_frontend_replicas=1\)"),
    ],
)
def test_start_clipper_in_the_older_order(arguments: tuple[Any, ...], hint: str) -> None:
    with pytest.raises(ClipperException, match=hint):
        ClipperConnection(ProcessContainerManager("never-started")).start_clipper(*arguments)


# --- names that scripts import and read ---


def test_constants_of_the_container_manager() -> None:
    assert container_manager.CLIPPER_INTERNAL_QUERY_PORT == constants.QUERY_PORT
    assert container_manager.CLIPPER_INTERNAL_MANAGEMENT_PORT == constants.MANAGEMENT_PORT
    assert container_manager.CLIPPER_INTERNAL_RPC_PORT == constants.RPC_PORT
    assert container_manager.CLIPPER_INTERNAL_METRIC_PORT == constants.METRIC_PORT
    assert container_manager.CLIPPER_INTERNAL_REDIS_PORT == constants.REDIS_PORT
    assert container_manager.CLIPPER_INTERNAL_FLUENTD_PORT == constants.FLUENTD_PORT
    assert container_manager.CONTAINERLESS_MODEL_IMAGE == "NO_CONTAINER"
    assert container_manager.CLIPPER_DOCKER_PORT_LABELS["query_rest"] == "ai.clipper.query_frontend.query.port"
    assert container_manager.CLIPPER_DOCKER_PORT_LABELS.keys() == {
        *("redis", "query_rest", "query_rpc", "management", "metric", "fluentd")
    }


PORTS: dict[str, Any] = {"clipper_query_port": 1, "clipper_management_port": 2, "clipper_rpc_port": 3}


@pytest.mark.parametrize("manager", [ProcessContainerManager, DockerContainerManager])
def test_ports_before_the_cluster_runs(manager: Any) -> None:
    cm = manager(**PORTS, prometheus_port=4, redis_ip="redis.example.com", redis_port=5)
    assert {name: getattr(cm, name) for name in PORTS} == PORTS
    assert (cm.prometheus_port, cm.redis_ip, cm.redis_port) == (4, "redis.example.com", 5)


@pytest.mark.parametrize("manager", [ProcessContainerManager, DockerContainerManager, KubernetesContainerManager])
def test_the_host_of_redis(manager: Any) -> None:
    assert manager(redis_ip="[::1]").redis_ip == manager(redis_ip="::1").redis_ip == "::1"
    assert manager(redis_ip="redis.example.com").redis_ip == "redis.example.com"
    for wrong in ("redis://h", "h:6379", "[::1]:6379", "127.0.0.1:6379", "[::1", 5):
        with pytest.raises(ClipperException, match="redis_ip="):
            manager(redis_ip=wrong)


def test_attributes_of_the_docker_manager() -> None:
    cm = DockerContainerManager(use_centralized_log=True, docker_network="n")
    assert cm.centralize_log and cm.log_config is None and cm.logging_system_instance is None
    assert not cm.external_redis and cm.docker_network == "n" and cm.public_hostname == "localhost"
    assert not DockerContainerManager().centralize_log
    assert DockerContainerManager(redis_ip="r").external_redis


def test_attributes_of_the_kubernetes_manager() -> None:
    cm = KubernetesContainerManager("c", namespace="n", redis_port=7)
    assert (cm.k8s_namespace, cm.redis_ip, cm.redis_port) == ("n", "redis-at-c", 7)
    assert KubernetesContainerManager("c", redis_ip="r").redis_ip == "r"


def double(xs: list[Any]) -> list[Any]:
    return [2 * x for x in xs]


def test_functions_of_the_deployers() -> None:
    assert pickle.loads(deployer_utils.serialize_object(double))([2]) == [4]
    folder = deployer_utils.save_python_function("name", double)
    try:
        assert modeldir.load_function(Path(folder))([2]) == [4]
    finally:
        shutil.rmtree(folder)
    with pytest.raises(ClipperException, match="cannot be pickled"):
        deployer_utils.save_python_function("name", (x for x in ()))  # type: ignore[arg-type]
