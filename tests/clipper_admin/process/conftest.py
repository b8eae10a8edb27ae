"""A home for clusters of its own for each test, and nothing left running after it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clipper_admin.process import processes, state
from clipper_admin.process.processes import ENV_CLUSTER_DIRECTORY
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "home"
    monkeypatch.setenv("CLIPPER_HOME", str(path))
    yield path
    for directory in {path / "clusters" / "one", path / "clusters" / "two"}:
        processes.kill_marked({ENV_CLUSTER_DIRECTORY: str(directory)})


@pytest.fixture
def files(home: Path) -> state.ClusterFiles:
    """The files of a cluster without programs."""
    files = state.ClusterFiles("one")
    files.create()
    return files


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
        wait_for(condition, "what the test waits for", seconds)

    return wait


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    def check(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return check
