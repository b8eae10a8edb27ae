"""Shared by tests with Docker: a client of the engine, or the reason why there is none, and images of this source."""

import gc
import os
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import DockerException

from clipper_admin import images
from clipper_admin.docker import buildx
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
REFUSING_REDIS = {"--requirepass secret": "wants a password", "--databases 1": "at least the usual 16 databases"}
"""Options of a Redis that refuses to serve Clipper, and what is said of it."""
REQUIRE = "CLIPPER_REQUIRE"
"""The environment variable that lists what must not be missing, such as ``docker,kubernetes``."""


def missing(runtime: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `runtime` is required."""
    if runtime in os.environ.get(REQUIRE, "").split(","):
        pytest.fail(f"{reason} ({REQUIRE} holds {runtime})")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """A client of a real engine. Without one the tests are skipped, unless Docker is required."""
    try:
        client = docker.from_env(timeout=60)  # asks the engine for its version
    except DockerException as error:
        reason = str(error)
    else:
        yield client
        client.close()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # the client that failed left its socket open
    missing("docker", f"no Docker engine answers: {reason}")


@pytest.fixture(scope="session")
def built_images(docker_client: docker.DockerClient) -> dict[str, str]:
    """The name of each component's image. All are built from this source, as ``make images`` does."""
    for recipe in images.recipes():
        build(images.build_arguments(recipe), ROOT)
    return {recipe.component: images.image_name(recipe.component) for recipe in images.recipes()}


def build(arguments: Sequence[str], context: Path) -> None:
    """Build an image with the command that the Makefile uses."""
    result = subprocess.run(
        [*buildx.command(), *arguments, str(context)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:]


@contextmanager
def redis_container(client: docker.DockerClient, options: str) -> Iterator[str]:
    """The address of a Redis in a container, as other containers and this machine reach it."""
    container = client.containers.run("redis:alpine", ["redis-server", *options.split()], detach=True)
    try:
        wait_for(lambda: b"Ready to accept connections" in container.logs(), "Redis accepts connections")
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        yield network["IPAddress"]
    finally:
        container.remove(force=True, v=True)
