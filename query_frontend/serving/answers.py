"""Answers, and the JSON that they are sent as."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from clipper_common import jsontext
from query_frontend.simd import BYTE_ORDER_MARK, simdjson_parser

_simdjson: Final = simdjson_parser()
LARGE_OUTPUT_BYTES: Final = 1 << 14
_STEP_BYTES: Final = 1 << 14
"""Others have their turn after each part of this size while an answer is made."""
_LEAST_STEP_BYTES: Final = 1 << 7
"""The least cost of rendering an answer, in bytes that could be copied in the same time."""
_COPIED_BYTES: Final = 1 << 10
"""Outputs up to this size are copied into the answer."""
PIECE_BYTES: Final = 1 << 17
"""Answers up to this size are joined, and larger ones are sent in pieces of it."""


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


def render(answers: Sequence[Answer], query_ids: Iterator[int]) -> Generator[None, None, list[bytes]]:
    """Return the parts of the response body, after a step for each `_STEP_BYTES` that are copied.

    Outputs that are not small are not copied: a thousand inputs may have the same one. A batch of exactly one is
    unwrapped, as in 0.4.
    """
    parts: list[bytes] = []
    ends: dict[str, bytes] = {}
    size = 0
    for answer in answers:
        if size > _STEP_BYTES:
            size = 0
            yield
        if parts:
            parts.append(b",")
        if not isinstance(answer, bytes):
            parts += _default_in_parts(next(query_ids), answer, ends)
        elif len(answer) > _COPIED_BYTES:
            parts += render_in_parts(next(query_ids), answer)
        else:
            parts.append(render_one(next(query_ids), answer))
        size += max(len(parts[-1]), _LEAST_STEP_BYTES)
    return parts if len(answers) == 1 else [b'{"batch_predictions":[', *parts, b"]}"]


def _default_in_parts(query_id: int, answer: Default, ends: dict[str, bytes]) -> list[bytes]:
    """As `render_in_parts`. The end of each explanation is kept in `ends`, since many inputs have the same."""
    end = ends.get(answer.explanation)
    if end is None:
        end = b',"default":true,"default_explanation":%b}' % jsontext.dumps(answer.explanation)
        ends[answer.explanation] = end
    return [before_output(query_id), answer.output, end]


def in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts behind each other, in pieces of `PIECE_BYTES` to twice that, but for the last."""
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        for begin in range(0, len(part), PIECE_BYTES):
            gathered.append(part[begin : begin + PIECE_BYTES])
            size += len(gathered[-1])
            if size >= PIECE_BYTES:
                yield b"".join(gathered)
                gathered.clear()
                size = 0
    if gathered:
        yield b"".join(gathered)


AFTER_OUTPUT: Final = b',"default":false}'
"""The end of an answer with the model's output, which begins with `before_output`."""


def before_output(query_id: int) -> bytes:
    return b'{"query_id":%d,"output":' % query_id


def render_one(query_id: int, answer: Answer) -> bytes:
    if isinstance(answer, bytes):
        return before_output(query_id) + answer + AFTER_OUTPUT
    return b'{"query_id":%d,"output":%b,"default":true,"default_explanation":%b}' % (
        query_id,
        answer.output,
        jsontext.dumps(answer.explanation),
    )


def render_in_parts(query_id: int, output: bytes) -> list[bytes]:
    """As `render_one`, without a copy of the output."""
    return [before_output(query_id), output, AFTER_OUTPUT]
