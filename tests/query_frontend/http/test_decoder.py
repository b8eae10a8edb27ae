"""Bodies of all sizes and shapes, with the process beside the event loop."""

import asyncio
import gc
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend.http import decoder as module
from query_frontend.http import schemas
from query_frontend.http.decoder import Decoder
from query_frontend.http.schemas import Asked, NotAnObject

DOUBLES, STRINGS = InputType.DOUBLES, InputType.STRINGS
PATIENCE_SECONDS = 10.0


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    decoder = Decoder()
    yield decoder
    await decoder.close()
    assert children() == []


def children() -> list[psutil.Process]:
    """The processes that decode; Redis is a child of the tests, too."""
    return [child for child in psutil.Process().children() if is_decoder(child)]


def is_decoder(process: psutil.Process) -> bool:
    try:
        return "query_frontend.http.decoder_process" in process.cmdline()
    except psutil.Error:
        return False


def padded(body: str) -> bytes:
    """The body, too large to be parsed at once."""
    return body.encode() + b" " * module.SMALL_BODY_BYTES


def what_is_said(parse: Any, *args: Any) -> Any:
    try:
        return parse(*args)
    except JsonError as error:
        return type(error), str(error)


NESTED = "[" + "[]," * 50_000 + "[]]"
BODIES = [
    '{"input": [1, 2.5]}',
    '{"input_batch": [[1], [2, 3]], "version": "2"}',
    f'{{"x": {NESTED}, "input": [1]}}',
    f'{{"input": [1], "x": {NESTED}, "version": "7"}}',
    f'{{"input": {NESTED}}}',
    f'{{"input": [1], "input": {NESTED}}}',
    '{"input": [1], "input": [2], "x": 1}',
    '{"input": [1], "inp\\u0075t": [2]}',
    '{"version": 3, "input": [1]}',
    '{"input_batch": 3}',
    '{"x": 1}',
    "[1]",
    "3",
    '{"input": [1}',
    '{"input": [NaN, null]}',
    '{"input": [1e999]}',
    '{"input": "text \\u00e9 \\n"}',
    '{"input": ["1"]}',
    "{" + ",".join(f'"key {index}": 1' for index in range(20_000)) + ', "input": [1]}',
]


@pytest.mark.parametrize("missing_values", [False, True])
@pytest.mark.parametrize("kind", [DOUBLES, STRINGS, InputType.INTS, InputType.FLOATS, InputType.BYTES])
async def test_a_large_body_is_answered_as_a_small_one(decoder: Decoder, kind: InputType, missing_values: bool) -> None:
    for body in map(padded, BODIES):
        expected = what_is_said(schemas.parse_predict, body, kind, missing_values)
        try:
            found: Any = await decoder.predict([body], kind, missing_values)
        except JsonError as error:
            found = type(error), str(error)
        assert found == expected, body[:80]


async def test_feedback(decoder: Decoder) -> None:
    body = padded('{"uid": 3, "input": [1, 2], "label": 0.5}')
    assert await decoder.update([body], DOUBLES, False) == schemas.parse_update(body, DOUBLES)
    with pytest.raises(JsonError, match="required key: label"):
        await decoder.update([padded('{"uid": 3, "input": [1, 2]}')], DOUBLES, False)
    with pytest.raises(NotAnObject):
        await decoder.update([padded("[]")], DOUBLES, False)


async def test_small_and_plain_bodies_need_no_process(decoder: Decoder) -> None:
    numbers = [index / 7 for index in range(50_000)]
    assert await decoder.predict([b'{"x": [], "input": [1]}'], DOUBLES, False) == Asked([b"\0\0\0\0\0\0\xf0?"])
    inputs, *_ = await decoder.predict([json.dumps({"input": numbers}).encode()], DOUBLES, False)
    assert list(memoryview(inputs[0]).cast("d")) == numbers
    assert children() == []


async def test_many_at_a_time(decoder: Decoder) -> None:
    async def ask(index: int) -> bool:
        body = padded(f'{{"x": {NESTED}, "uid": {index}, "explain": true, "input": [{index}]}}')
        (value,), *others = await decoder.predict([body], DOUBLES, False)
        return (memoryview(value).cast("d").tolist(), others) == ([index], [None, index, True])

    assert all(await asyncio.gather(*map(ask, range(20))))
    assert len(children()) == 1


async def test_large_inputs_come_back_whole(decoder: Decoder) -> None:
    text = "é\\n" * 400_000
    (first, second), *_ = await decoder.predict([f'{{"input_batch": ["{text}", "x"]}}'.encode()], STRINGS, False)
    assert first == ("é\n" * 400_000).encode() and second == b"x"


