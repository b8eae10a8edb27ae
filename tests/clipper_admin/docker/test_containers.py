"""Tests of containers as values: the arguments for Docker, and what is read from its answers."""

import json
from typing import Any

import pytest

from clipper_admin import ClipperException, DockerContainerManager
from clipper_admin import container_manager as labels
from clipper_admin.docker import containers, inspection
from clipper_admin.docker.containers import Cluster, Container, Port
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import ALL_GPUS, UNLIMITED, Resources

CLUSTER = Cluster("c", "net", "redis-c", 6379)


def arguments(container: Container, cluster: Cluster = CLUSTER) -> dict[str, Any]:
    return containers.run_arguments(container, cluster)


def replica(resources: Resources = UNLIMITED, cluster: Cluster = CLUSTER) -> Container:
    return containers.replica(cluster, ModelSpec("m", "1.0", "doubles", "image", resources=resources), "abc")


# --- names, labels, commands (facts of Clipper 0.4) ---


def test_query_frontend() -> None:
    options = FrontendOptions(
        "image",
        cache_size=1,
        qf_http_thread_pool_size=2,
        qf_http_timeout_request=3,
        qf_http_timeout_content=4,
        num_frontend_replicas=3,
        workers=2,
        query_frontend_flags={"max_body_bytes": 65536},
    )
    found = arguments(containers.query_frontend(CLUSTER, options, 1337, 7000, ""))
    assert found["name"] == containers.query_frontend_name("c")
    assert found["image"] == "image"
    assert found["command"] == [
        "--redis_ip=redis-c",
        "--redis_port=6379",
        f"--advertise={containers.query_frontend_name('c')}",
        "--prediction_cache_size=1",
        "--thread_pool_size=2",
        "--timeout_request=3",
        "--timeout_content=4",
        "--max_body_bytes=65536",
        "--workers=6",
    ]
    assert found["ports"] == {"1337/tcp": 1337, "7000/tcp": 7000}
    assert found["labels"] == {
        "ai.clipper.container.label": "c",
        "ai.clipper.query_frontend.label": "",
        "ai.clipper.query_frontend.query.port": "1337",
        "ai.clipper.query_frontend.rpc.port": "7000",
        "ai.clipper.query_frontend.total_workers": "6",
        "ai.clipper.query_frontend.workers": "2",
        "ai.clipper.redis.ip": "redis-c",
        "ai.clipper.redis.port": "6379",
    }
    assert found["restart_policy"] == {"Name": "unless-stopped"}
    assert found["network"] == "net"


def test_an_external_redis_is_honoured_and_claimed() -> None:
    cluster = Cluster("c", "net", "redis.example.com", 6380)
    options = FrontendOptions(mgmt_frontend_image="image", mgmt_frontend_flags={"allowed_hosts": "a,b"})
    found = arguments(containers.management_frontend(cluster, options, 1338, "c/1"))
    assert found["image"] == "image"
    assert found["command"] == [
        "--redis_ip=redis.example.com",
        "--redis_port=6380",
        "--cluster_id=c/1",
        "--allowed_hosts=a,b",
    ]
    assert found["ports"] == {"1338/tcp": 1338}
    assert found["labels"]["ai.clipper.management_frontend.label"] == ""
    assert found["labels"]["ai.clipper.management.port"] == "1338"


def test_exporter() -> None:
    found = arguments(containers.exporter("c", "image"))
    assert found["command"] == ["--query_frontend_name", f"{containers.query_frontend_name('c')}:1337"]
    assert found["ports"] == {}
    assert found["networking_config"] == {"net": {"Aliases": ["exporters.c"]}}


def test_redis_is_not_published() -> None:
    found = arguments(containers.redis("c"))
    assert found["ports"] == {}
    assert found["command"][:3] == ["redis-server", "--port", "6379"]


def test_replica() -> None:
    found = arguments(replica())
    assert found["name"] == "m_1.0-abc"
    assert found["environment"] == {
        "CLIPPER_MODEL_NAME": "m",
        "CLIPPER_MODEL_VERSION": "1.0",
        "CLIPPER_IP": containers.query_frontend_name("c"),
        "CLIPPER_INPUT_TYPE": "doubles",
    }
    assert found["command"] is None
    assert found["ports"] == {}
    assert found["labels"]["ai.clipper.model_container.label"] == "m_1.0"
    assert found["networking_config"] == {"net": {"Aliases": ["replicas.c"]}}


def test_clusters_have_names_of_their_own() -> None:
    names = {containers.query_frontend_name(name) for name in ("a", "b", "a-b")}
    assert len(names) == 3
    assert all(name.startswith("query_frontend-") for name in names)


def test_prometheus_discovers_by_dns() -> None:
    container = containers.prometheus("c", 9090)
    assert container.image == "prom/prometheus:v2.42.0"
    (configuration,) = container.files.values()
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in json.loads(configuration)["scrape_configs"]}
    assert {name: (job["names"], job["type"], job["port"]) for name, job in jobs.items()} == {
        "query": (["exporters.c"], "A", 1390),
        "models": (["replicas.c"], "A", 1390),
    }


def test_fluentd_logs_not_to_itself() -> None:
    cluster = Cluster("c", "net", "r", 1, log_config=containers.fluentd_log("127.0.0.1:24224"))
    assert arguments(replica(cluster=cluster), cluster)["log_config"]["type"] == "fluentd"
    fluentd = arguments(containers.fluentd("c", 24224), cluster)
    assert fluentd["log_config"] == {"type": "json-file"}
    assert fluentd["ports"] == {"24224/tcp": 24224, "24224/udp": 24224}


