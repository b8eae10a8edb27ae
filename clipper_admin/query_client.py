"""QueryClient: the routes of the query frontend that the SDK calls."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from clipper_admin import http_client

_PREDICTION_SECONDS: Final = 300.0
"""An answer comes by the application's deadline; this bounds the wait for a frontend that is no more."""


class QueryClient:
    """Speaks to the query frontend at the address that `get_address` returns."""

    def __init__(self, get_address: Callable[[], str]) -> None:
        self._get_address = get_address

    def check_ready(self) -> None:
        """Raise ClipperException unless the frontend serves."""
        self._get("/readyz")

    def metrics(self) -> dict[str, Any]:
        """All metrics of the frontend."""
        value: dict[str, Any] = json.loads(self._get("/metrics"))
        return value

    def predict(self, app_name: str, input: Any, version: str | None) -> dict[str, Any]:
        """Ask an application for one prediction."""
        if isinstance(input, (bytes, bytearray, memoryview)):
            input = base64.b64encode(input).decode()
        body = {"input": input} if version is None else {"input": input, "version": version}
        path = f"/{quote(app_name, safe='')}/predict"
        text = http_client.call("query frontend", self._get_address(), path, body, answer_seconds=_PREDICTION_SECONDS)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _get(self, path: str) -> str:
        return http_client.call("query frontend", self._get_address(), path)
