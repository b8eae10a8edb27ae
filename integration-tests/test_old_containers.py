"""Unmodified containers of Clipper 0.4, each connected to a single query frontend or worker, serve all of them."""

import contextlib
import http.client
import io
import itertools
import json
import tarfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from clipper_admin import ClipperConnection, ProcessContainerManager, images

pytestmark = [pytest.mark.integration, pytest.mark.alone]

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


class PacedLoad:
    """Clients with a connection each, which together ask `RATE` queries per second, no two with the same input."""

    def __init__(self, conn: ClipperConnection, seconds: float) -> None:
        self.answered = 0
        self._failures: Counter[str] = Counter()
        self._address = conn.get_query_addr()
        self._until = time.monotonic() + seconds
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(CONNECTIONS)]

    def _ask(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        with contextlib.closing(connection):
            due = time.monotonic() + client / RATE
            for number in itertools.count():
                time.sleep(max(0.0, due - time.monotonic()))
                if due > self._until:
                    return
                due += CONNECTIONS / RATE
                try:
                    connection.request("POST", "/app/predict", json.dumps({"input": [client + number / 2**16]}))
                    answer = json.loads(connection.getresponse().read())
                except (OSError, http.client.HTTPException) as error:
                    self._failures[repr(error)] += 1
                    connection.close()
                    continue
                self.answered += 1
                if answer["default"]:
                    self._failures[answer["default_explanation"]] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(60)

    def failures(self) -> dict[str, int]:
        """Return the failures and their numbers."""
        self.__exit__()
        assert self.answered + self._failures.total() > RATE / 2
        print(f"{self.answered} answers, failures: {dict(self._failures)}")  # pytest shows it with -s
        return dict(self._failures)


def deploy_and_scale(conn: ClipperConnection, image: str, version: str, seconds: float) -> list[dict[str, int]]:
    """Return the failures in the seconds after a deployment and while replicas come and go."""
    conn.deploy_model("old", version, "doubles", image, num_replicas=2)
    if version == "1":
        conn.link_model_to_app("app", "old")
    with PacedLoad(conn, seconds) as load:
        deployed = load.failures()
    with PacedLoad(conn, 2 * seconds) as load:
        time.sleep(0.2 * seconds)  # of steady load
        conn.set_num_replicas("old", 1)
        time.sleep(0.2 * seconds)
        conn.set_num_replicas("old", 2)
        scaled = load.failures()
    return [deployed, scaled]


def test_no_query_fails_after_deploying_or_while_scaling(conn: ClipperConnection, image: str) -> None:
    assert deploy_and_scale(conn, image, "1", 1.5) == [{}, {}]


@pytest.mark.long
def test_no_query_fails_while_query_frontends_come_and_go(conn: ClipperConnection, image: str) -> None:
    conn.deploy_model("old", "1", "doubles", image)
    conn.link_model_to_app("app", "old")
    before = conn.get_num_frontend_replicas()
    with PacedLoad(conn, 12.0) as load:
        for number in (before + 1, 1, before):
            time.sleep(1.0)  # of steady load
            conn.set_num_frontend_replicas(number)
        assert load.failures() == {}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_query_fails_in_ten_deployments(conn: ClipperConnection, image: str) -> None:
    assert [deploy_and_scale(conn, image, str(version), 3.0) for version in range(1, 11)] == [[{}, {}]] * 10
