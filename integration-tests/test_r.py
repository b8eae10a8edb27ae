"""The vignette of docs/r.md: models built in R, deployed by the command that R printed, and asked."""

import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_support import ROOT, build

from clipper_admin import ClipperConnection, ClipperException, DockerContainerManager, images
from tests.containers.r_support import R, r
from tests.waiting import wait_for

__all__ = ["r"]  # a fixture that is not of this file

pytestmark = pytest.mark.integration

SLO_MICROS = 5_000_000
VIGNETTE = re.findall(r"^```r\n(.*?)^```", (ROOT / "docs/r.md").read_text(), re.MULTILINE | re.DOTALL)
CARS = 20


@pytest.fixture(scope="session")
def r_image(docker_client: Any) -> str:
    """The image that serves R models, built from this source."""
    build(images.build_arguments(images.R_RECIPE), ROOT)
    return images.image_name(images.R_CONTAINER)


@pytest.fixture(scope="module")
def new_manager(r: R, clipper_home: Path, new_manager: Any) -> Iterator[Any]:
    """As everywhere. Images for processes outlive their cluster."""
    yield new_manager
    shutil.rmtree(clipper_home / "images", ignore_errors=True)


def manager_name(conn: ClipperConnection) -> str:
    return "docker" if isinstance(conn.cm, DockerContainerManager) else "process"


@pytest.fixture(scope="module")
def printed(
    r: R, conn: ClipperConnection, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The output of R when it built the vignette's models."""
    if manager_name(conn) == "docker":
        request.getfixturevalue("r_image")
    code = "\n".join(block for block in VIGNETTE if "install" not in block)
    assert code.count("build_model(") == 3
    code = (
        f'build_model <- function(...) Rclipper::build_model(..., container_manager = "{manager_name(conn)}")\n{code}'
    )
    asked = f"""
for (i in seq_len({CARS})) {{
  cat("car ", jsonlite::toJSON(mtcars[i, ]), "\\n", sep = "")
  cat("mpg ", format(predict(fit, mtcars[i, ]), digits = 15), "\\n", sep = "")
}}"""
    return r.must_run(code + asked, tmp_path_factory.mktemp("session"))


def serve(conn: ClipperConnection, printed: str, name: str, input_type: str) -> None:
    """Execute the printed command, as it stands, and link the model to an application."""
    (command,) = re.findall(rf'^conn\.deploy_model\("{name}".*\)$', printed, re.MULTILINE)
    exec(command, {"conn": conn})
    conn.register_application(name, input_type, "none", SLO_MICROS)
    conn.link_model_to_app(name, name)


def test_integer_vectors(conn: ClipperConnection, printed: str) -> None:
    serve(conn, printed, "lengths", "integers")
    answers = [conn.predict("lengths", [1] * length) for length in range(1, 201)]
    assert [answer["output"] for answer in answers] == list(range(1, 201))
    body = json.dumps({"input_batch": [[7] * length for length in range(1, 101)]}).encode()
    request = urllib.request.Request(
        f"http://{conn.get_query_addr()}/lengths/predict", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        batch = json.load(answer)["batch_predictions"]
    assert [answer["output"] for answer in batch] == list(range(1, 101))


def test_data_frames(conn: ClipperConnection, printed: str) -> None:
    serve(conn, printed, "mpg", "strings")
    cars, expected = (re.findall(rf"^{word} (.*)$", printed, re.MULTILINE) for word in ("car", "mpg"))
    assert len(cars) == len(expected) == CARS
    for car, mpg in zip(cars, expected, strict=True):
        (predicted,) = conn.predict("mpg", car)["output"]
        assert predicted == pytest.approx(float(mpg), rel=1e-12)
    answer = conn.predict("mpg", '[{"wt": 2.5}]')
    assert answer["default_explanation"].startswith("The model raised Error: the data frame has no column mpg")


def test_strings(conn: ClipperConnection, printed: str) -> None:
    serve(conn, printed, "shout", "strings")
    assert conn.predict("shout", "grüße aus R")["output"] == "GRÜSSE AUS R!".replace("SS", "ß")
    assert conn.predict("shout", "7")["output"] == "7!"


def test_a_model_deployed_for_another_type(conn: ClipperConnection, printed: str) -> None:
    with pytest.raises(ClipperException, match='built for inputs of type "ints", and deployed for "doubles"'):
        conn.deploy_model("lengths-of-doubles", "1", "doubles", "lengths:1")
    assert conn.get_num_replicas("lengths-of-doubles", "1") == 0


def test_metrics_and_stopping(conn: ClipperConnection, printed: str) -> None:
    wait_for(lambda: 200 + 100 in inputs_of_replicas(conn), "the metrics of the replica for integers come")
    conn.stop_models(["shout"])
    assert conn.get_num_replicas("shout", "1") == 0


def inputs_of_replicas(conn: ClipperConnection) -> list[float]:
    """Return the numbers of inputs that each replica answered, from Prometheus."""
    if manager_name(conn) == "docker":
        query = urllib.parse.urlencode({"query": "clipper_mc_inputs_total"})
        answer = json.loads(fetch(f"http://{conn.get_metric_addr()}/api/v1/query?{query}"))
        return [float(found["value"][1]) for found in answer["data"]["result"]]
    text = fetch(f"http://{conn.get_metric_addr()}/metrics")
    return [float(value) for value in re.findall(r"^clipper_mc_inputs_total\b.* (\S+)$", text, re.MULTILINE)]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")


# --- the image ---


@pytest.mark.docker
def test_packages_that_the_image_lacks(docker_client: Any, r_image: str) -> None:
    code = """
Rclipper:::install_packages(c("digest", "jsonlite"))
writeLines(digest::digest("a", serialize = FALSE))
tryCatch(Rclipper:::install_packages("Rnosuchpackage"), error = function(e) writeLines(conditionMessage(e)))
"""
    said = docker_client.containers.run(r_image, ["Rscript", "-e", code], user="0", remove=True).decode()
    assert "0cc175b9c0f1b6a831c399e269772661" in said
    assert "Debian has no package of Rnosuchpackage, which the model needs" in said


@pytest.mark.docker
def test_the_image_needs_no_rights(docker_client: Any, r_image: str, r: R, tmp_path: Path) -> None:
    r.must_run('save_model("model", identity, 1)', tmp_path)
    container = docker_client.containers.run(
        r_image,
        detach=True,
        environment={"CLIPPER_MODEL_NAME": "m", "CLIPPER_MODEL_VERSION": "1", "CLIPPER_IP": "127.0.0.1"},
        volumes={str(tmp_path / "model"): {"bind": "/model", "mode": "ro"}},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
    try:
        wait_for(lambda: b"Serving m:1" in container.logs(), "the container serves")
        container.stop(timeout=10)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0
        assert container.attrs["Config"]["User"] == "10001:10001"
    finally:
        container.remove(force=True)
