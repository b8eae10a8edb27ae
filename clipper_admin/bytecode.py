"""Reads from the code of a function which code is within it, which global variables it reads, and what it imports."""

import dis
import types
from collections.abc import Iterable, Iterator
from typing import Any, Final

_GLOBAL: Final = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_MAIN: Final = "__main__"


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and that of the functions, classes and comprehensions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def global_reads(code: types.CodeType) -> Iterator[dis.Instruction]:
    """The instructions of `code`, without the code within it, that read a global or built-in variable.

    The body of a class reads a variable of its own by the same instruction, once it has assigned it.
    """
    assigned: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_NAME":
            assigned.add(instruction.argval)
        elif instruction.opname in _GLOBAL and instruction.argval not in assigned:
            yield instruction


def global_names(code: types.CodeType) -> set[str]:
    """The names of the global variables that `code`, and the code within it, may read.

    Code that names ``__main__`` may read the variables of the notebook or script as attributes of that module.
    """
    inner = list(codes(code))
    names = {instruction.argval for each in inner for instruction in global_reads(each)}
    if any(_MAIN in each.co_names or _MAIN in each.co_consts for each in inner):
        names.update(name for each in inner for name in each.co_names)
    return names


def line_of_type_test(code: types.CodeType, variable: str, kind: str) -> int:
    """The line of `code`, or of the code within it, with ``isinstance(variable, kind)``; 0 if there is none."""
    for each in codes(code):
        loads = [instruction for instruction in dis.get_instructions(each) if instruction.opname.startswith("LOAD_")]
        for function, first, second in zip(loads, loads[1:], loads[2:], strict=False):
            if (function.argval, first.argval, second.argval) == ("isinstance", variable, kind):
                return line_of(function) or 0
    return 0


def line_of(instruction: dis.Instruction) -> int | None:
    """The line of the source that an instruction belongs to."""
    return instruction.positions.lineno if instruction.positions else None


def is_filled(cell: types.CellType) -> bool:
    """Whether the variable that a function has captured has a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def imported_modules(code: types.CodeType, package: str) -> Iterator[str]:
    """The full names of the modules that `code`, and the code within it, may import. It belongs to `package`."""
    for each in codes(code):
        constants: list[Any] = [0, None]
        for instruction in dis.get_instructions(each):
            if instruction.opname == "IMPORT_NAME":
                level, names = constants[-2:]
                yield from _full_names(instruction.argval, level or 0, names or (), package)
            elif "CONST" in instruction.opname or instruction.opname == "LOAD_SMALL_INT":
                constants.append(instruction.argval)


def _full_names(name: str, level: int, names: Iterable[str], package: str) -> Iterator[str]:
    if level:
        parent = package.rsplit(".", level - 1)[0] if level > 1 else package
        name = f"{parent}.{name}".strip(".")
    yield name
    for each in names:  # perhaps modules of a package
        yield f"{name}.{each}"
