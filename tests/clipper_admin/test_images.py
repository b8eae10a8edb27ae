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
OF_PYTHON = [*images.recipes(), *images.framework_recipes(images.FRAMEWORKS)]
ALL = [*OF_PYTHON, images.R_RECIPE]


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "__registry__", "localhost:5000/clipper")
    name = images.image_name(images.PYTHON.component("3.12"))
    assert name == f"localhost:5000/clipper/python312-closure-container:{__version__}"
    assert images.component_of(name) == "python312-closure-container"
    assert images.rpc_component("3.12") == "py312-rpc"


def test_every_dockerfile_has_its_recipe_and_no_other() -> None:
    used = {recipe.dockerfile for recipe in ALL}
    assert used == {path.name for path in DOCKERFILES.glob("*Dockerfile")}


def test_bases_are_built_first() -> None:
    built = {""}
    for recipe in ALL:
        assert recipe.base in built
        built.add(recipe.component)


def test_the_list_for_make(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "__registry__", "clipper")
    images.main(["--python-version", "3.12"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(images.recipes())
    closure = next(line.split() for line in lines if "closure" in line)
    assert closure == [
        f"--tag=clipper/python312-closure-container:{__version__}",
        "--file=dockerfiles/PyClosureContainerDockerfile",
        f"--build-arg=VERSION={__version__}",
        f"--build-arg=RPC_IMAGE=clipper/py312-rpc:{__version__}",
    ]


def test_frameworks_are_made_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    images.main(["keras", "pytorch", "--python-version=3.12"])
    tags = [line.split()[0] for line in capsys.readouterr().out.splitlines()[len(images.recipes()) :]]
    assert [images.component_of(tag) for tag in tags] == [
        "tf312-container",
        "keras312-container",
        "pytorch312-container",
    ]
    images.main(["all"])
    assert len(capsys.readouterr().out.splitlines()) == len(ALL)
    with pytest.raises(SystemExit):
        images.main(["torch"])
    assert "no such framework: torch. Choose from all, pytorch" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", OF_PYTHON, ids=lambda recipe: recipe.component)
def test_a_dockerfile_names_its_base(recipe: images.Recipe) -> None:
    text = (DOCKERFILES / recipe.dockerfile).read_text()
    base = recipe.base_argument if recipe.base else "BASE_IMAGE"
    assert re.findall(r"^ARG (\w*(?:IMAGE))\b", text, re.MULTILINE) == [base]


def test_whose_models_an_image_serves() -> None:
    assert images.served_by("clipper/python39-closure-container:0.4.1") == ("3.9", "")
    assert images.served_by(images.KERAS.name()) == (images.RUNNING_PYTHON, "keras")
    assert images.served_by("clipper/noop-container:0.4.1") is None
    assert images.served_by("clipper/my-pytorch311-container:1") is None


def test_versions_of_frameworks_on_the_page() -> None:
    page = (ROOT / "docs/images.md").read_text()
    text = "\n".join((DOCKERFILES / recipe.dockerfile).read_text() for recipe in OF_PYTHON)
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", text, re.MULTILINE))
    table = page.partition("| image | serves |")[2].partition("\n\n")[0]
    named = dict(re.findall(r"`([A-Z_]+)=([^`]+)`", table))
    assert named.items() <= arguments.items()
    assert arguments.keys() - {"PYTHON_VERSION", "BASE_IMAGE", "COMPILE"} == named.keys()


def test_the_page_names_images_that_exist() -> None:
    named = set(re.findall(r"clipper/([\w-]+)(?::([\d.]+))?", (ROOT / "docs/images.md").read_text()))
    frameworks = images.framework_recipes(images.FRAMEWORKS, "3.11")
    components = {recipe.component for recipe in [*images.recipes("3.11"), images.R_RECIPE, *frameworks]}
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
