"""Sends an HTTP request to a frontend, and returns the text of the answer or raises a ClipperException."""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import urllib3

from clipper_common.errors import ClipperException

CALL_SECONDS: Final = 10.0


class ErrorStatus(ClipperException):
    """The answer has an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"Received error status code: {status} and message: {text}")
        self.status = status


def call(
    program: str,
    address: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    answer_seconds: float = CALL_SECONDS,
    allow_nan: bool = False,
) -> str:
    """GET `path` of the `program` at `address`, or POST `body` as JSON to it; the text of the answer.

    `address` is ``host:port``, with a path behind it when the program stands behind a proxy.
    """
    data = None if body is None else encode(body, allow_nan)
    try:
        status, text = _exchange(address, path, data, answer_seconds)
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise _unreachable(program, address, error) from error
    if status >= 400:
        raise ErrorStatus(status, text)
    return text


def encode(body: Mapping[str, Any], allow_nan: bool = False) -> bytes:
    """Return `body`, which may have numpy values, as JSON. With `allow_nan`, NaN and infinities are written as Python
    does."""
    try:
        return json.dumps(body, default=_as_plain_value, allow_nan=allow_nan).encode()
    except (TypeError, ValueError) as error:
        raise ClipperException(f"This cannot be sent as JSON: {error}") from error


def _as_plain_value(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, without importing numpy
        plain = value.tolist()
        return float(value) if type(plain) is type(value) else plain  # `item()` of a longdouble returns a longdouble
    raise TypeError(f"a value of type {type(value).__name__}")


def _exchange(address: str, path: str, data: bytes | None, answer_seconds: float) -> tuple[int, str]:
    response = urllib3.request(
        "GET" if data is None else "POST",
        f"http://{address}{path}",
        body=data,
        headers={"Content-Type": "application/json", "Connection": "close"},
        redirect=False,
        retries=False,
        timeout=urllib3.Timeout(connect=CALL_SECONDS, read=answer_seconds),
    )
    return response.status, response.data.decode(errors="replace")


def _unreachable(program: str, address: str, error: Exception) -> ClipperException:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error  # the system's message is plainer
    return ClipperException(
        f"The {program} at {address} could not be reached: {cause or type(cause).__name__}. "
        "Check that the cluster runs and that this address can be reached from here; "
        "get_clipper_logs() fetches what its programs wrote."
    )
