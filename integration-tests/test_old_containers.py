"""Unmodified containers of Clipper 0.4, each connected to a single query frontend or worker, serve all of them."""

import io
import shutil
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_support import ROOT

sys.path.insert(0, str(ROOT))

from bench.open_loop import Load, Outcome, Result, RunningLoad
from clipper_admin import ClipperConnection, ProcessContainerManager, images

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
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
    """What runs an old container, in the manager's own way."""
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
    if isinstance(manager, ProcessContainerManager):
        conn.start_clipper(workers=4, cache_size=0)
    else:
        conn.start_clipper(num_frontend_replicas=2, workers=2, cache_size=0)
    conn.register_application("app", "doubles", "default", SLO_MICROS)
    yield conn
    conn.stop_all()


def load(conn: ClipperConnection, seconds: float) -> RunningLoad:
    port = int(conn.get_query_addr().rpartition(":")[2])
    return RunningLoad(Load(port, "/app/predict", RATE, seconds, CONNECTIONS))


def failures(result: Result) -> dict[str, int]:
    assert result.offered > RATE / 2
    found = {outcome.name: result.count(outcome) for outcome in Outcome if outcome is not Outcome.OK}
    return {name: count for name, count in found.items() if count} | dict(result.reasons)


def deploy_and_scale(conn: ClipperConnection, image: str, version: str, seconds: float) -> list[dict[str, int]]:
    """What failed in the seconds after a deployment and while replicas come and go."""
    conn.deploy_model("old", version, "doubles", image, num_replicas=2)
    if version == "1":
        conn.link_model_to_app("app", "old")
    with load(conn, seconds) as running:
        deployed = running.result()
    with load(conn, 2 * seconds) as running:
        time.sleep(0.2 * seconds)  # of steady load
        conn.set_num_replicas("old", 1)
        time.sleep(0.2 * seconds)
        conn.set_num_replicas("old", 2)
        scaled = running.result()
    return [failures(deployed), failures(scaled)]


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
        assert failures(running.result()) == {}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_no_query_fails_in_ten_deployments(conn: ClipperConnection, image: str) -> None:
    assert [deploy_and_scale(conn, image, str(version), 3.0) for version in range(1, 11)] == [[{}, {}]] * 10
