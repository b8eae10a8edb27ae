"""The largest body is a setting of the frontend and of each application, the largest output one of each version."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from clipper_common import changes, wire
from clipper_common.constants import SIZE_LIMITS
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Application, Model
from query_frontend.config import Config
from tests.query_frontend.conftest import Frontend, RawContainer, running_frontend

MEGABYTE = 1 << 20
BODIES = {"small": SIZE_LIMITS[0], "usual": 0, "large": 4 * MEGABYTE}
"""By application; `usual` has the frontend's limit."""
MODEL = ModelId("m", "1")


@pytest.fixture(scope="module")
def frontend(redis_port_of_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    log = tmp_path_factory.mktemp("limits") / "frontend.log"
    with running_frontend(redis_port_of_module, log, max_body_bytes=MEGABYTE) as frontend:
        for name, limit in BODIES.items():
            app = Application(name, InputType.DOUBLES, "default", 20_000_000, max_body_bytes=limit)
            frontend.configure(*changes.put_application(app), changes.put_link(name, MODEL.name))
        yield frontend


def body_of(size: int) -> bytes:
    body = json.dumps({"input": [1.0]}).encode()
    return b" " * (size - len(body)) + body


def post_chunked(frontend: Frontend, app: str, body: bytes) -> bytes:
    """Beginning of the answer."""
    with socket.create_connection(("127.0.0.1", frontend.port), 10) as client:
        client.sendall(f"POST /{app}/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        return client.recv(12)


@pytest.mark.integration
@pytest.mark.parametrize("app", BODIES)
def test_a_body_may_be_as_large_as_its_application_says(app: str, frontend: Frontend) -> None:
    most = BODIES[app] or MEGABYTE
    assert frontend.post(f"/{app}/predict", body_of(most)).status == 200
    refused = frontend.post(f"/{app}/predict", body_of(most + 1))
    assert refused.status == 413
    assert str(most) in refused.json["cause"]
    assert post_chunked(frontend, app, body_of(most)) == b"HTTP/1.1 200"
    assert post_chunked(frontend, app, body_of(most + 1)) == b"HTTP/1.1 413"


@pytest.mark.integration
@pytest.mark.parametrize("most", [SIZE_LIMITS[0], 33 * MEGABYTE])
def test_an_output_may_be_as_large_as_its_model_says(most: int, frontend: Frontend) -> None:
    model = Model(ModelId("m", str(most)), InputType.DOUBLES, max_output_bytes=most)
    frontend.configure(changes.put_model(model), changes.put_current_version(model.id))
    with closing(RawContainer(frontend.rpc_port)) as container, ThreadPoolExecutor() as pool:
        container.join(wire.Metadata(model.id, InputType.DOUBLES, 3))
        frontend.wait_for_replicas(1)
        asked = pool.submit(frontend.post, "/usual/predict", {"input_batch": [[0.0], [1.0]]})
        missing = 2
        while missing:
            request = container.receive_batch(20)
            missing -= len(request.inputs)
            container.answer(request, [b"%*d" % (most + (item[7] != 0), 7) for item in request.inputs])
        answers = asked.result(20).json["batch_predictions"]
    assert [answer["output"] for answer in answers] == [7, "default"]
    assert f"an output is of {most + 1} bytes, and the most are {most}" in answers[1]["default_explanation"]
    frontend.configure(changes.delete_model(model.id))
    frontend.wait_for_replicas(0)


@pytest.mark.parametrize("limit", [0, SIZE_LIMITS[0] - 1, SIZE_LIMITS[-1] + 1])
def test_a_limit_that_makes_no_sense_is_refused(limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Config.parse([f"--max_body_bytes={limit}"])
    assert "--max_body_bytes" in capsys.readouterr().err
