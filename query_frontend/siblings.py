"""The metrics of the other workers of this owner: asked over Unix sockets in the owner's private folder."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from clipper_common import jsontext
from clipper_common.errors import JsonError
from query_frontend.metrics import Report, State, depart, render
from query_frontend.seat import Seat

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 1.0
_SOCKET: Final = ".sock"
_DEPARTED: Final = "departed.json"


class Siblings:
    def __init__(self, seat: Seat, state: Callable[[], State]) -> None:
        self._folder = seat.folder
        self._path = seat.folder / f"{seat.number}{_SOCKET}"
        self._departed = seat.folder / _DEPARTED
        """What all that have left had counted."""
        self._state = state
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others."""
        self._server = await asyncio.start_unix_server(self._answer, self._path)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(jsontext.dumps(self._state()))
        writer.close()

    def stop(self) -> None:
        """Be asked no more; what was counted here stays counted."""
        if self._server is not None:
            try:
                self._keep_what_was_counted()
            except (OSError, JsonError) as error:
                logger.warning("what this worker counted is lost to /metrics: %s", error)
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _keep_what_was_counted(self) -> None:
        with _locked(self._folder):
            departed = self._read_departed()
            before = [jsontext.parse_object(departed)] if departed else []
            unfinished = self._departed.with_suffix(".part")
            unfinished.write_bytes(jsontext.dumps(depart([*before, self._state()])))
            unfinished.rename(self._departed)

    def _read_departed(self) -> bytes:
        """Empty when none has left."""
        try:
            return self._departed.read_bytes()
        except FileNotFoundError:
            return b""

    async def report(self) -> Report:
        """The metrics of all workers as one."""
        departed = None
        while (found := self._read_departed()) != departed:  # who left meanwhile may have been counted twice
            departed = found
            sockets = [path for path in self._folder.glob(f"*{_SOCKET}") if path != self._path]
            others = await asyncio.gather(*map(_ask, sockets))
        states = [self._state(), *(state for state in others if state is not None)]
        return render(states, [jsontext.parse_object(departed)] if departed else [])


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _ask(path: Path) -> State | None:
    """None when that worker is gone, or hangs."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            answer = await reader.read()
            writer.close()
        return jsontext.parse_object(answer)
    except (OSError, TimeoutError, JsonError):
        return None
