"""Merges the metrics of all workers of a supervisor, which report over Unix sockets in its private folder."""

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
"""The errors of asyncio for a line that is incomplete or too long."""


class WorkerMetrics:
    def __init__(self, context: WorkerContext, metrics: SystemMetrics) -> None:
        self._folder = context.folder
        self._path = context.folder / f"{context.number}{_SOCKET}"
        self._departed = context.folder / _DEPARTED
        """The totals of all workers that have ended."""
        self._metrics = metrics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Report to the other workers on request."""
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
        """Stop reporting, and add the totals of this worker to those of workers that have ended."""
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
        """Yield the totals of workers that have ended."""
        with contextlib.suppress(FileNotFoundError), self._departed.open("rb") as file:
            yield from map(from_text, file)

    def _departed_version(self) -> tuple[int, int]:
        try:
            status = self._departed.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    async def report(self, pauses: Pauses) -> Report:
        """Return the merged metrics of all workers."""
        while True:
            version = self._departed_version()
            report = await report_of(self._metrics, pauses)
            for path in self._folder.glob(f"*{_SOCKET}"):
                if path != self._path:
                    await self._add_other(report, path, pauses)
            for line in self._read_departed():
                report.add_departed(line)
                await pauses.rest_if_due()
            if self._departed_version() == version:  # a worker that ended meanwhile may have been counted twice
                return report

    @staticmethod
    async def _add_other(report: Report, path: Path, pauses: Pauses) -> None:
        """Add the whole report of another worker, or nothing if it has ended or hangs."""
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
    """Lock the totals of workers that have ended."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _ask(path: Path) -> AsyncIterator[Line]:
    """Yield the report of a worker. Raises OSError or TimeoutError if it has ended or hangs."""
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
