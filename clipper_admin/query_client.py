"""QueryClient: the routes of the query frontend that the SDK calls."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from clipper_admin import http_client
from clipper_admin.arguments import INT32_MAX

_PREDICTION_SECONDS: Final = INT32_MAX / 1e6 + 60
"""A time limit longer than any deadline, for a frontend that has died."""


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
        return self._ask(app_name, {"input": input}, version)

    def predict_batch(self, app_name: str, inputs: Sequence[Any], version: str | None) -> list[dict[str, Any]]:
        """Ask an application for a prediction of each input."""
        if not inputs:
            return []
        answer = self._ask(app_name, {"input_batch": inputs}, version)
        answers: list[dict[str, Any]] = answer["batch_predictions"] if len(inputs) > 1 else [answer]
        return answers

    def _ask(self, app_name: str, body: dict[str, Any], version: str | None) -> dict[str, Any]:
        if version is not None:
            body["version"] = version
        path = f"/{quote(app_name, safe='')}/predict"
        address = self._get_address()
        # The frontend decides whether the application takes NaN, and says what to do if it does not.
        text = http_client.call(
            "query frontend", address, path, body, answer_seconds=_PREDICTION_SECONDS, allow_nan=True
        )
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _get(self, path: str) -> str:
        return http_client.call("query frontend", self._get_address(), path)
