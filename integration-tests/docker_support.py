"""What tests with Docker share: a client of the engine or the reason why they are skipped, and images of this source."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

import docker
from clipper_admin import images
from docker.errors import DockerException

ROOT = Path(__file__).parents[1]
REQUIRE = "CLIPPER_REQUIRE"
"""The environment variable that lists what must not be missing, such as ``docker,kubernetes``."""


def missing(runtime: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `runtime` is required."""
    if runtime in os.environ.get(REQUIRE, "").split(","):
        pytest.fail(f"{reason} ({REQUIRE} holds {runtime})")
    pytest.skip(reason)


def connect() -> docker.DockerClient:
    """A client of an engine that answers. Raises DockerException if there is none."""
    client = docker.from_env(timeout=60)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """A client of a real engine. Without one the tests are skipped, unless Docker is required."""
    try:
        client = connect()
    except DockerException as error:
        missing("docker", f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def built_images(docker_client: docker.DockerClient) -> dict[str, str]:
    """The name of each component's image. All are built from this source, as ``make images`` does."""
    for recipe in images.recipes():
        build(images.build_arguments(recipe), ROOT)
    return {recipe.component: images.image_name(recipe.component) for recipe in images.recipes()}


def build(arguments: Sequence[str], context: Path) -> None:
    """``docker build``, as the Makefile has it."""
    result = subprocess.run(
        ["docker", "build", *arguments, str(context)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:]
