"""Tests of containers, base images and metrics of users."""

import io
import json
import re
import tarfile
import urllib.parse
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_support import ROOT

from clipper_admin import ClipperConnection, DockerContainerManager, ProcessContainerManager, images
from clipper_admin.container_manager import CLIPPER_DOCKER_LABEL, CLIPPER_MODEL_CONTAINER_LABEL
from clipper_admin.deployers import python as python_deployer
from clipper_common.constants import METRIC_PORT
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

SLO_MICROS = 5_000_000
TUTORIAL = (ROOT / "docs/writing-a-container.md").read_text()


def block_of_tutorial(language: str, about: str) -> str:
    """The block of code in the tutorial that contains `about`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if about in block)
    return str(found)


def is_docker(conn: ClipperConnection) -> bool:
    return isinstance(conn.cm, DockerContainerManager)


class UserImages:
    """Builds images as a user would, with ``docker build``; removes them in the end."""

    def __init__(self) -> None:
        self._built: list[tuple[Any, str]] = []

    def build(self, client: Any, dockerfile: str, files: dict[str, bytes]) -> str:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for name, content in {"Dockerfile": dockerfile.encode(), **files}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        context.seek(0)
        tag = f"clipper-test-user:{uuid.uuid4().hex[:8]}"
        client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
        self._built.append((client, tag))
        return tag

    def remove(self) -> None:
        for client, tag in self._built:
            client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def user_images() -> Iterator[UserImages]:
    images = UserImages()
    yield images
    images.remove()


# --- containers of a user's own ---


def test_the_tutorial(
    conn: ClipperConnection, user_images: UserImages, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    script = block_of_tutorial("python", "class Tokens")
    dockerfile = block_of_tutorial("dockerfile", "tokens.py").replace(
        "clipper/py311-rpc:0.5.0", images.image_name(images.rpc_component())
    )
    assert len(dockerfile.splitlines()) <= 10
    vocabulary = block_of_tutorial("text", "clipper 7")
    (tmp_path / "tokens.py").write_text(script)
    (tmp_path / "vocabulary.txt").write_text(vocabulary)
    if is_docker(conn):
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        image = user_images.build(request.getfixturevalue("docker_client"), dockerfile, files)
    else:
        image = str(tmp_path / "tokens.py")

    conn.deploy_model(name="tokens", version="1", input_type="strings", image=image)
    conn.register_application(name="tokens", input_type="strings", default_output="?", slo_micros=SLO_MICROS)
    conn.link_model_to_app("tokens", "tokens")
    assert conn.predict("tokens", "clipper serves models")["output"] == [7, 0, 12]
    answer = conn.predict("tokens", " ")
    assert answer["default_explanation"].startswith("The model raised ValueError: no words")
    assert conn.predict("tokens", "serves")["output"] == [0]


# --- packages of a user's own ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that only this user has."""
    path = tmp_path_factory.mktemp("wheel") / "clipper_test_doubling-1-py3-none-any.whl"
    info = "clipper_test_doubling-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clipper_test_doubling.py", "def double(x):\n    return 2 * x\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: clipper-test-doubling\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_base_image_with_packages(
    conn: ClipperConnection, user_images: UserImages, request: pytest.FixtureRequest, tmp_path: Path, wheel: Path
) -> None:
    base = images.image_name(f"python{images.python_suffix()}-closure-container")
    if is_docker(conn):
        dockerfile = f"FROM {base}\nCOPY {wheel.name} /tmp/\nRUN pip install --no-index /tmp/{wheel.name}\n"
        client = request.getfixturevalue("docker_client")
        base_image = user_images.build(client, dockerfile, {wheel.name: wheel.read_bytes()})
    else:
        base_image = conn.build_model("doubling-base", 1, tmp_path, base, pkgs_to_install=[str(wheel)])

    def doubling(inputs: Any) -> list[float]:
        from clipper_test_doubling import double

        return [float(double(x[0])) for x in inputs]

    python_deployer.create_endpoint(conn, "doubling", "doubles", doubling, slo_micros=SLO_MICROS, base_image=base_image)
    assert conn.predict("doubling", [21.0])["output"] == 42


# --- metrics of a user's own ---


