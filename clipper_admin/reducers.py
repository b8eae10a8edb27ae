"""Pickles by value what Python pickles as the name of a variable in a module, for modules that do not travel.

Also values of the standard library that cannot be pickled only for what they keep besides their meaning.
"""

import copyreg
import enum
import functools
import pickle
import types
import typing
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

from clipper_admin import bytecode
from clipper_common import namespace

_LRU_CACHE: Final = type(functools.lru_cache(len))
_SET_BY_LRU_CACHE: Final = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
_NEW: Final = copyreg.__newobj__  # type: ignore[attr-defined]
_HEAP_TYPE: Final = 1 << 9
"""The flag of classes that a ``class`` statement made."""
_PARAMETERS: Final = tuple(getattr(typing, name) for name in ("ParamSpec", "TypeVarTuple") if hasattr(typing, name))


def by_value(obj: Any, is_elsewhere: Callable[[str], bool], known: Container[type]) -> Any:
    """Return a reduction of `obj`, like ``__reduce__``; NotImplemented if the pickler has one.

    A string is the name of `obj` in its module, which is not there: see `of_named`. `is_elsewhere` says whether a
    module can be imported where the pickle is read. `known` are the types that others have said how to pickle.
    """
    if type(obj) is functools.cached_property:  # has a lock in Python 3.11
        return functools.cached_property, (obj.func,), _without(vars(obj), {"func", "lock"})
    if type(obj) is functools.singledispatchmethod:  # has weak references in Python 3.12 and later
        registered = dict(obj.dispatcher.registry)
        del registered[object]
        return functools.singledispatchmethod, (obj.func,), registered, None, None, namespace.register_all
    if type(obj).__module__ == "numpy" and type(obj).__name__ == "vectorize":  # keeps what it made of its function
        return _NEW, (type(obj),), vars(obj) | {"_ufunc": {} if isinstance(obj._ufunc, dict) else None}
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or isinstance(obj, type) or is_elsewhere(module):
        return NotImplemented
    if hasattr(obj, "dispatch") and getattr(obj, "__globals__", None) is functools.singledispatch.__globals__:
        registered = dict(obj.registry)
        return namespace.single_dispatch, (registered.pop(object),), registered, None, None, namespace.register_all
    if type(obj) is _LRU_CACHE:
        return _Decorator(obj.cache_parameters()), (obj.__wrapped__,), _without(vars(obj), _SET_BY_LRU_CACHE) or None
    if type(obj) is typing.NewType:
        return typing.NewType, (obj.__name__, obj.__supertype__), {"__module__": module}
    if type(obj) in _PARAMETERS:
        return type(obj), (obj.__name__,)
    if type(obj) in known or not _says_how(type(obj)):
        return NotImplemented
    return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class _Decorator:
    """The decorator that ``lru_cache(maxsize, typed)`` returns."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.lru_cache, (self._parameters["maxsize"], self._parameters["typed"])

    def __call__(self, function: Any) -> Any:
        return functools.lru_cache(**self._parameters)(function)


def _says_how(kind: type) -> bool:
    return any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))


def of_named(obj: Any, name: str) -> Any:
    """Return a reduction of `obj`, whose own says that it is the variable `name` of a module that does not travel.

    Raises PicklingError if it is of a type that only its own code can make.
    """
    module = obj.__module__
    if isinstance(obj, enum.Enum):
        return type(obj), (obj.value,)
    if type(obj).__module__ == module and type(obj).__flags__ & _HEAP_TYPE:  # a class of the user's
        return _NEW, (type(obj),), getattr(obj, "__dict__", None) or None
    raise pickle.PicklingError(
        f"a {type(obj).__module__}.{type(obj).__qualname__} is pickled as the name '{name}' in the module '{module}', "
        "which does not exist where the model is served"
    )


def of_class(kind: type, reduced: Any, is_elsewhere: Callable[[str], bool]) -> Any:
    """Return the state that cloudpickle has for a class that it pickles by value, with what it leaves out.

    That is the name of a class within a class, by which plain pickle refers to it; and that ``__init_subclass__`` of
    its bases has been called already. What it did to the bases is in their state.
    """
    match reduced:
        case (_, _, (dict() as attributes, *_), *_):
            attributes.setdefault("__qualname__", kind.__qualname__)
        case _:
            return reduced
    make, arguments, *rest = reduced
    hooked = [each for each in kind.__mro__[1:] if "__init_subclass__" in vars(each)]
    hooked = [each for each in hooked if each is not object and not is_elsewhere(each.__module__)]
    return (_make_unnoticed, (hooked, make, *arguments), *rest) if hooked else reduced


def _make_unnoticed(bases: Any, make: Any, *arguments: Any) -> Any:
    """Make a class while `bases` have no ``__init_subclass__``."""
    hooks = [(base, vars(base)["__init_subclass__"]) for base in bases if "__init_subclass__" in vars(base)]
    for base, _ in hooks:
        type.__delattr__(base, "__init_subclass__")
    try:
        return make(*arguments)
    finally:
        for base, hook in hooks:
            type.__setattr__(base, "__init_subclass__", hook)


class Variables:
    """The global variables of a user's module, pickled without their values: each function brings those it reads."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.beginning: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what looks the module up where the pickle is read."""
        return _variables, (self.module, self.beginning)


class _Sent:
    """The values of global variables, of which those that the module has already are not read."""

    def __init__(self, module: str, values: dict[str, Any]) -> None:
        self._parts = module, values

    def __reduce__(self) -> tuple[Any, ...]:
        return _missing, self._parts


def of_function(
    function: types.FunctionType, reduced: Any, variables_of: Callable[[types.FunctionType], Variables | None]
) -> Any:
    """Return the state that cloudpickle has for a function that it pickles by value, with what it leaves out.

    That is the global variables that it does not see the code read; and that the variables are those of a module, so
    that what a function assigns is what others find in the module.
    """
    match reduced:
        case (make, (code, dict() as beginning, *rest), (state, {"__globals__": dict() as sent} as slots), *others):
            pass
        case _:
            return reduced
    names = bytecode.global_names(function.__code__) & function.__globals__.keys()
    sent = {name: function.__globals__[name] for name in names} | sent
    variables = variables_of(function)
    if variables is None:
        return make, (code, beginning, *rest), (state, {**slots, "__globals__": sent}), *others
    variables.beginning = beginning
    slots = {**slots, "__globals__": _Sent(variables.module, sent)}
    return make, (code, variables, *rest), (state, slots), *others


def _variables(module: str, beginning: dict[str, Any]) -> dict[str, Any]:
    try:
        from clipper_common.namespace import variables
    except ImportError:  # in a container that is older than this function
        return beginning
    return variables(module, beginning)


def _missing(module: str, sent: dict[str, Any]) -> dict[str, Any]:
    try:
        from clipper_common.namespace import missing
    except ImportError:
        return sent
    return missing(module, sent)


# These functions are pickled by value: released containers, which have no such functions, can read what was pickled.
for _travelling in (_make_unnoticed, _variables, _missing):
    _travelling.__module__ = "__main__"


def _without(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
