"""R for tests: Rclipper installed from this source into a library of its own, where there is an R."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "containers/R/Rclipper"
SECONDS = 60.0


class R:
    """Runs R code that can say ``library(Rclipper)``."""

    def __init__(self, library: Path) -> None:
        self.library = library

    def environment(self, **variables: str) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if name == "CLIPPER_HOME" or "CLIPPER" not in name}
        return inherited | {"R_LIBS": str(self.library)} | variables

    def run(self, code: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `code` in `folder`, as a script that a user wrote; both outputs are in ``stdout``."""
        return subprocess.run(
            ["Rscript", "--vanilla", "-e", f'library(Rclipper); options(Rclipper.python = "{sys.executable}")\n{code}'],
            env=self.environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )

    def must_run(self, code: str, folder: Path | None = None) -> str:
        done = self.run(code, folder)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="session")
def r(tmp_path_factory: pytest.TempPathFactory) -> Iterator[R]:
    """R with Rclipper. Without R the tests are skipped, unless it is required."""
    if shutil.which("Rscript") is None:
        reason = "Rscript is not on PATH"
        if "r" in os.environ.get("CLIPPER_REQUIRE", "").split(","):
            pytest.fail(f"{reason} (CLIPPER_REQUIRE holds r)")
        pytest.skip(reason)
    library = tmp_path_factory.mktemp("r-library")
    installed = subprocess.run(
        ["R", "CMD", "INSTALL", "--clean", f"--library={library}", str(PACKAGE)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert installed.returncode == 0, installed.stdout
    yield R(library)
