"""Clients that send queries without a pause, and record the answers."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from clipper_admin import ClipperConnection


class Load:
    """Clients that ask without a pause, each query another one."""

    def __init__(self, conn: ClipperConnection, app: str) -> None:
        self.outputs: Counter[str] = Counter()
        self.mishaps: list[Any] = []
        self._conn = conn
        self._app = app
        self._stop = threading.Event()

    def wait_for(self, output: str, number: int = 20) -> None:
        """Wait until `number` more answers are `output`."""
        enough = self.outputs[output] + number
        give_up = threading.Event()
        for _ in range(600):
            if self.outputs[output] >= enough or self.mishaps:
                return
            give_up.wait(0.05)
        pytest.fail(f"no {output!r} among {self.outputs}")

    def _ask(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                answer = self._conn.predict(self._app, [float(client), float(number)])
            except Exception as error:
                self.mishaps.append(error)
                return
            if answer["default"]:
                self.mishaps.append(answer)
            self.outputs[answer["output"]] += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(6)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)
