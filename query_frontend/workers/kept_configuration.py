"""Keeps the last configuration in the supervisor's folder, for a worker that starts when all others have ended.

Workers write their configuration back into a Redis that lost its data. If the only worker ends together with Redis, its
successor begins with the configuration kept here.
"""

import asyncio
import itertools
import logging
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from clipper_common.snapshot import Snapshot

logger = logging.getLogger(__name__)

_FILE: Final = "configuration"
_RECORDS: Final = ("applications", "models", "current_versions", "links")
"""The fields of a snapshot that may be large."""
_PIECE: Final = 100
"""Records that are pickled in one step. It takes a millisecond, in which the writing thread holds the GIL."""
_REST_SECONDS: Final = 1.0
_RESTS: Final = 20.0
"""The pause between two writes, as a multiple of the time of the last one."""


class KeptConfiguration:
    """Writes the configuration to the supervisor's private `folder`; `number` is that of the worker.

    All workers have the same configuration. Workers other than number 0 wait for a second, and write it only if it is
    still missing.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / _FILE
        self._unfinished = folder / f"{_FILE}.{number}"
        self._is_first = number == 0
        self._newest = Snapshot()
        self._changed = asyncio.Event()

    def load(self) -> Snapshot | None:
        """Return the configuration that any worker of this supervisor kept last."""
        try:
            with self._path.open("rb") as file:
                return _read(file)
        except FileNotFoundError:
            return None
        except Exception as error:  # unpickling a damaged file may raise anything
            logger.warning("the configuration that was kept cannot be read: %r", error)
            return None

    def keep(self, snapshot: Snapshot) -> None:
        """Let `keep_writing` write this configuration."""
        self._newest = snapshot
        self._changed.set()

    async def keep_writing(self) -> None:
        """Write each change, in a thread, with a pause after it. This never returns."""
        while True:
            await self._changed.wait()
            if not self._is_first:
                await asyncio.sleep(_REST_SECONDS)
            self._changed.clear()
            started = time.monotonic()
            try:
                await asyncio.to_thread(self._write, self._newest)
            except OSError as error:
                logger.warning("the configuration cannot be kept for the case that Redis loses it: %s", error)
            await asyncio.sleep(max(_REST_SECONDS, _RESTS * (time.monotonic() - started)))

    def _write(self, snapshot: Snapshot) -> None:
        if not self._is_first and self._has(snapshot):
            return
        with open(os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for part in _parts(snapshot):
                pickle.dump(part, file)
        self._unfinished.replace(self._path)

    def _has(self, snapshot: Snapshot) -> bool:
        with suppress(OSError, EOFError, pickle.UnpicklingError), self._path.open("rb") as file:
            head: Snapshot = pickle.load(file)
            return (head.epoch, head.revision) == (snapshot.epoch, snapshot.revision)
        return False


def _parts(snapshot: Snapshot) -> Iterator[Snapshot | tuple[str, dict[Any, Any]]]:
    """Yield the snapshot without its records, then the records in pieces, each with the name of its field."""
    empty: dict[str, Any] = {name: {} for name in (*_RECORDS, "faults")}
    yield replace(snapshot, **empty)
    for name in _RECORDS:
        records = iter(getattr(snapshot, name).items())
        while piece := dict(itertools.islice(records, _PIECE)):
            yield name, piece


def _read(file: BinaryIO) -> Snapshot:
    snapshot: Snapshot = pickle.load(file)
    found: dict[str, Any] = {name: {} for name in _RECORDS}
    with suppress(EOFError):
        while True:
            name, piece = pickle.load(file)
            found[name].update(piece)
    return replace(snapshot, **found)
