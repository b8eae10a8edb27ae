"""Pickles functions and models, and with them the modules of the user's own that they need.

Installed packages are imported again where the pickle is read. Modules from the user's folders are not there: they
travel in the pickle, with all that they import from these folders in turn.
"""

import dis
import importlib
import importlib.metadata
import importlib.util
import io
import marshal
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import IO, Any, Final

import cloudpickle

from clipper_common import modeldir
from clipper_common.errors import ClipperException

_EVERYWHERE: Final = {"clipper_common", "clipper_admin", "clipper_containers", "cloudpickle", "rpc"}
"""In every container."""
_INSTALLED: Final = {"site-packages", "dist-packages"}
_NOT_CONTENT: Final = {"__builtins__", "__spec__", "__loader__", "__cached__"}
"""What a module has that belongs to the interpreter."""


def dump(value: Any, file: IO[bytes]) -> set[str]:
    """Pickle `value`. Returns the names of the packages that will be imported when it is read.

    Raises whatever the parts of `value` raise, or ClipperException that names a module that cannot travel.
    """
    start = file.tell()
    with _registered() as own:
        pickler = _Pickler(file, own)
        pickler.dump(value)
        while pickler.imported_later:  # found while the functions were pickled: the pickle needs them too
            later = [sys.modules[name] for name in sorted(pickler.all_imported_later)]
            file.seek(start)
            file.truncate()
            pickler = _Pickler(file, own, pickler.all_imported_later)
            pickler.dump(_Accompanied(value, later))
    return pickler.packages


def dumps(value: Any) -> bytes:
    """The pickle of `value`."""
    file = io.BytesIO()
    dump(value, file)
    return file.getvalue()


def reload(value: Any) -> Any:
    """`value` as a container will have it: pickled and read back."""
    return cloudpickle.loads(dumps(value))


