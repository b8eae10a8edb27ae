"""Each framework with its real self on both sides: models are made, deployed, and asked over REST.

Frameworks whose requirements clash cannot be in one environment. Each group has its own, made when it is first needed
and kept in the checkout; it gets what the Dockerfiles of the group install. With Docker, the images are built too.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docker_support import ROOT, build, missing
from framework_environments import GROUPS, environment, environment_of

from clipper_admin import images

pytestmark = [pytest.mark.integration, pytest.mark.framework, pytest.mark.timeout(900)]

EXAMPLE_ARGUMENTS: dict[str, list[str]] = {"process": [], "docker": ["--docker"]}
FIRST = {
    "pytorch": "process",
    "onnx": "docker",
    "mxnet": "docker",
    "tensorflow": "process",
    "keras": "process",
    "pyspark": "process",
}
"""The manager on which `make test-frameworks` tests each framework. The other one is for `make test-all`."""
NEEDS = {"docker": "docker_frameworks", "process": "clipper_home"}
RUN = Path(__file__).parent / "frameworks" / "run.py"
RUN_SECONDS = 600.0
PREDICTIONS = 200


def cases() -> list[object]:
    return [
        pytest.param(
            framework,
            manager,
            id=f"{framework}-{manager}",
            marks=[
                *([pytest.mark.docker] if manager == "docker" else []),
                *([pytest.mark.other_manager] if manager != FIRST[framework] else []),
            ],
        )
        for framework in images.FRAMEWORKS
        for manager in NEEDS
    ]


@pytest.fixture
def docker_frameworks(built_images: dict[str, str], left_nothing_in_docker: None) -> None:
    """An engine that has the images, and gets rid of what is deployed."""


@pytest.mark.parametrize(("framework", "manager"), cases())
def test_framework(framework: str, manager: str, request: pytest.FixtureRequest) -> None:
    if framework == "pyspark" and not shutil.which("java"):
        missing("java", "Spark runs on Java, which is not on PATH")
    request.getfixturevalue(NEEDS[manager])
    python = environment_of(framework)
    if manager == "docker":
        for recipe in images.framework_recipes([framework]):
            build(images.build_arguments(recipe), ROOT)
    command = [python, RUN, framework, manager]
    result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert reports
    assert all(report["predictions"] == PREDICTIONS for report in reports)
    print(*reports, sep="\n")


@pytest.mark.parametrize(
    "manager", ["process", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.other_manager])]
)
@pytest.mark.parametrize("library", ["sklearn", "xgboost", "lightgbm"])
def test_library_without_a_deployer(library: str, manager: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(NEEDS[manager])
    command = [environment("python"), ROOT / "examples" / f"{library}_model.py", *EXAMPLE_ARGUMENTS[manager]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    difference, accuracy = re.search(r"of 143: (\S+)\nAccuracy: +([\d.]+)%", result.stdout).groups()  # type: ignore[union-attr]
    assert float(difference) < 1e-6
    assert float(accuracy) > 90


def test_every_framework_is_tested() -> None:
    assert FIRST.keys() == images.FRAMEWORKS.keys() == {name for group in GROUPS.values() for name in group}
    assert set(FIRST.values()) == NEEDS.keys()
