"""The metrics of the other workers of this supervisor: asked over Unix sockets in the supervisor's private folder."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from clipper_common.errors import JsonError
from query_frontend.monitoring.metrics import Line, SystemMetrics
from query_frontend.monitoring.reporting import Pauses, Report, from_text, report_of, to_text
from query_frontend.workers.context import WorkerContext

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 1.0
_PART_BYTES: Final = 1 << 16
_END: Final = b"end"
_SOCKET: Final = ".sock"
_DEPARTED: Final = "departed.jsonl"
_NO_LINE: Final = (JsonError, ValueError)
"""The errors that are raised for a line that is broken off, or too long."""


class WorkerMetrics:
    def __init__(self, context: WorkerContext, metrics: SystemMetrics) -> None:
        self._folder = context.folder
        self._path = context.folder / f"{context.number}{_SOCKET}"
        self._departed = context.folder / _DEPARTED
        """The totals of all workers that have ended."""
        self._metrics = metrics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others."""
        self._server = await asyncio.start_unix_server(self._answer, self._path)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pauses = Pauses()
        with contextlib.suppress(OSError):
            for line in to_text(self._metrics.lines()):
                writer.write(line)
                await writer.drain()
                await pauses.rest_if_due()
            writer.write(_END + b"\n")
        writer.close()

    def stop(self) -> None:
        """Be asked no more; what was counted here stays counted."""
        if self._server is not None:
            try:
                self._keep_what_was_counted()
            except (OSError, *_NO_LINE) as error:
                logger.warning("what this worker counted is lost to /metrics: %s", error)
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _keep_what_was_counted(self) -> None:
        with _locked(self._folder):
            report = Report()
            for line in (*self._read_departed(), *self._metrics.lines()):
                report.add(line)
            unfinished = self._departed.with_suffix(".part")
            with unfinished.open("wb") as file:
                file.writelines(to_text(report.depart()))
            unfinished.rename(self._departed)

    def _read_departed(self) -> Iterator[Line]:
        """Nothing when none has left."""
        with contextlib.suppress(FileNotFoundError), self._departed.open("rb") as file:
            yield from map(from_text, file)

    def _departed_version(self) -> tuple[int, int]:
        try:
            status = self._departed.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    async def report(self, pauses: Pauses) -> Report:
        """The metrics of all workers as one."""
        while True:
            version = self._departed_version()
            report = await report_of(self._metrics, pauses)
            for path in self._folder.glob(f"*{_SOCKET}"):
                if path != self._path:
                    await self._add_other(report, path, pauses)
            for line in self._read_departed():
                report.add_departed(line)
                await pauses.rest_if_due()
            if self._departed_version() == version:  # who left meanwhile may have been counted twice
                return report

    @staticmethod
    async def _add_other(report: Report, path: Path, pauses: Pauses) -> None:
        """Count what another worker says: all of it, or nothing if it is gone or hangs."""
        lines = []
        try:
            async for line in _ask(path):
                lines.append(line)
                await pauses.rest_if_due()
        except (OSError, TimeoutError, *_NO_LINE):
            return
        lines.reverse()
        while lines:
            report.add(lines.pop())
            await pauses.rest_if_due()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _ask(path: Path) -> AsyncIterator[Line]:
    """Raises OSError or TimeoutError when that worker is gone, or hangs."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        rest = b""
        while True:
            async with asyncio.timeout(_ANSWER_SECONDS):
                part = await reader.read(_PART_BYTES)
            if not part:
                raise ConnectionResetError("it broke off")
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line == _END:
                    return
                yield from_text(line)
    finally:
        writer.close()
