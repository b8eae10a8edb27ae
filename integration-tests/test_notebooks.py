"""The notebooks are run from top to bottom, each with the packages of its framework, and leave nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import processes_below
from docker_support import ROOT, build
from framework_environments import environment_of
from managers import MANAGERS, ON_ONE_MACHINE
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from clipper_admin import images

pytestmark = [pytest.mark.integration, pytest.mark.notebook, pytest.mark.timeout(600)]

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))}
KERNEL = "of-the-framework"
CELL_SECONDS = 120
MANAGER = "CLIPPER_MANAGER"


def cases() -> list[object]:
    return [
        pytest.param(
            name,
            manager,
            id=f"{name}-{manager}",
            marks=[
                *([pytest.mark.framework] if name in images.FRAMEWORKS else []),
                *([pytest.mark.docker, pytest.mark.other_manager] if manager == "docker" else []),
                *([pytest.mark.long] if name == "pyspark" else []),  # Spark itself: test_frameworks
            ],
        )
        for name in NOTEBOOKS
        for manager in ON_ONE_MACHINE
    ]


@pytest.fixture
def stopped(request: pytest.FixtureRequest, clipper_home: Path) -> Iterator[None]:
    """The cluster of a notebook, named after it, is stopped also if a cell fails before the one that does it."""
    if request.node.callspec.params["manager"] == "docker":
        request.getfixturevalue("left_nothing_in_docker")
    yield
    manager, name = (request.node.callspec.params[key] for key in ["manager", "name"])
    MANAGERS[manager](f"{name}-notebook").stop_all(graceful=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for kernels, without those of the user."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path


@pytest.mark.parametrize(("name", "manager"), cases())
def test_notebook(
    name: str, manager: str, folder: Path, clipper_home: Path, monkeypatch: pytest.MonkeyPatch, stopped: None
) -> None:
    python = Path(sys.executable)
    if name in images.FRAMEWORKS:
        python = environment_of(name)
    if name in images.FRAMEWORKS and manager == "docker":
        for recipe in images.framework_recipes([name]):
            build(images.build_arguments(recipe), ROOT)
    monkeypatch.setenv(MANAGER, manager)
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    run(notebook, python, folder)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown), "no plot"
    assert not [output.text for output in shown if "Warning" in output.get("text", "")]
    assert not processes_below(clipper_home), "the notebook does not stop what it started"


@pytest.mark.parametrize(("name", "manager"), [("failing", "process")])
def test_notebook_that_fails(name: str, manager: str, folder: Path, stopped: None) -> None:
    start = f"""
from clipper_admin import ClipperConnection, ProcessContainerManager
ClipperConnection(ProcessContainerManager("{name}-notebook")).start_clipper()
"""
    notebook = new_notebook(cells=[new_code_cell(start), new_code_cell("len(5)"), new_code_cell("print('further')")])
    with pytest.raises(CellExecutionError, match="object of type 'int' has no len"):
        run(notebook, Path(sys.executable), folder)
    assert not notebook.cells[2].outputs


def run(notebook: NotebookNode, python: Path, folder: Path) -> None:
    """Execute all cells by a kernel of the interpreter. The first that fails raises."""
    kernel = folder / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    resources: dict[str, Any] = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name=KERNEL, resources=resources).execute()


def test_every_framework_has_a_notebook() -> None:
    assert NOTEBOOKS.keys() == {*images.FRAMEWORKS, "python", "image_query"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_kept_without_outputs(name: str) -> None:
    """And valid, with the ids of its cells, so that a change of it can be read."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert not [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
