"""Tests of the arguments resources= and gpus= up to the container manager."""

from pathlib import Path
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException
from clipper_admin.arguments import check_packages
from clipper_admin.deployers import python as python_deployer
from clipper_admin.resources import ALL_GPUS, UNLIMITED, Resources, check_resources
from tests.clipper_admin.fakes import FakeContainerManager

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        (None, None, UNLIMITED),
        ({}, 0, UNLIMITED),
        ({"memory": "512m"}, None, Resources(memory_bytes=512 * MIB)),
        ({"memory": "512Mi"}, None, Resources(memory_bytes=512 * MIB)),
        ({"memory": "1.5gb"}, None, Resources(memory_bytes=1536 * MIB)),
        ({"memory": 4096}, None, Resources(memory_bytes=4096)),
        ({"cpus": 2}, None, Resources(cpus=2.0)),
        ({"cpus": 0.5, "memory": "1k"}, 2, Resources(1024, 0.5, 2)),
        (None, "all", Resources(gpus=ALL_GPUS)),
        (None, ["GPU-1", 0], Resources(gpus=("GPU-1", "0"))),
    ],
)
def test_resources(resources: Any, gpus: Any, expected: Resources) -> None:
    assert check_resources(resources, gpus) == expected


@pytest.mark.parametrize(
    ("resources", "gpus", "named"),
    [
        ("1g", None, "resources='1g'"),
        ({"ram": "1g"}, None, "'memory', 'cpus'"),
        ({"memory": "lots"}, None, "memory='lots'"),
        ({"memory": 0}, None, "memory=0"),
        ({"memory": -1}, None, "memory=-1"),
        ({"memory": True}, None, "memory=True"),
        ({"cpus": 0}, None, "cpus=0"),
        ({"cpus": "2"}, None, "cpus='2'"),
        ({"cpus": True}, None, "cpus=True"),
        (None, -1, "gpus=-1.*'all'"),
        (None, "two", "gpus='two'"),
        (None, [None], "gpus"),
    ],
)
def test_wrong_resources(resources: Any, gpus: Any, named: str) -> None:
    with pytest.raises(ClipperException, match=named):
        check_resources(resources, gpus)


def test_options_of_pip_are_no_packages() -> None:
    assert check_packages(["a==1", "b"]) == ["a==1", "b"]
    assert check_packages(None) == []
    for wrong in ("--index-url=x", " -r x", " "):
        with pytest.raises(ClipperException, match="option of pip"):
            check_packages([wrong])


def test_the_manager_gets_them(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.deploy_model("m", 1, "doubles", "image", resources={"cpus": 1}, gpus=1)
    assert cm.resources == Resources(cpus=1.0, gpus=1)
    python_deployer.deploy_python_closure(conn, "f", 1, "doubles", len, resources={"memory": "1g"})
    assert cm.resources == Resources(memory_bytes=1024 * MIB)
    python_deployer.create_endpoint(conn, "e", "doubles", len, gpus="all")
    assert cm.resources == Resources(gpus=ALL_GPUS)
    conn.deploy_model("m", 2, "doubles", "image")
    assert cm.resources == UNLIMITED


def test_resources_need_replicas(conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path) -> None:
    for deploy in (
        lambda: conn.deploy_model("m", 1, "doubles", "image", num_replicas=0, gpus=1),
        lambda: conn.build_and_deploy_model("m", 1, "doubles", tmp_path, "base", num_replicas=0, gpus=1),
    ):
        with pytest.raises(ClipperException, match="num_replicas=0"):
            deploy()
    assert cm.calls == [("connect",)]
