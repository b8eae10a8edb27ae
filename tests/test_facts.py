"""Tests that documents and code agree about the facts that both state."""

import ast
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import targets

from clipper_admin import ProcessContainerManager, frontend_options
from clipper_common import __version__, constants
from clipper_common.datatypes import InputType
from clipper_common.selection_policies import POLICIES, Loss
from clipper_common.wire import HeartbeatType, MessageType, RequestType
from management_frontend import config as mgmt_frontend_config
from management_frontend.handlers import ROUTES
from query_frontend import config as query_frontend_config
from query_frontend.http.handlers import MODEL_HEADER, Handlers
from query_frontend.serving import reasons

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
PROGRAMS = ["clipper_common", "query_frontend", "management_frontend", "clipper_admin", "containers"]
REASONS = [
    reasons.NO_MODELS,
    reasons.QUEUE_FULL,
    reasons.REPLICA_DIED,
    reasons.LAST_REPLICA_DIED,
    reasons.INPUT_BLAMED,
    reasons.MODEL_RAISED,
    reasons.SLO_MISSED,
]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(name: str) -> str:
    return (DOCS / name).read_text()


def source_code() -> str:
    return "\n".join(path.read_text() for program in PROGRAMS for path in sorted((ROOT / program).rglob("*.py")))


def test_changelog_begins_with_the_version() -> None:
    releases = re.findall(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == __version__


# --- flags ---


@pytest.mark.parametrize(
    ("flags", "config"),
    [
        (frontend_options.QUERY_FRONTEND_FLAGS, query_frontend_config.Config),
        (frontend_options.MGMT_FRONTEND_FLAGS, mgmt_frontend_config.Config),
    ],
)
def test_flags_that_the_sdk_passes_on_are_those_of_the_programs(flags: tuple[str, ...], config: type[Any]) -> None:
    assert set(flags) <= {field.name for field in dataclasses.fields(config)}


def test_the_boolean_flags_of_the_sdk_are_booleans_of_the_program() -> None:
    types = {each.name: type(each.default) for each in dataclasses.fields(query_frontend_config.Config)}
    booleans = tuple(name for name in frontend_options.QUERY_FRONTEND_FLAGS if types[name] is bool)
    assert booleans == frontend_options.BOOLEAN_FLAGS


# --- packages ---


def test_all_files_of_the_common_package_are_in_wheels() -> None:
    patterns = ast.literal_eval(re.findall(r'"clipper_common": (\[.*\])', (ROOT / "setup.py").read_text())[0])
    data = [path for path in (ROOT / "clipper_common").rglob("*.*") if path.suffix not in (".py", ".pyc", ".so", ".c")]
    missing = {path for path in data if path.is_file()}
    for pattern in patterns:
        missing -= set((ROOT / "clipper_common").glob(pattern))
    assert data and not missing


# --- constants ---


def documented_constants() -> list[tuple[str, str]]:
    """Table cells such as ``| `QUERY_PORT` | 1337 |`` or ``| `EXIT_USAGE` = 2 |``."""
    text = "\n".join(page.read_text() for page in PAGES)
    return re.findall(r"^\| `(?!CLIPPER_)([A-Z_]+)` (?:\||=) ([\d.]+) \|", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), documented_constants())
def test_constant_has_the_documented_value(name: str, value: str) -> None:
    assert float(value) == getattr(constants, name)


def test_all_ports_and_exit_codes_of_the_programs_are_documented() -> None:
    wanted = {name for name in vars(constants) if name.endswith("_PORT") and not name.startswith("ENV_")}
    wanted = wanted - {"FLUENTD_PORT"} | {name for name in vars(constants) if name.startswith("EXIT_")}
    assert wanted <= dict(documented_constants()).keys()


