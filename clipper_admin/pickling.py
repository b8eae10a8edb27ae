"""Pickles functions and models together with the user's modules that they need.

Installed packages are imported again where the pickle is read. Modules from the user's folders are not there: they
travel in the pickle, with all that they import from these folders in turn. The notebook or script is not there either:
after the pickle of the value, the file has a second one, from which `clipper_common.namespace` makes ``__main__``.
"""

import io
import marshal
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, Final

import cloudpickle

from clipper_admin import bytecode, reducers
from clipper_admin.own_modules import check_source, home, is_own, own_module, with_parents
from clipper_common import modeldir, namespace

_EVERYWHERE: Final = {"clipper_common", "clipper_admin", "clipper_containers", "cloudpickle", "rpc"}
"""The packages that every container has."""
_NOT_CONTENT: Final = {"__builtins__", "__spec__", "__loader__", "__cached__"}
"""The attributes of a module that belong to the interpreter."""
_MOST_BYTES_OF_A_DEFINITION: Final = 4 << 20
_MOST_BYTES_OF_DEFINITIONS: Final = 64 << 20
"""The limit of all definitions together. Those that were too large count too, so that a large variable is not pickled
many times."""

_one_at_a_time: Final = threading.RLock()
"""A lock, because cloudpickle has one set of modules to pickle by value for all threads."""


def dump(value: Any, file: IO[bytes], definitions: bool = True) -> set[str]:
    """Pickle `value`. Returns the names of the packages that will be imported when it is read.

    With `definitions`, functions and classes of the notebook or script that `value` does not use travel, too: plain
    pickles that are read within a function may need them.

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
        packages = set(pickler.packages)
        if sent := _sent_along(pickler, own, definitions):
            pickler.dump(sent)
    return packages


def dumps(value: Any) -> bytes:
    """The pickle of `value`."""
    file = io.BytesIO()
    dump(value, file, definitions=False)
    return file.getvalue()


def reload(value: Any) -> Any:
    """`value` as a container will have it: pickled and read back."""
    return cloudpickle.loads(dumps(value))


@contextmanager
def _registered() -> Iterator["_OwnModules"]:
    """Modules that cloudpickle takes along, until the end of the block."""
    with _one_at_a_time:
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
            check_source(module)
            cloudpickle.register_pickle_by_value(module)
            self._registered.add(name)
        return name in self._before | self._registered

    def forget(self) -> None:
        for name in self._registered:
            with suppress(ValueError):  # the user has unregistered it meanwhile
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


class _Accompanied:
    """A function, with the modules that it imports when it is called."""

    def __init__(self, function: Any, modules: Iterable[types.ModuleType]) -> None:
        self._parts = function, tuple(modules)

    def __reduce__(self) -> tuple[Any, ...]:
        return modeldir.accompanied, self._parts


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that collects every function, class and module in a value."""

    def __init__(self, file: IO[bytes], own: _OwnModules, imported_later: Iterable[str] = ()) -> None:
        super().__init__(file)
        self._own = own
        self._known_later = set(imported_later)
        self.imported_later: set[str] = set()
        self.packages: set[str] = set()
        self._shared: dict[str, reducers.Variables] = {}
        self.there: dict[str, dict[str, Any]] = {"__main__": {}}
        """The functions and classes of the user's modules that the pickler met: by module, and by name."""

    @property
    def all_imported_later(self) -> set[str]:
        return self._known_later | self.imported_later

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        if isinstance(obj, types.FunctionType):
            self._look_for_imports(obj)
        if (address := self._address(obj)) is not None:
            self.there.setdefault(address[0], {})[address[1]] = obj
        module = home(obj)
        if module is not None and not self._own.travels(module):
            self.packages |= _installed_package(module.__name__)
        elif isinstance(obj, types.ModuleType):
            return modeldir.make_module, (obj.__name__,), content(obj), None, None, modeldir.fill_module
        by_value = reducers.by_value(obj, self._is_elsewhere, self.dispatch_table)
        if isinstance(by_value, str):  # a name in a module of the user's
            self.there.setdefault(obj.__module__, {})[by_value] = obj
            by_value = reducers.of_named(obj, by_value)
        if by_value is not NotImplemented:
            return by_value
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType):
            return reducers.of_function(obj, reduced, self._variables)
        return reducers.of_class(obj, reduced, self._is_elsewhere) if isinstance(obj, type) else reduced

    def _address(self, obj: Any) -> tuple[str, str] | None:
        """The module of the user's, and the name in it, by which plain pickle refers to `obj`."""
        module = getattr(obj, "__module__", None)
        if not isinstance(module, str) or not _is_definition(obj, module) or self._is_elsewhere(module):
            return None
        name: str = getattr(obj, "__qualname__", obj.__name__)
        return (module, name) if vars(sys.modules.get(module, obj)).get(name) is obj else None

    def _variables(self, function: types.FunctionType) -> reducers.Variables | None:
        """The global variables of a function of the user's, which all functions of its module share."""
        module = function.__globals__.get("__name__")
        found = sys.modules.get(module) if isinstance(module, str) else None
        if found is None or vars(found) is not function.__globals__ or self._is_elsewhere(found.__name__):
            return None
        return self._shared.setdefault(found.__name__, reducers.Variables(found.__name__))

    def _is_elsewhere(self, module: str) -> bool:
        """Whether a module can be imported where the pickle is read."""
        found = sys.modules.get(module)
        return module != "__main__" and (found is None or not self._own.travels(found))

    def _look_for_imports(self, function: types.FunctionType) -> None:
        module = sys.modules.get(function.__module__ or "")
        if module is not None and module.__name__ != "__main__" and not self._own.travels(module):
            return  # it is imported again, and imports for itself
        package = function.__globals__.get("__package__") or ""
        for name in bytecode.imported_modules(function.__code__, package):
            found = self._imported(name)
            if found is not None and self._own.travels(found):
                self.imported_later |= {*with_parents(found.__name__)} - self._known_later

    def _imported(self, name: str) -> types.ModuleType | None:
        return own_module(name)