def test_docker_leaves_a_replica_the_time_to_load() -> None:
    assert "healthcheck" not in arguments(replica())
    slow = containers.replica(CLUSTER, ModelSpec("m", "1.0", "doubles", "image", load_seconds=900), "abc")
    assert arguments(slow)["healthcheck"] == {"start_period": 900_000_000_000}


# --- resources ---


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (UNLIMITED, {}),
        (Resources(memory_bytes=5), {"mem_limit": 5, "memswap_limit": 5}),
        (Resources(cpus=1.5), {"nano_cpus": 1_500_000_000}),
        (Resources(gpus=2), {"device_requests": [{"count": 2, "capabilities": [["gpu"]]}]}),
        (Resources(gpus=ALL_GPUS), {"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]}),
        (Resources(gpus=("0", "1")), {"device_requests": [{"device_ids": ["0", "1"], "capabilities": [["gpu"]]}]}),
    ],
)
def test_resources_are_limits_and_are_read_back(resources: Resources, expected: dict[str, Any]) -> None:
    found = arguments(replica(resources))
    limits = {"mem_limit", "memswap_limit", "nano_cpus", "device_requests"}
    assert {name: value for name, value in found.items() if name in limits} == expected
    assert inspection.resources_of({"Config": {"Labels": found["labels"]}}) == resources


# --- what the user adds ---


@pytest.mark.parametrize("theirs", [{"who": "me"}, ["who=me"]])
def test_extra_labels_and_environment_are_merged(theirs: Any) -> None:
    cluster = Cluster("c", "net", "r", 1, extra={"labels": theirs, "environment": theirs, "mem_limit": "1g"})
    found = arguments(replica(), cluster)
    assert found["labels"]["who"] == found["environment"]["who"] == "me"
    assert found["labels"]["ai.clipper.container.label"] == "c"
    assert found["environment"]["CLIPPER_MODEL_NAME"] == "m"
    assert found["mem_limit"] == "1g"


def test_the_user_may_choose_another_restart_policy() -> None:
    cluster = Cluster("c", "net", "r", 1, extra={"restart_policy": {"Name": "no"}})
    assert arguments(replica(), cluster)["restart_policy"] == {"Name": "no"}


@pytest.mark.parametrize("name", ["name", "ports", "network", "command", "detach"])
def test_what_the_manager_decides_cannot_be_given(name: str) -> None:
    with pytest.raises(ClipperException, match=name):
        DockerContainerManager(extra_container_kwargs={name: None})


@pytest.mark.parametrize("name", ["", "Upper", "a b", "-a", "a-", "a..b", "a/b", "a" * 64])
def test_cluster_names_that_images_cannot_carry(name: str) -> None:
    with pytest.raises(ClipperException, match="cannot be the name of a cluster"):
        containers.check_cluster_name(name)


@pytest.mark.parametrize("name", ["a", "default-cluster", "a_b.c--d", "1"])
def test_cluster_names(name: str) -> None:
    containers.check_cluster_name(name)


@pytest.mark.parametrize("name", ["host", "bridge", "none", "container:abc"])
def test_networks_that_cannot_work(name: str) -> None:
    with pytest.raises(ClipperException, match=f"docker_network='{name}' cannot be used: .{{20}}"):
        containers.check_network(name)


# --- ports ---

PORTS = Container("x", "image", ports=(Port(1337, 1337, "a"), Port(7000, 7000, "b")))


@pytest.mark.parametrize(
    ("message", "port"),
    [
        ("Bind for 0.0.0.0:1337 failed: port is already allocated", 1337),
        ("Error starting userland proxy: listen tcp4 0.0.0.0:7000: bind: address already in use", 7000),
        ("failed to bind host port for 0.0.0.0:7000:172.18.0.2:7000/tcp: address already in use", 7000),
        ("Ports are not available: exposing port TCP 0.0.0.0:1337 -> 0.0.0.0:0".lower(), 1337),
        ("Bind for 0.0.0.0:99 failed: port is already allocated", None),
        ("no such image: a:1337", None),
    ],
)
def test_which_port_is_taken(message: str, port: int | None) -> None:
    assert containers.taken_port(message, PORTS) == port


def test_a_port_is_moved_with_its_label() -> None:
    found = arguments(PORTS.moved(1337, 20000))
    assert found["ports"] == {"1337/tcp": 20000, "7000/tcp": 7000}
    assert found["labels"]["a"] == "20000"


def test_one_of_two_equal_ports_is_moved() -> None:
    twice = Container("x", "image", ports=(Port(1, 5, "a"), Port(2, 5, "b")))
    assert [port.on_host for port in twice.moved(5, 6).ports] == [6, 5]


def test_any_port_will_do() -> None:
    container = Container("x", "image", ports=(Port(1, 0, "a"), Port(2, 5, "b")))
    assert [port.on_host for port in container.with_ports_chosen(lambda: 7).ports] == [7, 5]


def test_redis_labels_tell_where_redis_is() -> None:
    found = arguments(containers.query_frontend(CLUSTER, FrontendOptions(), 1, 2, ""))["labels"]
    assert (found[labels.CLIPPER_REDIS_IP_LABEL], found[labels.CLIPPER_REDIS_PORT_LABEL]) == ("redis-c", "6379")
