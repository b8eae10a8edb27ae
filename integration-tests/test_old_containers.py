"""Unmodified containers of Clipper 0.4, each connected to a single query frontend or worker, serve all of them."""

import io
import socket
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from open_loop import NEEDS_GENERATOR, Load, Outcome, RunningLoad

from clipper_admin import ClipperConnection, ProcessContainerManager, images

pytestmark = [
    pytest.mark.integration,
    pytest.mark.alone,
    NEEDS_GENERATOR,
]

OLD_CONTAINER = Path(__file__).with_name("old_container.py")
RATE = 300.0
CONNECTIONS = 32
SLO_MICROS = 2_000_000
DOCKERFILE = """
FROM {base}
COPY old_container.py /old_container.py
HEALTHCHECK NONE
ENTRYPOINT ["python", "/old_container.py"]
"""


@pytest.fixture(scope="module")
def image(new_manager: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the image or script with which a manager runs an old container."""
    if isinstance(new_manager("which"), ProcessContainerManager):
        yield str(OLD_CONTAINER)
        return
    client = request.getfixturevalue("docker_client")
    context, tag = io.BytesIO(), f"clipper-test-old:{uuid.uuid4().hex[:8]}"
    files = {
        "Dockerfile": DOCKERFILE.format(base=images.image_name(images.rpc_component())).encode(),
        OLD_CONTAINER.name: OLD_CONTAINER.read_bytes(),
    }
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
    yield tag
    client.images.remove(tag, force=True)


@pytest.fixture
def conn(new_manager: Any) -> Iterator[ClipperConnection]:
    """Four workers, or two query frontends with two workers each."""
    manager = new_manager("old-containers")
    conn = ClipperConnection(manager)
    alone = isinstance(manager, ProcessContainerManager)
    number, workers = (1, 4) if alone else (2, 2)
    conn.start_clipper(num_frontend_replicas=number, workers=workers, cache_size=0)
    conn.register_application("app", "doubles", "default", SLO_MICROS)
    yield conn
    conn.stop_all()


def load(conn: ClipperConnection, seconds: float) -> RunningLoad:
    address = urlsplit(f"http://{conn.get_query_addr()}")
    host = socket.gethostbyname(address.hostname or "")
    return RunningLoad(
        Load(address.port or 80, "/app/predict", RATE, seconds, CONNECTIONS, host=host, arrivals="uniform")
    )


def failures(load: RunningLoad) -> dict[str, int]:
    """Return the failures and their numbers."""
    result = load.result()
    assert result.offered > RATE / 2
    unanswered = result.count(Outcome.UNANSWERED)
    return result.reasons | ({"unanswered": unanswered} if unanswered else {})


def deploy_and_scale(conn: ClipperConnection, image: str, version: str, seconds: float) -> list[dict[str, int]]:
    """Return the failures in the seconds after a deployment and while replicas come and go."""
    conn.deploy_model("old", version, "doubles", image, num_replicas=2)
    if version == "1":
        conn.link_model_to_app("app", "old")
    with load(conn, seconds) as running:
        deployed = failures(running)
    with load(conn, 2 * seconds) as running:
        time.sleep(0.2 * seconds)  # of steady load
        conn.set_num_replicas("old", 1)
        time.sleep(0.2 * seconds)
        conn.set_num_replicas("old", 2)
        scaled = failures(running)
    return [deployed, scaled]


def test_no_query_fails_after_deploying_or_while_scaling(conn: ClipperConnection, image: str) -> None:
    assert deploy_and_scale(conn, image, "1", 1.5) == [{}, {}]


@pytest.mark.long
def test_no_query_fails_while_query_frontends_come_and_go(conn: ClipperConnection, image: str) -> None:
    conn.deploy_model("old", "1", "doubles", image)
    conn.link_model_to_app("app", "old")
    before = conn.get_num_frontend_replicas()
    with load(conn, 12.0) as running:
        for number in (before + 1, 1, before):
            time.sleep(1.0)  # of steady load
            conn.set_num_frontend_replicas(number)
        assert failures(running) == {}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_query_fails_in_ten_deployments(conn: ClipperConnection, image: str) -> None:
    assert [deploy_and_scale(conn, image, str(version), 3.0) for version in range(1, 11)] == [[{}, {}]] * 10
