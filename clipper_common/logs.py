"""The log format of all programs: each record is one line, so that quoted text cannot forge records."""

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
    """Formats a record as one line, followed by indented lines of a traceback.

    Messages quote names, error texts and addresses from outside: their line ends and control characters are escaped.
    """

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
    """Log to standard error, unless logging is configured already."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
