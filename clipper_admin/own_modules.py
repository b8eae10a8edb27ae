"""Finds out which modules are the user's own, and where their files are."""

import importlib
import importlib.metadata
import importlib.util
import json
import site
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse
from urllib.request import url2pathname

import clipper_admin
import clipper_common
from clipper_common.errors import ClipperException

_INSTALLED: Final = {"site-packages", "dist-packages"}


def is_own(module: types.ModuleType) -> bool:
    """Whether a module comes from one of the user's folders, and not with Python or an installed package."""
    return module.__name__ != "__main__" and _is_own(module.__name__.partition(".")[0], _place(module))


def home(obj: Any) -> types.ModuleType | None:
    """The module that `obj` is, or that it is an attribute of."""
    if isinstance(obj, types.ModuleType):
        return obj
    if isinstance(obj, types.FunctionType | types.BuiltinFunctionType | type):
        return sys.modules.get(getattr(obj, "__module__", None) or "")
    return None


def is_own_or_main(obj: Any) -> bool:
    """Whether a function or class comes from a module of the user's own, or from the notebook or script that runs."""
    module = home(obj)
    return module is None or module.__name__ == "__main__" or is_own(module)


def _place(module: types.ModuleType) -> str:
    """The file of the module; for a folder without ``__init__.py``, the folder."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")


@cache
def _is_own(top: str, place: str) -> bool:
    """Whether the module `top`, or one in the package `top`, that lies at `place` is the user's. Names do not matter:
    files of the user's may be named like modules of Python or like packages that are installed.
    """
    if place in ("", "built-in", "frozen"):
        return False
    path = Path(place).resolve()
    if _INSTALLED.intersection(path.parts):
        return False
    installed = any(path.is_relative_to(folder) for folder in _installation_folders())
    return not installed and not any(path.is_relative_to(folder) for folder in _editable_folders(top))


@cache
def _installation_folders() -> list[Path]:
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = {*libraries, *site.getsitepackages(), site.getusersitepackages()}
    return [Path(folder).resolve() for folder in {*folders, *_our_folders()}]


def _our_folders() -> Iterator[str]:
    yield from (*clipper_admin.__path__, *clipper_common.__path__)
    containers = importlib.util.find_spec("clipper_containers")
    if containers is not None:
        yield from containers.submodule_search_locations or ()


@cache
def _editable_folders(top: str) -> list[Path]:
    """Return the folders of installed packages with a module `top` that are installed in editable mode."""
    found: list[Path] = []
    for name in _distributions().get(top, []):
        distribution = importlib.metadata.distribution(name)
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            found.append(Path(url2pathname(urlparse(origin["url"]).path)))
        found.append(Path(str(distribution.locate_file(""))))  # setup.py develop: its metadata lie beside the code
    return [folder.resolve() for folder in found]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def check_source(module: types.ModuleType) -> None:
    """Raise ClipperException if a module cannot travel because it is compiled."""
    if _place(module).endswith(tuple(EXTENSION_SUFFIXES)):
        raise ClipperException(
            f"The module '{module.__name__}' ({_place(module)}) is compiled and cannot travel with the function. "
            "Make a package of it and name that in pkgs_to_install, or install it in an image of your own and name "
            "that in base_image."
        )


# --- modules by name ---


def own_module(name: str) -> types.ModuleType | None:
    """The module of that name if there is one of the user's own. It is imported if it was not yet."""
    top = name.partition(".")[0]
    if not _is_own(top, _place_of_spec(top)) or not (name in sys.modules or _place_of_spec(name)):
        return None
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ClipperException(
            f"The function imports '{name}' ({_place_of_spec(name)}), which raises {type(error).__name__}: {error}"
        ) from error


def _place_of_spec(name: str) -> str:
    """Return the place of the module `name`. It imports the packages around the module, but not the module."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # no module, or in what is no package
        return ""
    return "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or []), "")


def with_parents(name: str) -> Iterator[str]:
    """A module's name after those of the packages that it is in."""
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))
