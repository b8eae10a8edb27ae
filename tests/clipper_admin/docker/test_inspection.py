"""The state of containers, as docker's ``inspect`` tells it."""

from dataclasses import replace
from typing import Any

import pytest

from clipper_admin import ClipperException
from clipper_admin.docker import containers, inspection
from clipper_admin.docker.containers import Cluster
from clipper_admin.docker.inspection import RunningCluster
from clipper_admin.frontend_options import FrontendOptions


def test_ports_are_read_as_numbers() -> None:
    assert inspection.read_port({"a": "1337"}, "a") == 1337
    for wrong in ({}, {"a": ""}, {"a": "x"}):
        with pytest.raises(ClipperException, match="stop_all"):
            inspection.read_port(wrong, "a")


def inspected(status: str, name: str = "m_1-a", restarts: int = 0, **state: Any) -> dict[str, Any]:
    return {
        "Name": f"/{name}",
        "RestartCount": restarts,
        "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": "", **state},
        "Config": {"Labels": None},
    }


@pytest.mark.parametrize(
    ("attributes", "wanted", "ending"),
    [
        (inspected("running"), True, ""),
        (inspected("created"), True, ""),
        (inspected("running", restarts=1), True, "ended and was started again"),
        (inspected("restarting", restarts=1, ExitCode=3), True, "exited with code 3"),
        (inspected("exited", ExitCode=137), False, "exited with code 137"),
        (
            inspected("exited", ExitCode=137, OOMKilled=True),
            False,
            "was killed because it took more memory than it may",
        ),
        (inspected("created", Error="no such file"), True, "could not be started: no such file"),
        (inspected("dead"), False, "exited with code 0"),
        (inspected("exited", name="m_1-a-stopped"), False, "exited with code 0"),
    ],
)
def test_the_state_of_a_container(attributes: dict[str, Any], wanted: bool, ending: str) -> None:
    assert inspection.is_wanted(attributes) is wanted
    assert inspection.how_it_ended(attributes) == ending


def test_who_stopped_a_replica() -> None:
    assert inspection.was_stopped(inspected("exited", name="m_1-a-stopped"))
    assert not inspection.was_stopped(inspected("exited"))


def test_the_log_configuration_is_read_back() -> None:
    config = containers.fluentd_log("h:1")
    attributes = {"HostConfig": {"LogConfig": {"Type": config["type"], "Config": config["config"]}}}
    assert inspection.log_config_of(attributes) == config
    assert inspection.labels_of(inspected("running")) == {}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1970-01-01T00:00:10.250000001Z", 10.250000001), ("1970-01-01T00:01:00Z", 60.0)],
)
def test_when_a_container_was_started(written: str, seconds: float) -> None:
    assert inspection.started_at(inspected("running", StartedAt=written)) == pytest.approx(seconds, abs=1e-9)


def test_a_running_cluster_is_read_from_its_containers() -> None:
    wanted = Cluster("c", "another", "another", 1)
    started = replace(wanted, network="net", redis_ip="redis", redis_port=6380)
    options = FrontendOptions(num_frontend_replicas=3, workers=2)
    frontend = containers.run_arguments(containers.query_frontend(started, options, 1337, 7000, ""), started)
    others = [
        containers.management_frontend(started, options, 1338, ""),
        containers.prometheus("c", 9090),
    ]
    all_labels = dict(frontend["labels"])
    for other in others:
        all_labels |= containers.run_arguments(other, started)["labels"]
    attributes = {
        "Config": {"Labels": frontend["labels"]},
        "HostConfig": {"NetworkMode": "net", "LogConfig": {"Type": "json-file", "Config": None}},
    }
    assert inspection.running_cluster(wanted, all_labels, attributes) == RunningCluster(
        replace(started, log_config={"type": "json-file", "config": {}}),
        query_port=1337,
        management_port=1338,
        rpc_port=7000,
        metric_port=9090,
        total_workers=6,
        workers=2,
    )