def test_metrics_of_a_model(conn: ClipperConnection, request: pytest.FixtureRequest) -> None:
    def observed(inputs: Any) -> list[str]:
        from clipper_admin import metrics

        metrics.add_metric("observed_inputs", "Counter", "Inputs seen")
        metrics.add_metric("observed_last", "Gauge", "The last input")
        metrics.add_metric("observed_size", "Histogram", "Sizes of inputs", buckets=[1, 10, 100])
        metrics.add_metric("observed_sum", "Summary", "Sums of inputs")
        for x in inputs:
            if x[0] < 0:
                metrics.add_metric("observed inputs", "Counter", "a bad name")
            if x[0] == 0:
                metrics.add_metric("observed_last", "Counter", "a duplicate of another type")
            metrics.report_metric("observed_inputs", 1)
            metrics.report_metric("observed_last", x[0])
            metrics.report_metric("observed_size", len(x))
            metrics.report_metric("observed_sum", x.sum())
        return ["" for _ in inputs]

    python_deployer.create_endpoint(conn, "observed", "doubles", observed, slo_micros=SLO_MICROS, batch_size=1)
    for query in ([1.0], [2.0] * 5, [3.0] * 50):
        assert not conn.predict("observed", query)["default"]
    reason = conn.predict("observed", [-1.0])["default_explanation"]
    assert "'observed inputs' cannot be the name of a metric" in reason
    assert (
        "'observed_last' cannot be added as Counter: it is there as Gauge"
        in (conn.predict("observed", [0.0])["default_explanation"])
    )
    assert not conn.predict("observed", [4.0])["default"]
    assert conn.cm.find_failures("observed", "1") == []

    expected = {
        "observed_inputs_total": 4,
        "observed_last": 4,
        'observed_size_bucket{le="1.0"}': 2,
        'observed_size_bucket{le="10.0"}': 3,
        'observed_size_bucket{le="100.0"}': 4,
        "observed_sum_sum": 1 + 10 + 150 + 4,
        "observed_sum_count": 4,
    }
    lines = metrics_of_replica(conn, request, "observed_1").splitlines()
    for series, value in expected.items():
        assert f"{series} {float(value)}" in lines
    wait_for(lambda: value_at_the_cluster(conn, "observed_inputs_total") == 4, "the scrape")
    assert value_at_the_cluster(conn, 'observed_size_bucket{le="10.0"}') == 3
    assert value_at_the_cluster(conn, "observed_sum_sum") == 165


def metrics_of_replica(conn: ClipperConnection, request: pytest.FixtureRequest, label: str) -> str:
    """Return the metrics that the only replica of a model serves."""
    if is_docker(conn):
        wanted = [f"{CLIPPER_DOCKER_LABEL}={conn.cm.cluster_name}", f"{CLIPPER_MODEL_CONTAINER_LABEL}={label}"]
        (container,) = request.getfixturevalue("docker_client").containers.list(filters={"label": wanted})
        url = f"http://127.0.0.1:{METRIC_PORT}/metrics"
        code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).read().decode())"
        result = container.exec_run(["python", "-c", code])
        assert result.exit_code == 0, result.output
        return str(result.output, "utf-8")
    assert isinstance(conn.cm, ProcessContainerManager)
    targets = json.loads(conn.cm._files.targets.read_text())
    (address,) = (one["targets"][0] for one in targets if one["labels"]["replica"].startswith(label))
    return fetch(f"http://{address}/metrics")


def value_at_the_cluster(conn: ClipperConnection, series: str) -> float | None:
    """Return a metric from Prometheus or, with processes, from the metrics of the whole cluster."""
    if is_docker(conn):
        query = urllib.parse.urlencode({"query": series})
        answer = json.loads(fetch(f"http://{conn.get_metric_addr()}/api/v1/query?{query}"))
        assert answer["status"] == "success", answer
        found = [float(one["value"][1]) for one in answer["data"]["result"]]
    else:
        name, _, label = series.rstrip("}").partition("{")
        lines = fetch(f"http://{conn.get_metric_addr()}/metrics").splitlines()
        found = [float(line.split()[-1]) for line in lines if re.match(rf"{name}\b", line) and label in line]
    assert len(found) < 2
    return found[0] if found else None


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")