def unpicklable(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those of `values` that cannot be pickled, or not be read back."""
    for name, value in values.items():
        try:
            reload(value)
        except Exception:
            yield name, value


@contextmanager
def _registered() -> Iterator["_OwnModules"]:
    """Modules that cloudpickle takes along, until the end of the block."""
    own = _OwnModules()
    try:
        yield own
    finally:
        own.forget()


class _OwnModules:
    """Registers modules of the user's own with cloudpickle, when they are met."""

    def __init__(self) -> None:
        self._before = set(cloudpickle.list_registry_pickle_by_value())
        self._registered: set[str] = set()

    def travels(self, module: types.ModuleType) -> bool:
        name = module.__name__
        if name not in self._before | self._registered and sys.modules.get(name) is module and is_own(module):
            _check_source(module)
            cloudpickle.register_pickle_by_value(module)
            self._registered.add(name)
        return name in self._before | self._registered

    def forget(self) -> None:
        for name in self._registered:
            with suppress(ValueError):  # somebody else was faster
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


class _Accompanied:
    """A function, with the modules that it imports when it is called."""

    def __init__(self, function: Any, modules: Iterable[types.ModuleType]) -> None:
        self._parts = function, tuple(modules)

    def __reduce__(self) -> tuple[Any, ...]:
        return modeldir.accompanied, self._parts


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Meets every function, class and module in a value."""

    def __init__(self, file: IO[bytes], own: _OwnModules, imported_later: Iterable[str] = ()) -> None:
        super().__init__(file)
        self._own = own
        self._known_later = set(imported_later)
        self.imported_later: set[str] = set()
        self.packages: set[str] = set()

    @property
    def all_imported_later(self) -> set[str]:
        return self._known_later | self.imported_later

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        module = _home(obj)
        if isinstance(obj, types.FunctionType):
            self._look_for_imports(obj)
        if module is not None and not self._own.travels(module):
            self.packages |= _installed_package(module.__name__)
        elif isinstance(obj, types.ModuleType):
            return modeldir.make_module, (obj.__name__,), content(obj), None, None, modeldir.fill_module
        return super().reducer_override(obj)

    def _look_for_imports(self, function: types.FunctionType) -> None:
        home = sys.modules.get(function.__module__ or "")
        if home is not None and home.__name__ != "__main__" and not self._own.travels(home):
            return  # it is imported again, and imports for itself
        package = function.__globals__.get("__package__") or ""
        for name in imported_modules(function.__code__, package):
            module = _own_module(name)
            if module is not None and self._own.travels(module):
                self.imported_later |= {*_with_parents(module.__name__)} - self._known_later


def _reduce_code(code: types.CodeType) -> Any:
    """Code as Python writes it into ``.pyc`` files, with the names of files, which cloudpickle 3.1.3 and later drop."""
    try:
        return marshal.loads, (marshal.dumps(code),)
    except ValueError:  # a tool has put constants into the code that no source has
        return NotImplemented


def _home(obj: Any) -> types.ModuleType | None:
    """The module that `obj` is, or that it is an attribute of."""
    if isinstance(obj, types.ModuleType):
        return obj
    if isinstance(obj, types.FunctionType | types.BuiltinFunctionType | type):
        return sys.modules.get(getattr(obj, "__module__", None) or "")
    return None


def content(module: types.ModuleType) -> dict[str, Any]:
    """What of a module travels."""
    found = {name: value for name, value in vars(module).items() if name not in _NOT_CONTENT}
    return found | ({"__path__": list(module.__path__)} if "__path__" in found else {})


def _installed_package(module: str) -> set[str]:
    top = module.partition(".")[0]
    return set() if top in sys.stdlib_module_names or top in _EVERYWHERE or top == "__main__" else {top}


# --- what is the user's own ---


def is_own(module: types.ModuleType) -> bool:
    """Whether a module comes from one of the user's folders, and not with Python or an installed package."""
    return module.__name__ != "__main__" and _is_own(module.__name__.partition(".")[0], _place(module))


def is_own_or_main(obj: Any) -> bool:
    """Whether a function or class comes from a module of the user's own, or from the notebook or script that runs."""
    module = _home(obj)
    return module is None or module.__name__ == "__main__" or is_own(module)


def _place(module: types.ModuleType) -> str:
    """Its file; for a folder without ``__init__.py``, the folder."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")


@cache
def _is_own(top: str, place: str) -> bool:
    if not place or top in sys.stdlib_module_names or top in _EVERYWHERE:
        return False
    path = Path(place).resolve()
    if _INSTALLED.intersection(path.parts) or any(path.is_relative_to(folder) for folder in _installation_folders()):
        return False
    return top not in importlib.metadata.packages_distributions()  # else it is installed in editable mode


@cache
def _installation_folders() -> list[Path]:
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(folder).resolve() for folder in {*libraries, *site.getsitepackages(), site.getusersitepackages()}]


def _check_source(module: types.ModuleType) -> None:
    if _place(module).endswith(tuple(EXTENSION_SUFFIXES)):
        raise ClipperException(
            f"The module '{module.__name__}' ({_place(module)}) is compiled and cannot travel with the function. "
            "Make a package of it and name that in pkgs_to_install, or install it in an image of your own and name "
            "that in base_image."
        )


# --- imports within functions ---


def imported_modules(code: types.CodeType, package: str) -> Iterator[str]:
    """The modules that `code` may import when it runs, by their full names."""
    constants: list[Any] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, names = constants[-2:]
            yield from _full_names(instruction.argval, level or 0, names or (), package)
        elif "CONST" in instruction.opname or instruction.opname == "LOAD_SMALL_INT":
            constants.append(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imported_modules(constant, package)


def _full_names(name: str, level: int, names: Iterable[str], package: str) -> Iterator[str]:
    if level:
        parent = package.rsplit(".", level - 1)[0] if level > 1 else package
        name = f"{parent}.{name}".strip(".")
    yield name
    for each in names:  # perhaps modules of a package
        yield f"{name}.{each}"


def _own_module(name: str) -> types.ModuleType | None:
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
    """Where the module `name` would come from. Imports the packages that it is in, and not itself."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # no module, or in what is no package
        return ""
    return "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))
