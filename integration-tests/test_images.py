"""The images: how they are built, and how they behave under any container manager."""

import io
import json
import re
import shutil
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container
from docker_support import REQUIRE, ROOT, build, missing

from clipper_admin import images, pickling
from clipper_common import __version__, modeldir
from clipper_common.constants import MANAGEMENT_PORT, METRIC_PORT, QUERY_PORT, REDIS_PORT
from tests.waiting import wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BuiltImages = dict[str, str]

COMPONENTS = [recipe.component for recipe in images.recipes()]
RPC = images.rpc_component()
CLOSURE = images.PYTHON.component()
LOCKED: dict[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
"""Options of a hardened container."""

STOP_SECONDS = 2.0
CUSTOM_CONTAINER = """
import rpc

class Doubler(rpc.ModelContainerBase):
    def predict_doubles(self, inputs):
        return [str(2 * x.sum()) for x in inputs]

rpc.RPCService().start(Doubler())
"""


class Runner:
    """Starts containers in a network of their own, and builds images; removes them in the end."""

    def __init__(self, client: DockerClient) -> None:
        self.client = client
        self.suffix = uuid.uuid4().hex[:8]
        self.network = client.networks.create(f"clipper-test-images-{self.suffix}")
        self.containers: dict[str, Container] = {}
        self.images: list[str] = []

    def name(self, name: str) -> str:
        return f"{name}-{self.suffix}"

    def run(self, name: str, image: str, command: Any = None, **options: Any) -> Container:
        container = self.client.containers.run(
            image, command, name=self.name(name), network=self.network.name, detach=True, **options
        )
        self.containers[name] = container
        return container

    def run_model(self, name: str, image: str, input_type: str = "doubles") -> Container:
        environment = {
            "CLIPPER_MODEL_NAME": name,
            "CLIPPER_MODEL_VERSION": "1",
            "CLIPPER_IP": self.name("query"),
            "CLIPPER_INPUT_TYPE": input_type,
        }
        return self.run(name, image, environment=environment, **LOCKED)

    def build(self, name: str, dockerfile: str, files: dict[str, bytes]) -> str:
        tag = f"clipper-test-{name}:{self.suffix}"
        self.client.images.build(fileobj=context_of(dockerfile, files), custom_context=True, tag=tag, rm=True)
        self.images.append(tag)
        return tag

    def stop(self) -> None:
        for container in self.containers.values():
            container.remove(force=True, v=True)
        for tag in self.images:
            self.client.images.remove(tag)
        self.network.remove()


@pytest.fixture(scope="module")
def runner(docker_client: DockerClient) -> Iterator[Runner]:
    runner = Runner(docker_client)
    yield runner
    runner.stop()


@pytest.fixture(scope="module")
def cluster(runner: Runner, built_images: BuiltImages) -> Runner:
    """The frontends with the flags that Clipper 0.4 gives them, and a Redis."""
    redis = f"--redis_ip={runner.name('redis')} --redis_port={REDIS_PORT}"
    tuning = "--prediction_cache_size=33554432 --thread_pool_size=1 --timeout_request=5 --timeout_content=300"
    exported = f"--query_frontend_name {runner.name('query')}:{QUERY_PORT}"

    runner.run("redis", "redis:7-alpine", f"redis-server --port {REDIS_PORT}")
    for name, component, command, port in [
        ("mgmt", images.MANAGEMENT_FRONTEND, redis, MANAGEMENT_PORT),
        ("query", images.QUERY_FRONTEND, f"{redis} {tuning}", QUERY_PORT),
        ("exporter", images.FRONTEND_EXPORTER, exported, METRIC_PORT),
    ]:
        runner.run(name, built_images[component], command, ports={f"{port}/tcp": ("127.0.0.1", None)}, **LOCKED)
    for name in ("mgmt", "query", "exporter"):
        wait_until_healthy(runner.containers[name])
    return runner


@pytest.fixture(scope="module")
def custom_image(runner: Runner, built_images: BuiltImages) -> str:
    """A container of a user's own, with a package of its own."""
    dockerfile = f"""
FROM {built_images[RPC]}
RUN pip --version && touch "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/installed.py"
COPY doubler.py /container/
CMD ["python", "/container/doubler.py"]
"""
    return runner.build("custom", dockerfile, {"doubler.py": CUSTOM_CONTAINER.encode()})


@pytest.fixture(scope="module")
def model_image(runner: Runner, built_images: BuiltImages) -> str:
    """A model as Clipper 0.4 builds it: from a folder that its owner alone may enter."""
    files = {f"private/{modeldir.FUNCTION_FILE}": pickling.dumps(lambda inputs: [x.sum() for x in inputs])}
    return runner.build("model", f"FROM {built_images[CLOSURE]}\nCOPY private /model/\n", files)


def context_of(dockerfile: str, files: dict[str, bytes]) -> io.BytesIO:
    tar_file = io.BytesIO()
    with tarfile.open(fileobj=tar_file, mode="w") as tar:
        for folder in {str(Path(name).parent) for name in files} - {"."}:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(entry)
        for name, content in {"Dockerfile": dockerfile.encode(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    tar_file.seek(0)
    return tar_file


def state_of(container: Container) -> dict[str, Any]:
    container.reload()
    state: dict[str, Any] = container.attrs["State"]
    return state


def wait_until_healthy(container: Container) -> None:
    def healthy() -> bool:
        state = state_of(container)
        assert state["Running"], container.logs().decode()[-4000:]
        return bool(state["Health"]["Status"] == "healthy")

    wait_for(healthy, f"{container.name} healthy")


def address_of(container: Container, port: int) -> str:
    container.reload()
    return f"http://127.0.0.1:{container.ports[f'{port}/tcp'][0]['HostPort']}"


def post(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def output_of(container: Container, *command: str) -> str:
    result = container.exec_run(list(command))
    text = result.output.decode()
    assert result.exit_code == 0, text
    return str(text)


def serve(cluster: Runner, name: str) -> None:
    """An application for the model of the same name."""
    admin = address_of(cluster.containers["mgmt"], MANAGEMENT_PORT) + "/admin"
    app = {"name": name, "input_type": "doubles", "default_output": "none", "latency_slo_micros": 2_000_000}
    model = {"model_name": name, "model_version": "1", "labels": [], "input_type": "doubles", "batch_size": -1}
    post(f"{admin}/add_app", app)
    post(f"{admin}/add_model", model | {"container_name": "image", "model_data_path": "DEPRECATED"})
    post(f"{admin}/add_model_links", {"app_name": name, "model_names": [name]})


def predict(cluster: Runner, name: str, values: list[float]) -> Any:
    query = address_of(cluster.containers["query"], QUERY_PORT)
    return json.loads(post(f"{query}/{name}/predict", {"input": values}))


# --- what is in them ---


def test_the_query_frontend_is_compiled(cluster: Runner) -> None:
    code = (
        "from clipper_common import wire; from query_frontend.http import fast_path; "
        "print(wire.__file__, fast_path.__file__)"
    )
    result = cluster.containers["query"].exec_run(["python", "-c", code])
    assert result.exit_code == 0 and result.output.decode().count(".so") == 2, result.output


@pytest.mark.parametrize("component", COMPONENTS)
def test_image_says_what_it_is(docker_client: DockerClient, built_images: BuiltImages, component: str) -> None:
    image = docker_client.images.get(built_images[component])
    labels = {name.rpartition(".")[2]: text for name, text in image.labels.items() if "opencontainers" in name}
    assert labels["title"].startswith("Clipper ")
    assert labels["description"]
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    config = image.attrs["Config"]
    assert config["Entrypoint"][0] == "/clipper/entry.sh"
    assert config["Healthcheck"]["Test"]
    assert config["User"].replace(":", "").isdecimal()


@pytest.mark.parametrize("component", COMPONENTS)
def test_image_is_small(docker_client: DockerClient, built_images: BuiltImages, component: str) -> None:
    image = docker_client.images.get(built_images[component])
    layers = [layer for layer in image.history() if re.search(r"COPY .*/(venv|clipper)\b", layer["CreatedBy"])]
    assert len(layers) == 2
    ours = sum(layer["Size"] for layer in layers)
    print(f"{built_images[component]}: {ours / 1e6:.0f} MB and Python, {image.attrs['Size'] / 1e6:.0f} MB in all")
    assert ours < 120e6


@pytest.mark.parametrize("component", COMPONENTS)
def test_nothing_of_the_build_is_left(docker_client: DockerClient, built_images: BuiltImages, component: str) -> None:
    def said(command: str, **options: object) -> list[str]:
        output = docker_client.containers.run(
            built_images[component], ["-c", command], entrypoint="sh", remove=True, stdout=True, stderr=False, **options
        )
        return output.decode().split()

    # As root: the image's own user could not see what root's home holds.
    left = "command -v gcc; ls -d /build ~root/.cache /venv/lib/python*/site-packages/setuptools; true"
    assert said(left, user="0") == []
    assert said("id -u") == ["10001"]


@pytest.mark.parametrize(
    ("component", "source"), [(images.MANAGEMENT_FRONTEND, "management_frontend"), (RPC, "clipper_common")]
)
def test_changed_code_leaves_the_packages_as_they_are(
    docker_client: DockerClient, built_images: BuiltImages, tmp_path: Path, component: str, source: str
) -> None:
    recipe = next(recipe for recipe in images.recipes() if recipe.component == component)
    context = copy_of_the_context(tmp_path / "context")
    with (context / source / "__init__.py").open("a") as file:
        file.write("# changed\n")
    before, after = layers_of(docker_client, built_images[component]), build_again(docker_client, recipe, context)
    assert len(before) == len(after)
    assert len(set(before) - set(after)) == 1


@pytest.mark.parametrize("recipe", [recipe for recipe in images.recipes() if not recipe.base], ids=lambda it: it[0])
def test_another_base_image(docker_client: DockerClient, built_images: BuiltImages, recipe: images.Recipe) -> None:
    mirror, tag = "mirror.example.com/python", uuid.uuid4().hex[:8]
    docker_client.images.get(f"python:{images.RUNNING_PYTHON}-slim").tag(mirror, tag)
    try:
        layers = build_again(docker_client, recipe, ROOT, f"--build-arg=BASE_IMAGE={mirror}:{tag}")
    finally:
        docker_client.images.remove(f"{mirror}:{tag}")
    assert layers == layers_of(docker_client, built_images[recipe.component])


def build_again(client: DockerClient, recipe: images.Recipe, context: Path, *arguments: str) -> list[str]:
    """The layers of an image that is built and removed."""
    tag = f"clipper-test-again:{uuid.uuid4().hex[:8]}"
    build([f"--tag={tag}", *images.build_arguments(recipe)[1:], *arguments], context)
    try:
        return layers_of(client, tag)
    finally:
        client.images.remove(tag)


def copy_of_the_context(target: Path) -> Path:
    nothing_compiled = shutil.ignore_patterns("__pycache__")
    for name in ("dockerfiles", "clipper_common", "management_frontend", "containers/python", "clipper_admin"):
        shutil.copytree(ROOT / name, target / name, ignore=nothing_compiled)
    for name in ("pyproject.toml", "setup.py", ".dockerignore"):
        shutil.copy(ROOT / name, target)
    return target


def layers_of(client: DockerClient, image: str) -> list[str]:
    layers: list[str] = client.images.get(image).attrs["RootFS"]["Layers"]
    return layers


# --- how they run ---


@pytest.mark.parametrize(("name", "sum_of_inputs"), [("noop", 0.0), ("sum", 6.5), ("closure", 6.5), ("custom", 13.0)])
def test_a_model_serves(
    cluster: Runner,
    built_images: BuiltImages,
    custom_image: str,
    model_image: str,
    name: str,
    sum_of_inputs: float,
) -> None:
    built = {"noop": built_images[images.NOOP_CONTAINER], "sum": built_images[images.SUM_CONTAINER]}
    container = cluster.run_model(name, (built | {"closure": model_image, "custom": custom_image})[name])
    serve(cluster, name)
    wait_until_healthy(container)
    assert predict(cluster, name, [1.0, 2.0, 3.5])["output"] == sum_of_inputs
    assert output_of(container, "cat", "/model_is_ready.check") == "READY"
    assert "clipper_mc_pred_total 1.0" in output_of(container, "python", "-c", GET_METRICS)
    for number in ("Uid", "Gid"):
        assert f"{number}:\t10001" in output_of(container, "cat", "/proc/1/status")


GET_METRICS = f"""
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:{METRIC_PORT}/metrics", timeout=5).read().decode())
"""


def test_frontends_run_without_rights(cluster: Runner) -> None:
    for name in ("mgmt", "query", "exporter"):
        container = cluster.containers[name]
        assert "Uid:\t10001" in output_of(container, "cat", "/proc/1/status")
        assert container.exec_run(["touch", "/anything"], user="0").exit_code != 0
        assert "uvloop" in output_of(container, "cat", f"/proc/{serving_process(container)}/maps")


def serving_process(container: Container) -> str:
    """The last of those that began one another: the query frontend's owner begins its worker."""
    pid = "1"
    while children := output_of(container, "cat", f"/proc/{pid}/task/{pid}/children").split():
        pid = children[0]
    return pid


def test_the_exporter_serves_the_numbers_of_the_frontend(cluster: Runner) -> None:
    url = address_of(cluster.containers["exporter"], METRIC_PORT) + "/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    assert "clipper_exporter_frontend_up 1.0" in text
    assert "internal_aggregate_num_predictions_count" in text


def test_a_frontend_without_redis_is_not_healthy_but_stops(runner: Runner, built_images: BuiltImages) -> None:
    container = runner.run("lonely", built_images[images.MANAGEMENT_FRONTEND], "--redis_ip=127.0.0.1", **LOCKED)
    wait_for(lambda: b"waiting for Redis" in container.logs(), "waiting for Redis")
    assert state_of(container)["Health"]["Status"] != "healthy"
    assert stop(container) == 0


def test_all_stop_when_asked_to(cluster: Runner) -> None:
    """Comes last of those that use the cluster."""
    names = [name for name in cluster.containers if name not in ("redis", "lonely")]
    assert {"mgmt", "query", "exporter"} < set(names)
    assert {name: stop(cluster.containers[name]) for name in reversed(names)} == dict.fromkeys(names, 0)


def stop(container: Container) -> int:
    """The exit code, after SIGTERM."""
    asked = time.monotonic()
    container.stop(timeout=10)
    assert time.monotonic() - asked < STOP_SECONDS, container.logs().decode()[-2000:]
    return int(state_of(container)["ExitCode"])


# --- the first process ---


def start(runner: Runner, image: str, *command: str) -> Container:
    return runner.run(uuid.uuid4().hex[:8], image, list(command), **LOCKED)


def test_stopping_before_python_has_handlers(runner: Runner, built_images: BuiltImages) -> None:
    container = start(runner, built_images[RPC], "python", "-c", "print('up'); import time; time.sleep(60)")
    wait_for(lambda: b"up" in container.logs(), "the program")
    assert stop(container) == 128 + 15


def test_the_end_of_the_program_is_the_end_of_the_container(runner: Runner, built_images: BuiltImages) -> None:
    container = start(runner, built_images[RPC], "python", "-c", "import sys; sys.exit(7)")
    assert container.wait(timeout=30)["StatusCode"] == 7


def test_orphans_are_collected(runner: Runner, built_images: BuiltImages) -> None:
    orphaning = (
        "import os, time; os.fork() or os.fork() or os._exit(0); print(os.getppid(), flush=True); time.sleep(.1)"
    )
    container = start(
        runner, built_images[RPC], "sh", "-c", f"python -c '{orphaning}'; python -c 'import time; time.sleep(60)'"
    )
    wait_for(lambda: container.logs(), "orphan")
    count = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"
    wait_for(lambda: output_of(container, "sh", "-c", count).strip() == "0", "collecting the orphan")


def test_an_image_without_a_program_says_so(runner: Runner, built_images: BuiltImages) -> None:
    container = start(runner, built_images[RPC])
    assert container.wait(timeout=30)["StatusCode"] == 2
    assert b"Name one" in container.logs()


# --- without Docker ---


@pytest.mark.parametrize(
    ("required", "outcome"), [("", pytest.skip.Exception), ("kubernetes,docker", pytest.fail.Exception)]
)
def test_missing_docker(monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv(REQUIRE, required)
    with pytest.raises(outcome, match="no engine"):
        missing("docker", "no engine")
