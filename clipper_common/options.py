"""The options of a program: a frozen dataclass, each field of which is an option of the same name."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, Final, Self

from clipper_common import __version__

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


def option(
    default: Any,
    help_text: str,
    read: Callable[[Any], Any] | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """Return a field of `Options`. It is read by `read`, or else as what its default is: a text, number or boolean.

    A default that is `MISSING` makes it required.
    """
    read = read or (boolean if isinstance(default, bool) else str if default in (None, MISSING) else type(default))
    return field(default=default, metadata={"help": help_text, "read": read, "least": least, "most": most})


def boolean(text: str) -> bool:
    """Read an option that is on or off. Of whole numbers, all but 0 are on."""
    word = text.strip().lower()
    if word in _TRUE or (word.isdecimal() and int(word)):
        return True
    if word in _FALSE or word.isdecimal():
        return False
    raise ArgumentTypeError(f"{text!r} is neither of {', '.join(_TRUE)} nor of {', '.join(_FALSE)}")


class Options:
    """Base of the options of a program. A subclass is a frozen dataclass of fields made by `option`.

    Its package is the name of the program, and its docstring the description.
    """

    @classmethod
    def parse(cls, arguments: Sequence[str] | None = None) -> Self:
        """Read ``--port=1`` and the like, by default from the command line. Exits with code 2 if something is wrong."""
        program = cls.__module__.rpartition(".")[0]
        parser = ArgumentParser(program, description=cls.__doc__, allow_abbrev=False)
        parser.add_argument("--version", action="version", version=__version__)
        for each in fields(cls):  # type: ignore[arg-type]
            is_required = each.default is MISSING
            shown = "required" if is_required else f"default: {_shown(each.default)}"
            parser.add_argument(
                f"--{each.name}",
                required=is_required,
                default=None if is_required else each.default,
                type=each.metadata["read"],
                help=f"{each.metadata['help']} ({shown})",
            )
        values = vars(parser.parse_args(arguments))
        for each in fields(cls):  # type: ignore[arg-type]
            if wrong := out_of_range(each, values[each.name]):
                parser.error(f"argument --{each.name}: {wrong}")
        return cls(**values)


def out_of_range(each: Field[Any], value: Any) -> str:
    """Return what is wrong with the value of a field of `option`, given its limits, or an empty text."""
    least, most = each.metadata["least"], each.metadata["most"]
    if least is not None and value < least:
        return f"{value} is less than {least}"
    if most is not None and value > most:
        return f"{value} is more than {most}"
    return ""


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default) if default or default == 0 else "none"
