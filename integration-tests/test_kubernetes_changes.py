"""What applications see while a cluster on Kubernetes changes: nothing. Each step is under load, and asserts zero."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from open_loop import OpenLoop, Step

from clipper_admin import ClipperConnection
from clipper_admin.deployers import python as python_deployer

pytestmark = [pytest.mark.kubernetes, pytest.mark.integration, pytest.mark.timeout(600)]

SLO_MICROS = 500_000
WAIT_SECONDS = 90.0


def kubectl(*arguments: str) -> Any:
    answer = subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True, timeout=120).stdout
    return json.loads(answer) if "json" in arguments else answer


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not happen in {WAIT_SECONDS:.0f} s"
        time.sleep(0.2)