def test_default_ports_of_the_process_manager_are_documented() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+_port)` \| (\d+) \|", read("container-managers.md"), re.MULTILINE)
    parameters = inspect.signature(ProcessContainerManager).parameters.values()
    assert {name: int(port) for name, port in rows} == {p.name: p.default for p in parameters if "_port" in p.name}


def test_environment_of_a_container_is_documented() -> None:
    rows = re.findall(r"^\| `(CLIPPER_\w+)` \|", read("writing-a-container.md"), re.MULTILINE)
    assert set(rows) == {value for name, value in vars(constants).items() if name.startswith("ENV_")}


@every_page
def test_environment_names_exist(page: Path) -> None:
    named = set(re.findall(r"CLIPPER_[A-Z_]+", page.read_text()))
    assert named <= set(re.findall(r'"(CLIPPER_[A-Z_]+)"', source_code()))


def test_the_readme_names_every_document() -> None:
    named = set(re.findall(r"\(docs/([a-z0-9-]+\.md)", (ROOT / "README.md").read_text()))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}


# --- protocols ---


def test_wire_numbers() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", read("wire-protocol.md"), re.MULTILINE)
    kinds = [MessageType, HeartbeatType, RequestType, InputType]
    assert {(int(number), name) for number, name in rows} == {(int(m), m.name) for kind in kinds for m in kind}


def routes() -> Iterator[str]:
    query_routes = Handlers(None, None, None, None, 1.0, None, None, None, None).routes()  # type: ignore[arg-type]
    for route in [*query_routes, *ROUTES]:
        yield f"{route.method} {route.path}".replace("{app}", "<app>")


def test_every_route_is_documented_and_no_other() -> None:
    assert set(re.findall(r"^\| `((?:GET|POST) [^`]+)` \|", read("http-api.md"), re.MULTILINE)) == set(routes())


@pytest.mark.parametrize("page", ["http-api.md", "troubleshooting.md"])
@pytest.mark.parametrize("reason", REASONS)
def test_reasons_for_defaults_are_documented(page: str, reason: str) -> None:
    assert reason in read(page)


def test_model_header_is_documented() -> None:
    assert f"`{MODEL_HEADER}`" in read("http-api.md")


# --- selection policies ---


def test_selection_policies_and_their_options_are_documented() -> None:
    rows = re.findall(r"^\|[^|]*\| `(\w+)` \|[^|]*\|[^|]*\|$", read("selection.md"), re.MULTILINE)
    assert set(rows) == {each.name for policy in POLICIES.values() for each in dataclasses.fields(policy)}
    assert set(re.findall(r"^\*\*`(\w+)`\*\*", read("selection.md"), re.MULTILINE)) == set(POLICIES)
    assert set(Loss) <= set(re.findall(r"^\| `(\w+)` \| ", read("selection.md"), re.MULTILINE))


# --- dependencies ---


def declared_dependencies() -> set[str]:
    setup = ast.parse((ROOT / "setup.py").read_text())
    call = next(node for node in ast.walk(setup) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    groups = [keywords["install_requires"], keywords["extras_require"]]
    texts = [str(node.value) for group in groups for node in ast.walk(group) if isinstance(node, ast.Constant)]
    texts += tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    extras = set(ast.literal_eval(keywords["extras_require"]))
    return {re.split(r"[<>=;\[ ]", text)[0] for text in texts} - extras - {"clipper_admin"}


def test_every_dependency_has_its_reason_and_no_other() -> None:
    cells = re.findall(r"^\| (`.+?`) \|", read("dependencies.md"), re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", "\n".join(cells))) == declared_dependencies()


# --- targets of make ---


def test_targets_of_make_are_documented() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    found = set(re.findall(r"^\.PHONY: (.*)", text, re.MULTILINE)[0].split())
    assert {targets.EVERYDAY, *targets.BY_MARK.values()} < found
    documented = set(re.findall(r"`make ([a-z-]+)`", read("contributing.md")))
    assert documented == found - {"default"}


@pytest.mark.parametrize("mark", targets.BY_MARK)
def test_marks_that_choose_a_target_exist(mark: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert any(line.startswith(f"{mark}: ") for line in known)


# --- names ---


FORMER_MODULES = {
    "door",
    "lane",
    "leaving",
    "link",
    "links",
    "owner",
    "presence",
    "query_processor",
    "record",
    "seat",
    "siblings",
    "supervision",
    "task_executor",
    "undoing",
}


def test_architecture_names_every_module_of_the_query_frontend() -> None:
    drawing = read("architecture.md").partition("Inside query_frontend")[2].partition("```")[0]
    modules = {path.stem for path in (ROOT / "query_frontend").rglob("*.py") if "exporter" not in path.parts}
    assert modules - {"__init__", "__main__"} == set(re.findall(r"\w+", drawing)) & modules


def test_modules_have_the_names_of_the_field() -> None:
    found = {path.stem for program in PROGRAMS for path in (ROOT / program).rglob("*.py")}
    assert found & FORMER_MODULES == set()


def glossary() -> list[tuple[str, str]]:
    return re.findall(r"^\| .+ \| `([^`]+)`, `(\w+)` \|$", read("contributing.md"), re.MULTILINE)


def test_terms_of_the_glossary_exist() -> None:
    assert len(glossary()) > 20
    for file, name in glossary():
        assert re.search(rf"^(class {name}\b|{name} = )", (ROOT / file).read_text(), re.MULTILINE), (file, name)


# --- code ---


@every_page
def test_python_blocks_compile(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(block)


@every_page
def test_linked_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
        assert (page.parent / target).is_file()
