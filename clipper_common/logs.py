"""The log of a program: a record is one line, whatever it quotes, so that nobody outside can forge one."""

import logging
from types import TracebackType
from typing import Final

from clipper_common.constants import LOG_DATE_FORMAT, LOG_FORMAT
from clipper_common.datatypes import printable

_MAX_MESSAGE_CHARACTERS: Final = 4000
_MAX_TRACEBACK_LINE_CHARACTERS: Final = 2000
_INDENT: Final = "  "

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """Names, texts of errors and addresses come from outside. What they hold of line ends and escape sequences is
    escaped; a traceback keeps its lines, indented, so that none of them looks like a record."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT, LOG_DATE_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message, _MAX_MESSAGE_CHARACTERS)
        return super().formatMessage(record)

    def formatException(self, ei: ExceptionInfo) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line, _MAX_TRACEBACK_LINE_CHARACTERS) for line in text.split("\n"))


def configure() -> None:
    """Log to standard error, unless the program has set up its logging already."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
