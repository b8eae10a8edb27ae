"""simdjson, if it has a wheel for this platform. It parses numbers without a Python object for each."""

from typing import Any, Final

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark, which simdjson skips although JSON does not allow it."""


def simdjson_parser() -> Any:
    """Return a parser that makes arrays of numbers without an object for each; None if simdjson is not installed."""
    try:
        import simdjson
    except ImportError:  # no wheel for this platform
        return None
    return simdjson.Parser()
