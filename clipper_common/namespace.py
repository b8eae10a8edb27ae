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
    """A module of the user's, whose variables are the globals of its functions.

    It has what was sent along of it. What the function does not use is read when somebody asks for it.
    """

    # Slots, with names that no variable of the user's has: the dictionary of a module holds its variables.
    __slots__ = ("__definitions", "__reading")

    def __init__(self, name: str) -> None:
        super().__init__(name, "What was sent along with the model.")
        self.__definitions: dict[str, bytes | str] = {}
        self.__reading = threading.RLock()

    def add(self, sent: Sent) -> None:
        fill(self, sent.there)
        self.__definitions.update(sent.definitions)

    def __getattr__(self, name: str) -> Any:
        with self.__reading:
            if name in vars(self):  # another thread has read it meanwhile
                return vars(self)[name]
            definition = self.__definitions.get(name)
            if isinstance(definition, bytes):
                fill(self, {name: pickle.loads(definition)})
                return vars(self)[name]
        if definition is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        raise ImportError(  # pickle would replace the text of an AttributeError
            f"'{name}' of the user's module '{self.__name__}' could not be sent along with the model: {definition}"
        )


_modules: Final = {"__main__": _UsersModule("__main__")}
"""Modules of the user's, by name."""
_whole: Final[set[str]] = set()
"""Names of those that came whole."""
_OF_EVERY_MODULE: Final = {"__name__", "__doc__", "__package__", "__file__", "__path__"}
_program: types.ModuleType | None = None
"""The ``__main__`` that Python started, once another one has taken its place."""
_import: Final = builtins.__import__


def take_over() -> None:
    """Make ``__main__`` of this process the user's, and let everybody import the user's modules."""
    global _program
    if _program is None:
        _program = sys.modules["__main__"]
        main = _modules["__main__"]
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
            _module(name).add(Sent(**sent))
    return value


def from_users(module: str, name: str) -> Any:
    """Return an object of a user's module that the function uses."""
    return getattr(_module(module), name)


def _module(name: str) -> _UsersModule:
    return _modules.setdefault(name, _UsersModule(name))


def variables(module: str, beginning: dict[str, Any]) -> dict[str, Any]:
    """The globals for the functions of a user's module: in a model's process, the variables of the module.

    `beginning` is what they begin with: where the module comes from.
    """
    if _program is None:
        return beginning
    found = vars(_module(module))
    found.update(beginning)
    return found


def missing(module: str, sent: dict[str, Any]) -> dict[str, Any]:
    """Return the variables among `sent` that a user's module does not have yet.

    What it has may have been changed by its functions since it was read, and stays.
    """
    return sent if _program is None else _new(vars(_module(module)), sent)


def fill(module: types.ModuleType, content: Mapping[str, Any]) -> None:
    """Give a user's module the variables that it does not have yet, and the attributes that every module has."""
    vars(module).update(_new(vars(module), content))


def _new(there: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in there or name in _OF_EVERY_MODULE}


class _Finder:
    """Lets modules of the user's be imported of which something was sent along, if there are no others of the name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        is_package = any(each.startswith(f"{name}.") for each in _modules)
        return ModuleSpec(name, self, is_package=is_package) if is_package or name in _modules else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: it has its content."""


# --- modules that came in a pickle ---


def add_module(name: str) -> types.ModuleType:
    """A module of the user's, which is empty yet. Code that imports it later finds it.

    Where Python or a package has a module of that name, that one stays what everybody else imports: only functions of
    the user's get the user's.
    """
    if _program is None:  # in the user's own process, whose modules stay as they are
        module = types.ModuleType(name)
        sys.modules.setdefault(name, module)
        return module
    if name not in _whole:
        _whole.add(name)
        if _is_taken(name.partition(".")[0]):
            builtins.__import__ = _import_for_users
        else:
            sys.modules.setdefault(name, _module(name))
    return _module(name)


def _is_taken(top: str) -> bool:
    return top in sys.stdlib_module_names or sys.modules.get(top) not in (None, _modules.get(top))


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
        if full in _whole:
            return _imported(full, fromlist, level)
    return _import(name, globals, locals, fromlist or (), level)


def _are_users(variables: Mapping[str, Any]) -> bool:
    """Whether these are the variables of a module of the user's, and not of one that has the same name."""
    name = variables.get("__name__")
    if name not in _modules:
        return False
    if name == "__main__":
        return variables is not vars(_program)
    return variables.get("__file__") == getattr(_modules[name], "__file__", None)


def _imported(full: str, fromlist: Any, level: int) -> Any:
    """Return the result of an ``import`` statement: the module, or without names its top-level package."""
    if not fromlist:
        return _modules[full] if level else _modules[full.partition(".")[0]]
    for name in fromlist:
        if (part := f"{full}.{name}") in _whole and not hasattr(_modules[full], name):
            setattr(_modules[full], name, _modules[part])
    return _modules[full]


# --- values whose makers say only where they are to be found ---


def single_dispatch(function: Callable[..., Any]) -> Any:
    """A function as ``functools.singledispatch`` makes it."""
    return functools.singledispatch(function)


def register_all(dispatcher: Any, implementations: Mapping[type, Callable[..., Any]]) -> None:
    """Its further implementations. They may refer to it, so it is made first."""
    for kind, implementation in implementations.items():
        dispatcher.register(kind, implementation)
