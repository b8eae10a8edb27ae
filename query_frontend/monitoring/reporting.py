"""The report of /metrics: the metrics of all workers, merged.

It is made in pieces, between which the event loop serves queries for at least as long as a piece took. So a scrape
delays no query by more than a piece, however many applications and models there are.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from time import monotonic
from typing import Any, Final

from clipper_common import jsontext
from query_frontend.monitoring.metric_kinds import CATEGORIES, LASTING, depart
from query_frontend.monitoring.metrics import Line, SystemMetrics

_PIECE_SECONDS: Final = 0.002
_MAX_SENT_AT_ONCE: Final = 64 * 1024
_JOINED: Final = 100


class Pauses:
    """Sleeps after each piece of work for as long as it took."""

    def __init__(self) -> None:
        self._since = monotonic()

    async def rest_if_due(self) -> None:
        """Sleep if the present piece took `_PIECE_SECONDS`. Called between steps of much less than a millisecond."""
        worked = monotonic() - self._since
        if worked > _PIECE_SECONDS:
            await asyncio.sleep(worked)
            self._since = monotonic()


class Report:
    """The states of all metrics, by category and name, with one state for each worker."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, list[Any]]] = {category: {} for category in CATEGORIES}

    def add(self, line: Line) -> None:
        """Add the state of a metric of a worker."""
        category, name, state = line
        self._states[category].setdefault(name, []).append(state)

    def add_departed(self, line: Line) -> None:
        """Add the state of a metric of stopped workers, if a running worker has that metric."""
        category, name, state = line
        if name in self._states[category]:
            self._states[category][name].append(state)

    async def render(self, pauses: Pauses) -> list[bytes]:
        """Return the parts of a JSON object: for each category, a list of objects with one key, the name of a metric.

        The report is empty afterwards: it is freed piece by piece, since freeing all at once would take long.
        """
        parts: list[bytes] = []
        pieces: list[bytes] = []
        async for piece in self._render(pauses):
            pieces.append(piece)
            if len(pieces) == _JOINED:
                parts.append(b"".join(pieces))
                pieces.clear()
        return [*parts, b"".join(pieces)]

    async def _render(self, pauses: Pauses) -> AsyncIterator[bytes]:
        before = b"{"
        for category, kind in CATEGORIES.items():
            yield before + jsontext.dumps(category) + b":["
            before = b""
            states = self._states[category]
            for name in list(states):
                yield before + jsontext.dumps_escaped({name: kind.render(states.pop(name))})
                before = b","
                await pauses.rest_if_due()
            before = b"],"
        yield b"]}"

    def depart(self) -> Iterator[Line]:
        """Yield the merged states of stopped workers."""
        for category in LASTING:
            for name, states in self._states[category].items():
                yield category, name, depart(category, states)


async def report_of(metrics: SystemMetrics, pauses: Pauses) -> Report:
    """Return the report of this worker."""
    report = Report()
    for line in metrics.lines():
        report.add(line)
        await pauses.rest_if_due()
    return report


def to_text(lines: Iterable[Line]) -> Iterator[bytes]:
    """Yield lines of JSON, one for each metric."""
    for line in lines:
        yield jsontext.dumps(line) + b"\n"


def from_text(text: bytes) -> Line:
    """Parse a line of JSON. Raises `JsonError` or `ValueError` if it is malformed."""
    category, name, state = jsontext.parse(text)
    return category, name, state


async def in_small_parts(parts: list[bytes]) -> AsyncIterable[bytes]:
    for part in parts:
        for begin in range(0, len(part), _MAX_SENT_AT_ONCE):
            yield part[begin : begin + _MAX_SENT_AT_ONCE]
