"""The user's modules in a model's process: ``__main__``, and those that came in a pickle."""

import builtins
import functools
import importlib.util
import pickle
import sys
import threading
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from typing import IO, Any, Final, NamedTuple


class Sent(NamedTuple):
    """The part of a user's module that was sent along. It follows the function in the same file, as a dictionary."""

    there: dict[str, Any]
    """Objects that the function uses, by name: the same objects as in its pickle."""
    definitions: dict[str, bytes | str]
    """Other functions and classes by name: each its pickle, or why it could not be sent along."""


class _UsersModule(types.ModuleType):
    """Has what was sent along of it. What the function does not use is read when somebody asks for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "What was sent along with the model.")
        self._definitions: dict[str, bytes | str] = {}
        self._reading = threading.RLock()

    def add(self, sent: Sent) -> None:
        vars(self).update(sent.there)
        self._definitions.update(sent.definitions)

    def __getattr__(self, name: str) -> Any:
        with self._reading:
            if name in vars(self):  # another thread has read it meanwhile
                return vars(self)[name]
            definition = vars(self)["_definitions"].get(name)
            if isinstance(definition, bytes):
                vars(self)[name] = pickle.loads(definition)
                return vars(self)[name]
        if definition is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        raise ImportError(  # pickle would replace the text of an AttributeError
            f"'{name}' of the user's module '{self.__name__}' could not be sent along with the model: {definition}"
        )


_partial: Final = {"__main__": _UsersModule("__main__")}
"""Modules of which functions and classes were sent along, by name."""
_modules: Final[dict[str, types.ModuleType]] = {}
"""Modules that came whole in pickles, by name."""
_program: types.ModuleType | None = None
"""The ``__main__`` that Python started, once another one has taken its place."""
_import: Final = builtins.__import__


def take_over() -> None:
    """Make ``__main__`` of this process the user's, and let everybody import the user's modules."""
    global _program
    if _program is None:
        _program = sys.modules["__main__"]
        main = _partial["__main__"]
        for name in ("__file__", "__spec__", "__package__", "__loader__"):  # multiprocessing starts its processes by it
            setattr(main, name, getattr(_program, name, None))
        sys.modules["__main__"] = main
        sys.meta_path.append(_Finder())


def read(file: IO[bytes]) -> Any:
    """Read a pickled value, and note the definitions that follow it, which are looked up by name."""
    unpickler = pickle.Unpickler(file)
    value = unpickler.load()
    with suppress(EOFError):  # there need not be anything behind it
        for name, sent in unpickler.load().items():
            _partial.setdefault(name, _UsersModule(name)).add(Sent(**sent))
    return value


def from_users(module: str, name: str) -> Any:
    """Return an object of a user's module that the function uses."""
    return getattr(_partial[module], name)


class _Finder:
    """Lets modules of the user's be imported of which something was sent along, if there are no others of the name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        is_package = any(each.startswith(f"{name}.") for each in _partial)
        return ModuleSpec(name, self, is_package=is_package) if is_package or name in _partial else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _partial.setdefault(spec.name, _UsersModule(spec.name))

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: it has its content."""


# --- modules that came in a pickle ---


def add_module(name: str) -> types.ModuleType:
    """A module of the user's, which is empty yet. Code that imports it later finds it.

    Where Python or a package has a module of that name, that one stays what everybody else imports: only functions of
    the user's get the user's.
    """
    module = types.ModuleType(name)
    if _program is None or not _is_taken(name.partition(".")[0]):
        sys.modules.setdefault(name, module)
    else:
        builtins.__import__ = _import_for_users
    _modules[name] = module
    return module


def _is_taken(top: str) -> bool:
    return top in sys.stdlib_module_names or sys.modules.get(top) is not _modules.get(top)


def _import_for_users(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Any = (),
    level: int = 0,
) -> Any:
    """As the ``import`` statement, for which the user's functions find the user's modules first."""
    if globals is not None and _are_users(globals):
        package = globals.get("__package__") or ""
        full = importlib.util.resolve_name("." * level + name, package) if level and package else name
        if full in _modules:
            return _imported(full, fromlist, level)
    return _import(name, globals, locals, fromlist or (), level)


def _are_users(variables: Mapping[str, Any]) -> bool:
    """Whether these are the variables of a module of the user's, and not of one that has the same name."""
    name = variables.get("__name__")
    if name == "__main__":
        return _program is None or variables is not vars(_program)
    module = _modules.get(str(name))
    return module is not None and variables.get("__file__") == getattr(module, "__file__", None)


def _imported(full: str, fromlist: Any, level: int) -> Any:
    """Return the result of an ``import`` statement: the module, or without names its top-level package."""
    if not fromlist:
        return _modules[full] if level else _modules[full.partition(".")[0]]
    for name in fromlist:
        part = _modules.get(f"{full}.{name}")
        if part is not None and not hasattr(_modules[full], name):
            setattr(_modules[full], name, part)
    return _modules[full]


# --- values whose makers say only where they are to be found ---


def single_dispatch(function: Callable[..., Any]) -> Any:
    """A function as ``functools.singledispatch`` makes it."""
    return functools.singledispatch(function)


def register_all(dispatcher: Any, implementations: Mapping[type, Callable[..., Any]]) -> None:
    """Its further implementations. They may refer to it, so it is made first."""
    for kind, implementation in implementations.items():
        dispatcher.register(kind, implementation)
