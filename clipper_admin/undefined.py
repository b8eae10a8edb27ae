"""Finds undefined names that a function uses, and modules that it imports and that are not installed.

Only the code is read; nothing is called. A name that every call of the function reaches is *certain* to fail; any other
may be in a branch that is never taken.
"""

import builtins
import dis
import functools
import importlib.util
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from clipper_admin import bytecode, own_modules
from clipper_admin.bytecode import codes

_OF_NOTEBOOKS: Final = {"display", "get_ipython"}
"""Names that IPython adds to the built-in ones."""
_DYNAMIC: Final = {"eval", "exec", "globals", "setattr"}
"""Functions that define names in a way that the code does not show."""
_COMPREHENSIONS: Final = {"<listcomp>", "<setcomp>", "<dictcomp>"}


@dataclass(frozen=True)
class Missing:
    """A name that is not defined, or a module that is missing."""

    name: str
    file: str
    line: int
    is_module: bool
    is_certain: bool
    """Whether every call fails."""


def find(func: Any) -> list[Missing]:
    """Return what is missing for a function, and for functions of the user that it names; each name once."""
    while isinstance(func, functools.partial):
        func = func.func
    called = _function_of(func)
    kind = type(getattr(func, "__self__", func))
    functions = list(_functions(inspect.unwrap(called) if called else None, kind, set()))
    if any(_DYNAMIC & bytecode.global_names(function.__code__) for function in functions):
        return []
    stored = {name for function in functions for code in codes(function.__code__) for name in _stored(code)}
    found: dict[tuple[str, bool], Missing] = {}
    for function in functions:
        # A decorator may handle what the function that it wraps raises, or define what that one lacks.
        certain = set(_certain(function.__code__)) if function is called else set()
        for code in codes(function.__code__):
            for name, line, is_module in _used(code):
                if name in stored or (_has_module(name) if is_module else _is_defined(name, function)):
                    continue
                is_certain = (name, line) in certain
                missing = Missing(name, code.co_filename, line, is_module, is_certain)
                if (name, is_module) not in found or is_certain:
                    found[name, is_module] = missing
    return list(found.values())


def _function_of(func: Any) -> types.FunctionType | None:
    if not inspect.isfunction(inspect.unwrap(func)) and not inspect.ismethod(func):
        func = getattr(type(func), "__call__", None)  # noqa: B004  (the method, not whether there is one)
    func = getattr(func, "__func__", func)
    return func if isinstance(func, types.FunctionType) else None


def _functions(function: types.FunctionType | None, kind: type, seen: set[int]) -> Iterator[types.FunctionType]:
    """The function, and those of the user's that its code names, directly and in turn.

    Among these are methods of the class `kind`, of which it is a method itself, and of the objects that it uses.
    """
    if function is None or id(function) in seen:
        return
    seen.add(id(function))
    yield function
    names = {name for code in codes(function.__code__) for name in code.co_names}
    used = [function.__globals__[name] for name in names & function.__globals__.keys()]
    used += [cell.cell_contents for cell in function.__closure__ or () if bytecode.is_filled(cell)]
    for value in used:
        yield from _functions(_own_function(value), object, seen)
    for each in (kind, *map(type, used), *(value for value in used if isinstance(value, type))):
        if own_modules.is_own_or_main(each):
            for name in names:
                method = inspect.getattr_static(each, name, None)
                method = getattr(method, "__func__", getattr(method, "fget", method))
                yield from _functions(_own_function(method), each, seen)


def _own_function(value: Any) -> types.FunctionType | None:
    found = inspect.unwrap(value) if callable(value) else None
    return found if isinstance(found, types.FunctionType) and own_modules.is_own_or_main(found) else None


def _used(code: types.CodeType) -> Iterator[tuple[str, int, bool]]:
    """Global names that code reads, and top levels of modules that it imports: name, line, whether it is a module."""
    guarded = _catches(code)
    reads = set(bytecode.global_reads(code))
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = bytecode.line_of(instruction) or line
        if instruction in reads:
            yield instruction.argval, line, False
        elif instruction.opname == "IMPORT_NAME" and not guarded:
            top = instruction.argval.partition(".")[0]
            if top:  # an import from the function's own package has none
                yield top, line, True


def _stored(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield instruction.argval


def _is_defined(name: str, function: types.FunctionType) -> bool:
    return name in function.__globals__ or (hasattr(builtins, name) and name not in _OF_NOTEBOOKS)


def _has_module(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):  # a module without a specification was imported already
        return True


# --- what every call reaches ---


def _certain(code: types.CodeType) -> Iterator[tuple[str, int]]:
    """Names and lines of what is used before the first branch, and in comprehensions over the inputs there."""
    if _catches(code):
        return
    line = code.co_firstlineno
    history: list[dis.Instruction] = []
    has_called = False  # a function that is called may install a module, or change the path of modules
    for instruction in dis.get_instructions(code):
        line = bytecode.line_of(instruction) or line
        has_called = has_called or "CALL" in instruction.opname
        if instruction.opname == "LOAD_GLOBAL" or (instruction.opname == "IMPORT_NAME" and not has_called):
            yield instruction.argval.partition(".")[0], line
        if instruction.opname == "FOR_ITER" and not _iterates_inputs(code, history):
            return
        if "JUMP" in instruction.opname or instruction.opname.startswith(("RETURN", "RAISE", "YIELD", "SEND")):
            return
        history.append(instruction)
        if instruction.opname == "GET_ITER" and (nested := _comprehension(code, history)):
            yield from _certain(nested)


def _comprehension(code: types.CodeType, history: list[dis.Instruction]) -> types.CodeType | None:
    """The code of a comprehension over the inputs, where it is a function of its own (before Python 3.12)."""
    if not _iterates_inputs(code, history):
        return None
    constants = [each.argval for each in history[-4:] if each.opname == "LOAD_CONST"]
    return next((each for each in constants if getattr(each, "co_name", "") in _COMPREHENSIONS), None)


def _iterates_inputs(code: types.CodeType, history: list[dis.Instruction]) -> bool:
    """Whether the iterator on the stack is over the last parameter, which is never empty."""
    parameters = code.co_varnames[: code.co_argcount]
    if code.co_name in _COMPREHENSIONS:
        return True
    index = next((i for i in reversed(range(len(history))) if history[i].opname == "GET_ITER"), 0)
    loaded = history[index - 1] if index else None
    return loaded is not None and loaded.opname.startswith("LOAD_FAST") and parameters[-1:] == (loaded.argval,)


def _catches(code: types.CodeType) -> bool:
    """Whether code handles exceptions: what fails in it may be meant to."""
    return any(instruction.opname == "PUSH_EXC_INFO" for instruction in dis.get_instructions(code))
