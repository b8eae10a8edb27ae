"""The user's modules in a model's process: ``__main__``, and modules that came in a pickle."""

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
    """The part of a user's module that was sent with a function. It follows the function's pickle in the same file."""

    there: dict[str, Any]
    """The objects that the function uses, by name. They are identical with those in its pickle."""
    definitions: dict[str, bytes | str]
    """Other functions and classes, by name: the pickle, or the reason why it could not be sent."""


class _UsersModule(types.ModuleType):
    """A module of the user's, whose variables are the globals of its functions.

    It has the parts that were sent. Definitions that the function does not use are unpickled when they are accessed.
    """

    # Slots with mangled names, since the dictionary of a module holds the user's variables.
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
            if name in vars(self):  # another thread has unpickled it meanwhile
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
"""The user's modules, by name."""
_whole: Final[set[str]] = set()
"""The names of the modules that were sent as a whole."""
_OF_EVERY_MODULE: Final = {"__name__", "__doc__", "__package__", "__file__", "__path__"}
_program: types.ModuleType | None = None
"""The ``__main__`` that Python started, after `take_over` has replaced it; None before."""
_import: Final = builtins.__import__


def take_over() -> None:
    """Replace ``__main__`` of this process by the user's, and make the user's modules importable."""
    global _program
    if _program is None:
        _program = sys.modules["__main__"]
        main = _modules["__main__"]
        for name in ("__file__", "__spec__", "__package__", "__loader__"):  # needed by multiprocessing
            setattr(main, name, getattr(_program, name, None))
        sys.modules["__main__"] = main
        sys.meta_path.append(_Finder())


def read(file: IO[bytes]) -> Any:
    """Unpickle a value, and add the parts of modules that follow it to the user's modules."""
    unpickler = pickle.Unpickler(file)
    value = unpickler.load()
    with suppress(EOFError):  # the value may be the last in the file
        for name, sent in unpickler.load().items():
            _module(name).add(Sent(**sent))
    return value


def from_users(module: str, name: str) -> Any:
    """Return an object of a user's module that the function uses."""
    return getattr(_module(module), name)


def _module(name: str) -> _UsersModule:
    return _modules.setdefault(name, _UsersModule(name))


def variables(module: str, beginning: dict[str, Any]) -> dict[str, Any]:
    """Return the globals for the functions of a user's module: in a model's process, the variables of the module.

    `beginning` has the first variables, such as the module's name and file.
    """
    if _program is None:
        return beginning
    found = vars(_module(module))
    found.update(beginning)
    return found


def missing(module: str, sent: dict[str, Any]) -> dict[str, Any]:
    """Return the variables among `sent` that a user's module does not have yet.

    Existing variables are kept, since its functions may have changed them.
    """
    return sent if _program is None else _new(vars(_module(module)), sent)


def fill(module: types.ModuleType, content: Mapping[str, Any]) -> None:
    """Set the variables that a user's module does not have yet, and the attributes that every module has."""
    vars(module).update(_new(vars(module), content))


def _new(there: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in there or name in _OF_EVERY_MODULE}


class _Finder:
    """Makes the user's modules importable, if there are no other modules of that name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        is_package = any(each.startswith(f"{name}.") for each in _modules)
        return ModuleSpec(name, self, is_package=is_package) if is_package or name in _modules else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: the module has its content already."""


# --- modules that came in a pickle ---


def add_module(name: str) -> types.ModuleType:
    """Return a new, empty module of the user's, and make it importable.

    If Python or a package has a module of that name, only functions of the user's import the user's.
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
    """Import like ``builtins.__import__``, but the user's functions find the user's modules first."""
    if globals is not None and _are_users(globals):
        package = globals.get("__package__") or ""
        full = importlib.util.resolve_name("." * level + name, package) if level and package else name
        if full in _whole:
            return _imported(full, fromlist, level)
    return _import(name, globals, locals, fromlist or (), level)


def _are_users(variables: Mapping[str, Any]) -> bool:
    """Whether these are the variables of a user's module, not of another module with the same name."""
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


# --- values that would be pickled by reference ---


def single_dispatch(function: Callable[..., Any]) -> Any:
    """Return ``functools.singledispatch(function)``."""
    return functools.singledispatch(function)


def register_all(dispatcher: Any, implementations: Mapping[type, Callable[..., Any]]) -> None:
    """Register the implementations of a dispatcher, which is made first, since they may refer to it."""
    for kind, implementation in implementations.items():
        dispatcher.register(kind, implementation)
