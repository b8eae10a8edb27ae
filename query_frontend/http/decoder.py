"""Decodes the bodies of requests. No body keeps the event loop for long, however large it is and whatever it holds.

A small body is parsed at once. A large one of a plain shape is decoded in steps, between which the loop does its other
work. Any other large one goes to a process beside this one: what it costs depends on what it holds, and no parser that
knows all of JSON lets go of Python's lock.
"""

import asyncio
import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from clipper_common import long_work
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from clipper_common.fair_queue import FairQueue
from query_frontend.http import decoder_process, large_bodies, schemas
from query_frontend.http.schemas import Asked, UpdateRequest

logger = logging.getLogger(__name__)

SMALL_BODY_BYTES: Final = 1 << 16
"""The general parser takes 14 ms for the worst body of this size, on a machine of 2026."""
_PATIENCE_SECONDS: Final = 20.0
"""Seconds that the process may take for one body. The worst one of 32 MiB takes half of it."""
_SECONDS_PER_BYTE: Final = 10.0 / (32 << 20)
"""The time that the worst body takes in the process: after that wait it comes before any small one."""
_IDLE_SECONDS: Final = 60.0
"""Seconds without a body after which the process is ended."""
_READ_BYTES: Final = 1 << 18

Value = TypeVar("Value")


class Decoder:
    """Decodes the bodies of one query frontend."""

    def __init__(self) -> None:
        self._process = _Process()

    async def predict(
        self, parts: list[bytes], input_type: InputType, missing_values: bool, app_name: str = ""
    ) -> Asked:
        """Decode a prediction request like `schemas.parse_predict`, from the parts that `webapp.read_in_parts` returns.

        Applications take turns with the bodies that are for the process.
        """
        if _are_small(parts):
            steps = schemas.parse_predict_in_steps(b"".join(parts), input_type, missing_values)
            return await long_work.finish(steps)
        asked = await long_work.finish(large_bodies.decode(parts, input_type))
        if asked is None:
            return await self._process.ask(app_name, schemas.parse_predict, parts, input_type, missing_values)
        return asked

    async def update(
        self, parts: list[bytes], input_type: InputType, missing_values: bool, app_name: str = ""
    ) -> UpdateRequest:
        """Decode feedback like `schemas.parse_update`."""
        if _are_small(parts):
            return schemas.parse_update(b"".join(parts), input_type, missing_values)
        return await self._process.ask(app_name, schemas.parse_update, parts, input_type, missing_values)

    async def close(self) -> None:
        """End the process, if there is one."""
        await self._process.close()


def _are_small(parts: list[bytes]) -> bool:
    return sum(map(len, parts)) <= SMALL_BODY_BYTES


class _Process:
    """Runs `decoder_process`, from the first body that needs it until none has come for a while."""

    def __init__(self) -> None:
        self._turns = _Turns()
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[int] | None = None

    async def ask(
        self,
        app_name: str,
        parse: Callable[..., Value],
        parts: list[bytes],
        input_type: InputType,
        missing_values: bool,
    ) -> Value:
        """Return what `parse` makes of a body. Raises what it raises, or JsonError if it takes too much.

        A client that hangs up while its body waits leaves the queue. Half an exchange would be of no use to the next
        body, so one that has begun is finished, and the caller waits for it: it counts the memory of the body.
        """
        await self._turns.wait(app_name, sum(map(len, parts)) * _SECONDS_PER_BYTE)
        task = asyncio.create_task(self._exchange_patiently(parse.__name__, parts, input_type, missing_values))
        task.add_done_callback(lambda _: self._turns.pass_on())
        result: Value | Exception = await _to_its_end(task)
        if isinstance(result, Exception):
            raise result
        return result

    async def _exchange_patiently(
        self, parse: str, parts: list[bytes], input_type: InputType, missing_values: bool
    ) -> Any:
        """Return the answer of the process: a value, or the error, which is not awaited if the client has
        disconnected."""
        if self._end is not None:
            self._end.cancel()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                result = await self._exchange(parse, parts, input_type, missing_values)
        except (TimeoutError, OSError, EOFError) as error:
            size = sum(map(len, parts))
            logger.warning("A body of %d bytes could not be decoded: %s", size, error or "it takes too long")
            await self.close()
            return JsonError("The body takes more time or memory to decode than a request may")
        except BaseException:
            await self.close()
            raise
        self._end = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._let_go)
        return result

    async def _exchange(self, parse: str, parts: list[bytes], input_type: InputType, missing_values: bool) -> Any:
        process = self._process = self._process or await _start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(decoder_process.encode_question(parse, sum(map(len, parts)), input_type, missing_values))
        for part in parts:
            process.stdin.write(part)
            await process.stdin.drain()
        length = decoder_process.read_length(await process.stdout.readexactly(decoder_process.LENGTH_BYTES))
        answer = decoder_process.decode_answer(await process.stdout.readexactly(length))
        if isinstance(answer, Exception):
            return answer
        return answer.filled([await _read(process.stdout, length) for length in answer.lengths])

    def _let_go(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()  # it ends by itself
            self._ending = asyncio.create_task(process.wait())

    async def close(self) -> None:
        if self._end is not None:
            self._end.cancel()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._ending is not None:
            await self._ending


class _Turns:
    """The turns with the process: one body at a time, applications one after the other, small bodies before large."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    async def wait(self, app_name: str, seconds: float) -> None:
        """Wait for a turn, which is expected to take `seconds` and ends with `pass_on`."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        number = self._waiting.put(app_name, turn, time.monotonic() + seconds)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.discard(app_name, number)
            if not turn.cancelled():  # the turn came at the same moment
                self.pass_on()
            raise
        finally:
            del turn  # avoids a reference cycle: its error has a traceback with this frame, and the body

    def pass_on(self) -> None:
        """Give the turn to the next one that still waits."""
        turn = self._waiting.take_first(lambda turn: True)
        self._is_taken = turn is not None
        if turn is not None and not turn.done():
            turn.set_result(None)
        elif turn is not None:  # it was cancelled in this turn of the event loop
            self.pass_on()


async def _to_its_end(task: asyncio.Task[Value]) -> Value:
    """Await a task, also when the caller is cancelled. When it is cancelled once more, it leaves the task alone."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _start() -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", decoder_process.__name__]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2 * _READ_BYTES)


async def _read(stream: asyncio.StreamReader, length: int) -> bytes:
    """Read exactly `length` bytes. `StreamReader.readexactly` would copy large data several times in one turn of the
    event loop."""
    value = io.BytesIO(bytes(length))  # it hands out what it was given
    while length > value.tell():
        part = await stream.read(min(length - value.tell(), _READ_BYTES))
        if not part:
            raise EOFError("the process has ended")
        value.write(part)
    return value.getvalue()
