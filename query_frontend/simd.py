"""simdjson, where there is a wheel of it for this platform: it makes no Python object of each number."""

from typing import Any, Final

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""simdjson passes over it, and JSON has none."""


def simdjson_parser() -> Any:
    """A parser that makes arrays of numbers without an object of each; None where there is no such library."""
    try:
        import simdjson
    except ImportError:  # no wheel for this platform
        return None
    return simdjson.Parser()
