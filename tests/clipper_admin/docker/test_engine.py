"""The engine's errors, by a client that fails as Docker does."""

import io
import logging
import tarfile
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from clipper_admin import ClipperException, images
from clipper_admin.docker.containers import Cluster, Container, Port
from clipper_admin.docker.engine import Engine, NameTaken, in_parallel, translated

CLUSTER = Cluster("c", "net", "r", 1)


def api_error(status: int, text: str, kind: type[APIError] = APIError) -> APIError:
    response = requests.Response()
    response.status_code = status
    return kind(text, response=response, explanation=text)


class FakeContainer:
    def __init__(self, engine: "FakeDocker", **arguments: Any) -> None:
        self.name = arguments.get("name", "x")
        self.arguments = arguments
        self.archives: list[tuple[str, bytes]] = []
        self.removed = False
        self._engine = engine

    def start(self) -> None:
        for port in self.arguments["ports"].values():
            if port in self._engine.taken:
                raise api_error(500, f"Bind for 0.0.0.0:{port} failed: port is already allocated")
        if self._engine.start_error:
            raise self._engine.start_error

    def put_archive(self, folder: str, data: bytes) -> None:
        self.archives.append((folder, data))

    def remove(self, force: bool, v: bool) -> None:
        assert force and v, "or running containers and volumes stay"
        self.removed = True


class FakeDocker:
    """Stands for docker's client and its collections."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.start_error: Exception | None = None
        self.create_error: Exception | None = None
        self.get_error: Exception | None = None
        self.pull_error: Exception | None = None
        self.made: list[FakeContainer] = []
        self.containers = SimpleNamespace(create=self.create)
        self.images = SimpleNamespace(get=self.get, pull=self.pull)

    def create(self, **arguments: Any) -> FakeContainer:
        if self.create_error:
            raise self.create_error
        self.made.append(FakeContainer(self, **arguments))
        return self.made[-1]

    def get(self, name: str) -> str:
        if self.get_error:
            raise self.get_error
        return f"local {name}"

    def pull(self, name: str) -> str:
        if self.pull_error:
            raise self.pull_error
        return f"pulled {name}"


@pytest.fixture
def fake() -> FakeDocker:
    return FakeDocker()


@pytest.fixture
def engine(fake: FakeDocker) -> Engine:
    engine = Engine(logging.getLogger("clipper_admin"))
    engine.__dict__["client"] = fake
    return engine


CONTAINER = Container("x", "image", ports=(Port(1337, 1337, "port"),), files={"/etc/a/b.yml": b"text"})


def test_a_taken_port_is_replaced_and_logged(
    engine: Engine, fake: FakeDocker, caplog: pytest.LogCaptureFixture
) -> None:
    fake.taken = {1337}
    started = engine.start(CONTAINER, CLUSTER)
    (port,) = started.arguments["ports"].values()
    assert port != 1337
    assert started.arguments["labels"]["port"] == str(port)
    assert "Port 1337 for x is taken" in caplog.text
    assert [container.removed for container in fake.made] == [True, False]


def test_when_no_port_is_free(engine: Engine, fake: FakeDocker) -> None:
    fake.taken = set(range(65536))
    with pytest.raises(ClipperException, match="no free port for 'x'"):
        engine.start(CONTAINER, CLUSTER)
    assert all(container.removed for container in fake.made)


def test_what_cannot_start_is_removed(engine: Engine, fake: FakeDocker) -> None:
    fake.start_error = api_error(500, "exec format error")
    with pytest.raises(ClipperException, match="could not start the container 'x': exec format error"):
        engine.start(CONTAINER, CLUSTER)
    assert [container.removed for container in fake.made] == [True]


def test_files_are_put_into_a_container(engine: Engine) -> None:
    ((folder, data),) = engine.create(CONTAINER, CLUSTER).archives
    assert folder == "/etc/a"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("b.yml")
        assert file and file.read() == b"text"


def test_a_name_that_is_taken(engine: Engine, fake: FakeDocker) -> None:
    fake.create_error = api_error(409, 'Conflict. The container name "/x" is already in use by container "1"')
    with pytest.raises(NameTaken):
        engine.create(CONTAINER, CLUSTER)


def test_an_argument_that_docker_does_not_know(engine: Engine, fake: FakeDocker) -> None:
    fake.create_error = TypeError("run() got an unexpected keyword argument 'a'")
    with pytest.raises(ClipperException, match="'a'. Check extra_container_kwargs"):
        engine.create(CONTAINER, CLUSTER)


def test_images_are_pulled_when_they_are_missing(engine: Engine, fake: FakeDocker) -> None:
    assert engine.ensure_image("a:1") == "local a:1"
    fake.get_error = api_error(404, "no such image", ImageNotFound)
    assert engine.ensure_image("a:1") == "pulled a:1"


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        ("example.com/a:1", r"not found: .*\(denied\)\.$"),
        (images.image_name("query_frontend"), "make images.*CLIPPER_REGISTRY"),
        (images.image_name("python39-closure-container"), r"Python 3\.9 .*IMAGES_PYTHON=3\.9"),
    ],
)
def test_images_that_cannot_be_had(engine: Engine, fake: FakeDocker, image: str, advice: str) -> None:
    fake.get_error = api_error(404, "no such image", ImageNotFound)
    fake.pull_error = api_error(404, "denied", NotFound)
    with pytest.raises(ClipperException, match=advice):
        engine.ensure_image(image)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (DockerException("Error while fetching server API version: FileNotFoundError"), "systemctl start docker"),
        (DockerException("Error while fetching server API version: PermissionError(13)"), "usermod -aG docker"),
        (requests.exceptions.ConnectionError("Connection aborted"), "DOCKER_HOST"),
        (api_error(500, 'could not select device driver "" with capabilities: [[gpu]]'), "NVIDIA Container Toolkit"),
        (requests.exceptions.ReadTimeout("timed out"), "timed out"),
    ],
)
def test_errors_say_what_to_do(error: Exception, advice: str) -> None:
    with pytest.raises(ClipperException, match=f"(?s)Docker could not do it.*{advice}"), translated("do it"):
        raise error


def test_in_parallel_tries_all_and_raises_the_first_error() -> None:
    done = []

    def work(number: int) -> int:
        if number == 1:
            raise ClipperException("one")
        done.append(number)
        return number

    with pytest.raises(ClipperException, match="one"):
        in_parallel(work, range(4))
    assert sorted(done) == [0, 2, 3]
    assert in_parallel(str, [2, 1]) == ["2", "1"]