async def test_a_client_that_hangs_up_disturbs_nobody(decoder: Decoder) -> None:
    asking = asyncio.create_task(decoder.predict([padded(f'{{"x": {NESTED}, "input": [1]}}')], DOUBLES, False))
    while not children():
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    inputs, *_ = await decoder.predict([padded('{"x": 1, "input": [2]}')], DOUBLES, False)
    assert memoryview(inputs[0]).cast("d").tolist() == [2.0]


class Slow:
    """A decoder whose process is stopped in the middle of a body, and the order in which others are answered."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.answered: list[str] = []

    async def stop(self) -> None:
        await self._decoder.predict([padded('{"x": 1, "input": [2]}')], DOUBLES, False)
        (self._process,) = children()
        self._process.send_signal(signal.SIGSTOP)
        self.first = self.ask("first", "a")
        await asyncio.sleep(0)

    def ask(self, name: str, app_name: str, more: int = 0) -> "asyncio.Task[None]":
        return asyncio.create_task(self._ask(name, app_name, more))

    async def _ask(self, name: str, app_name: str, more: int) -> None:
        await self._decoder.predict([padded('{"x": 1, "input": [2]}') + b" " * more], DOUBLES, False, app_name)
        self.answered.append(name)

    async def go_on(self, *asking: "asyncio.Task[None]") -> None:
        await asyncio.sleep(0)
        self._process.send_signal(signal.SIGCONT)
        await asyncio.gather(*asking)
        await asyncio.gather(self.first, return_exceptions=True)


async def test_applications_take_turns_and_small_bodies_come_before_large_ones(decoder: Decoder) -> None:
    slow = Slow(decoder)
    await slow.stop()
    asked = [slow.ask(f"large {number}", "a", 4 << 20) for number in range(2)]
    asked += [slow.ask("small", "a"), slow.ask("of another", "b", 4 << 20)]
    await slow.go_on(*asked)
    assert slow.answered == ["first", "small", "of another", "large 0", "large 1"]


async def test_a_client_that_hangs_up_while_it_waits_leaves_nothing_behind(decoder: Decoder) -> None:
    slow = Slow(decoder)
    await slow.stop()
    parts = [padded('{"x": 1, "input": [2]}')]
    several = [asyncio.create_task(decoder.predict(parts, DOUBLES, False, "a")) for _ in range(20)]
    await asyncio.sleep(0)
    for each in several:
        each.cancel()
    await asyncio.wait(several)
    del several, each
    assert sys.getrefcount(parts) == 2, "nobody holds the body any more"
    await slow.go_on(slow.ask("last", "a"))
    assert slow.answered == ["first", "last"]


async def test_a_body_that_is_being_decoded_is_held_although_its_client_hung_up(decoder: Decoder) -> None:
    slow = Slow(decoder)
    await slow.stop()
    slow.first.cancel()
    last = slow.ask("last", "a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not slow.first.done(), "whoever asked counts its memory until then"
    await slow.go_on(last)
    assert slow.first.cancelled() and slow.answered == ["last"]


async def test_a_body_that_is_left_alone_keeps_its_turn(decoder: Decoder) -> None:
    slow = Slow(decoder)
    await slow.stop()
    for _ in range(2):
        slow.first.cancel()
        await asyncio.sleep(0)
    last = slow.ask("last", "a")
    await asyncio.gather(slow.first, return_exceptions=True)
    await slow.go_on(last)
    assert slow.answered == ["last"]


async def test_the_error_in_the_body_of_a_client_that_hung_up_is_not_logged(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    asking = asyncio.create_task(decoder.predict([padded(f'{{"x": {NESTED}, "input": [1]')], DOUBLES, False))
    while not children():
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    del asking
    await decoder.predict([padded('{"x": 1, "input": [2]}')], DOUBLES, False)  # it is decoded after the other
    gc.collect()
    assert not caplog.text


async def test_a_process_that_dies_is_replaced(decoder: Decoder) -> None:
    body = padded('{"x": 1, "input": [2]}')
    await decoder.predict([body], DOUBLES, False)
    (process,) = children()
    process.send_signal(signal.SIGSTOP)
    asking = asyncio.create_task(decoder.predict([body], DOUBLES, False))
    await asyncio.sleep(0)
    process.kill()
    with pytest.raises(JsonError, match="more time or memory"):
        await asking
    await decoder.predict([body], DOUBLES, False)
    assert children() != [process]


async def test_a_body_that_takes_too_long(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    body = padded('{"x": 1, "input": [2]}')
    await decoder.predict([body], DOUBLES, False)
    (process,) = children()
    process.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_PATIENCE_SECONDS", 0.2)
        with pytest.raises(JsonError, match="more time or memory"):
            await decoder.predict([body], DOUBLES, False)
    assert not process.is_running()
    assert await decoder.predict([body], DOUBLES, False)


async def test_the_process_is_not_kept_for_ever(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    await decoder.predict([padded('{"x": 1, "input": [2]}')], DOUBLES, False)
    (process,) = children()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
    await decoder.close()
    assert not process.is_running()
