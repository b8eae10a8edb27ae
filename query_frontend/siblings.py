"""The metrics of the other workers of this owner: asked over Unix sockets in the owner's private folder."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from clipper_common import jsontext
from clipper_common.errors import JsonError
from query_frontend.metrics import Report, State, depart, render
from query_frontend.seat import Seat

_ANSWER_SECONDS: Final = 1.0
_SOCKET: Final = ".sock"
_DEPARTED: Final = ".json"


class Siblings:
    def __init__(self, seat: Seat, state: Callable[[], State]) -> None:
        self._folder = seat.folder
        self._path = seat.folder / f"{seat.number}{_SOCKET}"
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
            self._server.close()
            self._path.unlink(missing_ok=True)
            unfinished = self._folder / f"{os.getpid()}.part"
            unfinished.write_bytes(jsontext.dumps(depart(self._state())))
            unfinished.rename(unfinished.with_suffix(_DEPARTED))

    async def report(self) -> Report:
        """The metrics of all workers as one."""
        files = list(self._folder.iterdir())
        sockets = [path for path in files if path.suffix == _SOCKET and path != self._path]
        others = await asyncio.gather(*map(_ask, sockets))
        departed = [jsontext.parse_object(path.read_bytes()) for path in files if path.suffix == _DEPARTED]
        return render([self._state(), *(state for state in others if state is not None)], departed)


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
