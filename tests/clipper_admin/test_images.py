"""Names of images, and how they are built."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from clipper_admin import images
from clipper_common import __version__, constants

ROOT = Path(__file__).parents[2]
DOCKERFILES = ROOT / "dockerfiles"


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "__registry__", "localhost:5000/clipper")
    name = images.image_name(images.python_closure_component("3.12"))
    assert name == f"localhost:5000/clipper/python312-closure-container:{__version__}"
    assert images.component_of(name) == "python312-closure-container"
    assert images.rpc_component("3.12") == "py312-rpc"


def test_every_dockerfile_has_its_recipe_and_no_other() -> None:
    used = {recipe.dockerfile for recipe in [*images.recipes(), images.R_RECIPE]}
    assert used == {path.name for path in DOCKERFILES.glob("*Dockerfile")}


def test_bases_are_built_first() -> None:
    built = {""}
    for recipe in images.recipes():
        assert recipe.base in built
        built.add(recipe.component)


def test_the_list_for_make(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "__registry__", "clipper")
    images.main(["--python-version", "3.12"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(images.recipes()) + 1
    closure = next(line.split() for line in lines if "closure" in line)
    assert closure == [
        f"--tag=clipper/python312-closure-container:{__version__}",
        "--file=dockerfiles/PyClosureContainerDockerfile",
        f"--build-arg=VERSION={__version__}",
        f"--build-arg=RPC_IMAGE=clipper/py312-rpc:{__version__}",
    ]


def test_the_page_names_images_that_exist() -> None:
    named = set(re.findall(r"clipper/([\w-]+)(?::([\d.]+))?", (ROOT / "docs/images.md").read_text()))
    components = {recipe.component for recipe in [*images.recipes("3.11"), images.R_RECIPE]}
    assert {component for component, _ in named} - {"entry"} == components
    assert {version for _, version in named} == {"", __version__}


@pytest.mark.parametrize(
    ("dockerfile", "ports"),
    [
        ("QueryFrontendDockerfile", [constants.QUERY_PORT, constants.RPC_PORT]),
        ("ManagementFrontendDockerfile", [constants.MANAGEMENT_PORT]),
        ("FrontendExporterDockerfile", [constants.METRIC_PORT]),
        ("RPCDockerfile", [constants.METRIC_PORT]),
    ],
)
def test_ports_of_the_images(dockerfile: str, ports: list[int]) -> None:
    text = (DOCKERFILES / dockerfile).read_text()
    assert f"EXPOSE {' '.join(map(str, ports))}\n" in text
    checked = re.findall(r'healthcheck.py", "(\d+)"', text)
    assert checked == ([] if dockerfile == "RPCDockerfile" else [str(ports[0])])


def test_environment_of_model_images() -> None:
    named = re.findall(r"(CLIPPER_\w+)=", (DOCKERFILES / "RPCDockerfile").read_text())
    assert named == [constants.ENV_MODEL_PATH, constants.ENV_READY_FILE]


@pytest.mark.parametrize("group", ["frontends", "containers"])
def test_requirements_are_those_of_setup(group: str) -> None:
    script = runpy.run_path(str(DOCKERFILES / "requirements.py"))
    setup = (ROOT / "setup.py").read_text()
    chosen = script["requirements"](group, setup)
    assert len(chosen) == len(script["GROUPS"][group])
    constants = {node.value for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.Constant)}
    assert set(chosen) <= constants
