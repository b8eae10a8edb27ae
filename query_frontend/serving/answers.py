"""Answers, and the JSON that they are sent as."""

import io
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

from clipper_common import jsontext
from query_frontend.simd import BYTE_ORDER_MARK, simdjson_parser

_simdjson: Final = simdjson_parser()
LARGE_OUTPUT_BYTES: Final = 1 << 14
_STEP_BYTES: Final = 1 << 14
"""Others have their turn after each part of this size while an answer is made."""
_JOINED_BYTES: Final = 1 << 18
"""The bytes of an answer that are copied in one step."""


class Default(NamedTuple):
    """The application's default output, as JSON, and why there is no better one."""

    output: bytes
    explanation: str


Answer = bytes | Default
"""The answer to one input: the model's output, as JSON, or the default."""


def embed_large(output: bytes) -> bytes:
    """As `jsontext.embed`, in a fraction of the time where a large output is JSON: no objects are made of it."""
    if len(output) > LARGE_OUTPUT_BYTES and _simdjson is not None and not output.startswith(BYTE_ORDER_MARK):
        try:
            simdjson_parser().parse(output)  # another one, since a parser keeps several times what it saw
        except (ValueError, RuntimeError):  # it is text, or has a number that only the general parser takes
            pass
        else:
            return output
    return jsontext.embed(output)


def render(answers: Sequence[Answer], query_ids: Iterator[int]) -> Generator[None, None, bytes]:
    """Return the response body, after a step for each `_STEP_BYTES` of it.

    A batch of exactly one is unwrapped, as in 0.4.
    """
    parts: list[bytes] = []
    size = 0
    for answer in answers:
        if size > _STEP_BYTES:
            size = 0
            yield
        if parts:
            parts.append(b",")
        if isinstance(answer, bytes) and len(answer) > LARGE_OUTPUT_BYTES:
            parts += render_in_parts(next(query_ids), answer)
        else:
            parts.append(render_one(next(query_ids), answer))
            size += len(parts[-1])
    if len(answers) != 1:
        parts = [b'{"batch_predictions":[', *parts, b"]}"]
    return (yield from _joined(parts))


def _joined(parts: list[bytes]) -> Generator[None, None, bytes]:
    """Return the parts behind each other, as `join` does, which copies all of them in one go."""
    size = sum(map(len, parts))
    if size <= _JOINED_BYTES:
        return b"".join(parts)
    joined = io.BytesIO(bytes(size))  # it hands out what it was given, and memory is taken as it is written
    copied = 0
    for part in parts:
        for begin in range(0, len(part), _JOINED_BYTES):
            copied += joined.write(memoryview(part)[begin : begin + _JOINED_BYTES])
            if copied >= _JOINED_BYTES:
                copied = 0
                yield
    return joined.getvalue()


def render_one(query_id: int, answer: Answer) -> bytes:
    if isinstance(answer, bytes):
        return b'{"query_id":%d,"output":%b,"default":false}' % (query_id, answer)
    return b'{"query_id":%d,"output":%b,"default":true,"default_explanation":%b}' % (
        query_id,
        answer.output,
        jsontext.dumps(answer.explanation),
    )


def render_in_parts(query_id: int, output: bytes) -> list[bytes]:
    """As `render_one`, without a copy of the output."""
    return [b'{"query_id":%d,"output":' % query_id, output, b',"default":false}']
