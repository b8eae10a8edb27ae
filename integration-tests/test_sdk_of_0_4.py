"""The SDK of Clipper 0.4.1, unmodified, manages a cluster of ours on Docker."""

import subprocess
from pathlib import Path

import pytest
from framework_environments import environment_of_0_4

from clipper_admin import ClipperConnection, DockerContainerManager, images

pytestmark = [
    pytest.mark.docker,
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("left_nothing_in_docker"),
]

SCRIPT = Path(__file__).with_name("sdk_of_0_4.py")


def test_it_connects_deploys_scales_inspects_and_stops() -> None:
    python = environment_of_0_4()
    if python is None:
        pytest.skip("there is no Python 3.7, which the SDK of Clipper 0.4 needs")
    cluster, network = "sdk-of-0-4", "sdk_of_0_4_network"
    conn = ClipperConnection(DockerContainerManager(cluster, "localhost", False, 0, 0, 0, 0, None, 0, 0, network))
    conn.start_clipper()
    try:
        command = [str(python), str(SCRIPT), cluster, network, images.image_name(images.NOOP_CONTAINER)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr[-4000:]
    finally:
        conn.stop_all()
