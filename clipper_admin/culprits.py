"""Finds the part of a function, a class or an object that cannot be pickled."""

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from clipper_admin import bytecode, pickling
from clipper_admin.own_modules import is_own, is_own_or_main

_OF_EVERY_CLASS: Final = {"__dict__", "__weakref__", "__module__", "__doc__", "__abstractmethods__", "_abc_impl"}

_MOST_ITEMS: Final = 1000
"""The largest number of items of a collection that are tried one by one."""


def because(value: Any) -> str:
    """Return the end of an error text that names the part of `value` that cannot be pickled, if it can be found."""
    with suppress(Exception):  # inspecting an object may run any code; its failure must not hide the error
        return next((f" because of {what}" for what in _unpicklable_parts(value)), "")
    return ""


def _unpicklable_parts(value: Any, place: str = "", above: frozenset[int] = frozenset()) -> Iterator[str]:
    """Yield the innermost parts of `value` that cannot be pickled, or cannot be read back."""
    above |= {id(value)}
    for name, part in _parts(value).items():
        if id(part) not in above and not _is_picklable(part):
            kind = f"'{name}' (a {_type_name(part)}){place}"
            inner = _unpicklable_parts(part, f" in '{getattr(part, '__name__', name)}'", above)
            yield next(inner, kind)


def _is_picklable(value: Any) -> bool:
    try:
        pickling.reload(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Mapping[str, Any]:
    """Return what is pickled with a function, a module, a class or an object."""
    if isinstance(value, types.ModuleType):
        return pickling.content(value) if is_own(value) else {}
    if inspect.isfunction(value):
        return _of_function(value)
    if inspect.ismethod(value):
        return {"self": value.__self__, value.__name__: value.__func__}
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, functools.partial):
        return {"func": value.func, **{f"[{number}]": each for number, each in enumerate(value.args)}, **value.keywords}
    if isinstance(value, property | functools.cached_property | staticmethod | classmethod):
        getter = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", None)
        return {getattr(getter, "__name__", "function"): getter}
    if isinstance(value, Mapping):
        return {f"[{key!r}]": item for key, item in islice(value.items(), _MOST_ITEMS)}
    if isinstance(value, list | tuple | set | frozenset):
        return {f"[{number}]": item for number, item in enumerate(islice(value, _MOST_ITEMS))}
    return _of_object(value)


def _of_function(function: types.FunctionType) -> dict[str, Any]:
    names = bytecode.global_names(function.__code__) & function.__globals__.keys()
    variables = {name: function.__globals__[name] for name in names}
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    captured = {name: cell.cell_contents for name, cell in closure if bytecode.is_filled(cell)}
    defaults = inspect.signature(function, follow_wrapped=False).parameters.values()
    given = {each.name: each.default for each in defaults if each.default is not each.empty}
    return variables | captured | given | vars(function)


def _of_class(kind: type) -> dict[str, Any]:
    if not is_own_or_main(kind):
        return {}
    own = {name: value for name, value in vars(kind).items() if name not in _OF_EVERY_CLASS}
    return own | {base.__name__: base for base in kind.__bases__}


def _of_object(value: Any) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    found = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    return found | ({type(value).__name__: type(value)} if is_own_or_main(type(value)) else {})


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
