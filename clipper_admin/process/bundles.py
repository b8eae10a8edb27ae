"""Images of the process manager: a model folder, the command that serves it, and perhaps packages of its own.

``images/<quoted name>.json`` is the image; it points to a folder beside it that is never changed once it is there.
A cluster has images of its own, which end with it, and sees those that all clusters of a user share.
"""

import importlib.util
import json
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from clipper_admin import images
from clipper_admin.arguments import check_packages
from clipper_admin.process.state import (
    ClusterFiles,
    in_home,
    program_records,
    read_record,
    shared_images,
    tail,
    write_json,
)
from clipper_common.errors import ClipperException

_CONTAINERS: Final = "clipper_containers"
_MODULES: Final = {
    images.NOOP_CONTAINER: "noop_container",
    images.SUM_CONTAINER: "sum_container",
    **{
        name: image.module
        for image in (images.PYTHON, *images.FRAMEWORKS.values())
        for name in (image.pattern.format(""), image.component())
    },
}
_INSTALL_SECONDS: Final = 1800.0


@dataclass(frozen=True)
class Launch:
    """The command and environment with which a replica is started."""

    program: str
    arguments: list[str]
    working_directory: str
    model_path: str
    site_directory: str = ""
    """The folder with packages of its own; empty if it has none."""
    is_python: bool = True

    @property
    def argv(self) -> list[str]:
        return [self.program, *self.arguments]


def resolve(files: ClusterFiles, image: str) -> Launch:
    """Find out what `image` names: a bundle that was built, one of our containers, or a path to a script."""
    for folder in (files.images, shared_images()):
        if bundle := read_record(_record(folder, image), Launch):
            return bundle
    if module := _MODULES.get(images.component_of(image)):
        # -P: nothing of the working directory can be imported, where the cluster's files lie.
        return _launch(files, ["-P", "-m", f"{_CONTAINERS}.{module}"], files.directory)
    script = Path(image).expanduser().absolute()
    if script.suffix == ".py" and script.is_file():
        return _launch(files, [str(script)], script.parent)
    raise ClipperException(_unknown(image))


def _launch(files: ClusterFiles, arguments: list[str], working_directory: Path) -> Launch:
    # As in a container whose image brings no model: the path is set, and nothing is there.
    return Launch(sys.executable, arguments, str(working_directory), str(files.images / "model"))


def _unknown(image: str) -> str:
    if images.served_by(image):
        return (
            f"Image '{image}' is for another Python than the running {images.RUNNING_PYTHON}, which pickled the "
            f"function. Leave base_image out."
        )
    return (
        f"Image '{image}' was not found. ProcessContainerManager accepts the name of an image that was built for this "
        f"cluster (build_model), one of {', '.join(sorted(_MODULES))}, or the path of an existing .py file."
    )


def toplevel_folder() -> str:
    """The folder that lets a container script say ``import rpc``."""
    spec = importlib.util.find_spec(_CONTAINERS)
    if spec is None or not spec.submodule_search_locations:
        raise ClipperException(
            f"Python package {_CONTAINERS} was not found. It is a part of this release of clipper_admin: install that"
            " again, as the README says (the package index has an older release, without it)."
        )
    return str(Path(spec.submodule_search_locations[0]) / "toplevel")


# --- building ---


def build(files: ClusterFiles, image: str, model: Path, base_image: str, packages: Sequence[str]) -> None:
    """Make the image, or replace it."""
    base = resolve(files, base_image)
    if check_packages(packages) and not base.is_python:
        raise ClipperException(f"pkgs_to_install names Python packages, and no Python serves image '{base_image}'")
    if not model.is_dir():
        raise ClipperException(f"Model folder '{model}' does not exist")
    _store(files.images, image, base, model, packages)
    _remove_unused_of(files)


def remove(files: ClusterFiles, image: str) -> None:
    """Remove an image, if it is there."""
    _record(files.images, image).unlink(missing_ok=True)
    _remove_unused_of(files)


def build_shared(image: str, model: Path, argv: Sequence[str]) -> None:
    """Make an image that all clusters of this user see, or replace it. `argv` serves the model, in any language."""
    with in_home():
        _build_shared(shared_images(), image, model, argv)


def _build_shared(folder: Path, image: str, model: Path, argv: Sequence[str]) -> None:
    launch = Launch(argv[0], list(argv[1:]), str(folder), model_path="", is_python=False)
    _store(folder, image, launch, model, [])
    _remove_unused(folder, [*folder.glob("*.json"), *program_records()])


def _store(images_folder: Path, image: str, base: Launch, model: Path, packages: Sequence[str]) -> None:
    images_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=images_folder, prefix=f"{quote(image, safe='')}."))
    try:
        write_json(_record(images_folder, image), asdict(_fill(folder, base, model, packages)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(folder: Path, base: Launch, model: Path, packages: Sequence[str]) -> Launch:
    model_copy = folder / "model"
    if base.model_path and Path(base.model_path).is_dir():
        shutil.copytree(base.model_path, model_copy, symlinks=True)
    shutil.copytree(model, model_copy, symlinks=True, dirs_exist_ok=True)
    launch = replace(base, model_path=str(model_copy))
    return _with_packages(launch, folder / "venv", packages) if packages else launch


def _with_packages(base: Launch, venv: Path, packages: Sequence[str]) -> Launch:
    # Our own pip serves the new environment too, if we have one: to set up another takes seconds.
    without_pip = ["--without-pip"] if importlib.util.find_spec("pip") else []
    _run([sys.executable, "-m", "venv", *without_pip, str(venv)], "Creating a virtual environment")
    site_directory = sysconfig.get_path("purelib", "venv", {"base": str(venv), "platbase": str(venv)})
    _see_packages_of(Path(site_directory), base)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *packages]
    _run(pip, f"Installing {', '.join(packages)}")
    return replace(base, program=python, site_directory=site_directory)


def _see_packages_of(site_directory: Path, base: Launch) -> None:
    """Let the environment find, after its own packages, those of its base and ours."""
    ours = [path for path in [*site.getsitepackages(), site.getusersitepackages()] if path in sys.path]
    paths = [base.site_directory, *ours] if base.site_directory else ours
    # addsitedir() reads the .pth files that it finds there: editable installs need that.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
    (site_directory / "clipper_base.pth").write_text("".join(lines))


def _run(command: list[str], what: str) -> None:
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ClipperException(f"{what} took more than {_INSTALL_SECONDS:.0f} seconds and was given up") from None
    if result.returncode:
        raise ClipperException(f"{what} failed (exit code {result.returncode}):\n{tail(result.stdout)}")


def _record(images_folder: Path, image: str) -> Path:
    return images_folder / f"{quote(image, safe='')}.json"


def _remove_unused_of(files: ClusterFiles) -> None:
    _remove_unused(files.images, [*files.images.glob("*.json"), *files.programs_folder.glob("*.json")])


def _remove_unused(images_folder: Path, users: Iterable[Path]) -> None:
    """Remove folders of replaced images, unless a replica still runs from them."""
    texts = [path.read_text() for path in users]
    for folder in images_folder.glob("*/"):
        if not any(json.dumps(str(folder))[1:-1] in text for text in texts):
            shutil.rmtree(folder, ignore_errors=True)
