"""Answers, and the JSON that they are sent as."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from clipper_common import jsontext
from query_frontend.simd import BYTE_ORDER_MARK, simdjson_parser

_simdjson: Final = simdjson_parser()
LARGE_OUTPUT_BYTES: Final = 1 << 14
_STEP_BYTES: Final = 1 << 14
"""The bytes of an answer that are made in one step."""
_LEAST_STEP_BYTES: Final = 1 << 7
"""The least cost of rendering an answer, in bytes that could be copied in the same time."""
_COPIED_BYTES: Final = 1 << 10
"""Outputs up to this size are copied into the answer."""
PIECE_BYTES: Final = 1 << 17
"""Answers up to this size are joined, and larger ones are sent in pieces of it."""


class Waited(NamedTuple):
    """The time that a query had waited at its deadline, in seconds."""

    in_queue: float
    """From the receipt of the request until its input was sent to a replica."""
    at_replica: float
    """Since then; 0 if it was not sent."""


class Default(NamedTuple):
    """The application's default output, as JSON, and why there is no better one."""

    output: bytes
    explanation: str
    waited: Waited | None = None
    """Where the time went, if the deadline is the reason."""


Answer = bytes | Default
"""The answer to one input: the model's output, as JSON, or the default."""


def embed_large(output: bytes) -> bytes:
    """Return an output as JSON like `jsontext.embed`. Where a large output is JSON, this takes a fraction of the time,
    because no objects are made of it."""
    if len(output) > LARGE_OUTPUT_BYTES and _simdjson is not None and not output.startswith(BYTE_ORDER_MARK):
        try:
            simdjson_parser().parse(output)  # another one, since a parser keeps several times what it saw
        except (ValueError, RuntimeError):  # it is text, or has a number that only the general parser takes
            pass
        else:
            return output
    return jsontext.embed(output)


def render(
    answers: Sequence[Answer], query_ids: Iterator[int], explanations: Iterator[bytes] | None = None
) -> Generator[None, None, list[bytes]]:
    """Return the parts of the response body, after a step for each `_STEP_BYTES` that are copied.

    With `explanations`, each answer gets the next of them, which is JSON.

    Outputs that are not small are not copied: a thousand inputs may have the same one. A batch of exactly one is
    unwrapped, as in 0.4.
    """
    parts: list[bytes] = []
    ends: dict[tuple[str, Waited | None], bytes] = {}
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
        if explanations is not None:
            parts[-1] = b'%b,"explanation":%b}' % (parts[-1][:-1], next(explanations))
        size += max(len(parts[-1]), _LEAST_STEP_BYTES)
    return parts if len(answers) == 1 else [b'{"batch_predictions":[', *parts, b"]}"]


def _default_in_parts(query_id: int, answer: Default, ends: dict[tuple[str, Waited | None], bytes]) -> list[bytes]:
    """Return the parts of a default answer. The end of each explanation is kept in `ends`, since many inputs have the
    same."""
    key = answer.explanation, answer.waited
    end = ends.get(key)
    if end is None:
        end = ends[key] = _end_of_default(answer)
    return [before_output(query_id), answer.output, end]


def _end_of_default(answer: Default) -> bytes:
    """Return what follows the output."""
    end = b',"default":true,"default_explanation":%b' % jsontext.dumps(answer.explanation)
    if answer.waited is None:
        return end + b"}"
    in_queue, at_replica = (1000 * seconds for seconds in answer.waited)
    return end + b',"default_waited_millis":{"in_queue":%.3f,"at_replica":%.3f}}' % (in_queue, at_replica)


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
    return before_output(query_id) + answer.output + _end_of_default(answer)


def render_in_parts(query_id: int, output: bytes) -> list[bytes]:
    """Return the parts of an answer like `render_one`, without a copy of the output."""
    return [before_output(query_id), output, AFTER_OUTPUT]