# --- what is sent along ---


def _sent_along(pickler: _Pickler, own: _OwnModules, definitions: bool) -> dict[str, dict[str, Any]]:
    """Return the dictionary that follows the value in the file, in the form that `namespace.read` takes."""
    there = {module: dict(names) for module, names in pickler.there.items()}
    others = _definitions(own, there) if definitions else {}
    sent = {module: namespace.Sent(there.get(module, {}), others.get(module, {})) for module in {**there, **others}}
    return {module: each._asdict() for module, each in sent.items() if any(each)}


class _DefinitionPickler(_Pickler):
    """Pickles definitions that the value does not use, and refers to those that it uses."""

    def __init__(self, file: IO[bytes], own: _OwnModules, there: Mapping[int, tuple[str, str]]) -> None:
        super().__init__(file, own)
        self._addresses = there

    def reducer_override(self, obj: Any) -> Any:
        if (address := self._addresses.get(id(obj))) is not None:
            return namespace.from_users, address
        return super().reducer_override(obj)

    def _imported(self, name: str) -> types.ModuleType | None:
        """Import nothing, since the function may never be called."""
        return None


def _definitions(own: _OwnModules, there: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, bytes | str]]:
    """The other functions and classes of the user's modules: each its pickle, or why it has none."""
    addresses = {id(value): (module, name) for module, names in there.items() for name, value in names.items()}
    budget = _MOST_BYTES_OF_DEFINITIONS
    found: dict[str, dict[str, bytes | str]] = {}
    for module in ["__main__", *sorted({*there, *_own_modules_of_main()} - {"__main__"})]:
        found[module] = {}
        for name, value in list(vars(sys.modules[module]).items()):
            if _is_definition(value, module) and id(value) not in addresses:
                file = _Limited(min(budget, _MOST_BYTES_OF_A_DEFINITION))
                found[module][name] = _pickle_or_reason(value, file, own, addresses)
                budget -= file.tell()
    return found


def _own_modules_of_main() -> set[str]:
    """Yield the user's modules that the notebook or script imported, or imported a name from."""
    homes = {home(value) for value in list(vars(sys.modules["__main__"]).values())}
    return {
        module.__name__ for module in homes if module and sys.modules.get(module.__name__) is module and is_own(module)
    }


def _pickle_or_reason(
    value: Any, file: "_Limited", own: _OwnModules, there: Mapping[int, tuple[str, str]]
) -> bytes | str:
    try:
        _DefinitionPickler(file, own, there).dump(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return file.getvalue()


class _Limited(io.BytesIO):
    """Refuses to become larger than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._most:
            raise ValueError(f"with the variables that it uses, it is larger than {_MOST_BYTES_OF_A_DEFINITION} bytes")
        return super().write(data)


def _is_definition(value: Any, module: str) -> bool:
    """Whether plain pickle refers to `value` by its name in the module."""
    return getattr(value, "__module__", None) == module and isinstance(getattr(value, "__name__", None), str)


def _reduce_code(code: types.CodeType) -> Any:
    """Code as Python writes it into ``.pyc`` files, with the names of files, which cloudpickle 3.1.3 and later drop."""
    try:
        return marshal.loads, (marshal.dumps(code),)
    except ValueError:  # a tool has put constants into the code that no source has
        return NotImplemented


def content(module: types.ModuleType) -> dict[str, Any]:
    """Return the variables of a module that are pickled."""
    found = {name: value for name, value in vars(module).items() if name not in _NOT_CONTENT}
    return found | ({"__path__": list(module.__path__)} if "__path__" in found else {})


def _installed_package(module: str) -> set[str]:
    top = module.partition(".")[0]
    return set() if top in sys.stdlib_module_names or top in _EVERYWHERE or top == "__main__" else {top}
