"""The quickstart document, statement by statement, with another container manager."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import requests

from clipper_admin import ClipperConnection, ContainerManager
from clipper_admin.deployers import python as python_deployer

pytestmark = pytest.mark.integration


def test_quickstart(new_manager: Callable[..., ContainerManager], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    clipper_conn = ClipperConnection(new_manager())

    clipper_conn.start_clipper()
    assert_logged(caplog, "Clipper is running")

    clipper_conn.register_application(
        name="hello-world", input_type="doubles", default_output="-1.0", slo_micros=100000
    )
    assert_logged(caplog, "Application hello-world was successfully registered")

    assert clipper_conn.get_all_apps() == ["hello-world"]

    def feature_sum(xs):
        return [str(sum(x)) for x in xs]

    python_deployer.deploy_python_closure(
        clipper_conn, name="sum-model", version=1, input_type="doubles", func=feature_sum
    )
    assert_logged(caplog, "Serialized and supplied predict function")
    assert_logged(caplog, "Successfully registered model sum-model:1")
    assert_logged(caplog, "Done deploying model sum-model:1.")

    clipper_conn.link_model_to_app(app_name="hello-world", model_name="sum-model")
    assert_logged(caplog, "Model sum-model is now linked to application hello-world")

    url = f"http://{clipper_conn.get_query_addr()}/hello-world/predict"
    if curl := shutil.which("curl"):
        header = ["--header", "Content-Type:application/json"]
        said = subprocess.check_output([curl, "-s", "-X", "POST", *header, "-d", '{"input": [1.1, 2.2, 3.3]}', url])
        assert json.loads(said)["output"] == pytest.approx(6.6)

    headers = {"Content-type": "application/json"}
    answer = requests.post(url, headers=headers, data=json.dumps({"input": list(np.random.random(10))})).json()
    assert answer["default"] is False
    assert 0 < answer["output"] < 10

    # "If you closed the Python interpreter session that you used to start Clipper ..."
    manager = type(clipper_conn.cm).__name__
    clean_up = f"""
from clipper_admin import ClipperConnection, {manager}
clipper_conn = ClipperConnection({manager}())
clipper_conn.connect()
clipper_conn.stop_all()
"""
    session = subprocess.run(
        [sys.executable, "-c", clean_up], check=True, stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert "Stopped all Clipper cluster and all model containers" in session.stderr
    with pytest.raises(requests.ConnectionError):
        requests.post(url, headers=headers, data='{"input": [1.0]}')


def assert_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    assert any(text in message for message in caplog.messages), caplog.text
