"""The bodies of answers to predictions. Large ones are sent in pieces as the client reads, from shared outputs.

A small request can have an answer of gigabytes: thousands of inputs, all with the same output.
"""

from collections.abc import Generator, Iterator

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from clipper_common import long_work
from clipper_common.body_budget import BodyBudget
from query_frontend.serving import answers


def of(parts: list[bytes], budget: BodyBudget) -> "bytes | AnswerBody":
    """Return the body that consists of `parts`. What it holds while it is sent is counted by `budget`."""
    if sum(map(len, parts)) <= answers.PIECE_BYTES:
        return b"".join(parts)
    return AnswerBody(parts, budget)


class AnswerBody(Payload):
    """A body that is sent in pieces."""

    def __init__(self, parts: list[bytes], budget: BodyBudget) -> None:
        super().__init__(parts)
        self._parts = parts
        self._size = sum(map(len, parts))
        self._budget = budget

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        with self._budget.count() as held:
            held.add(sum({id(part): len(part) for part in self._parts}.values()))
            pieces = answers.in_pieces(self._parts)
            # A client that reads fast makes nobody wait, so each piece is a step of long work: others have their turn.
            while piece := await long_work.finish(_next(pieces)):
                await writer.write(piece)


def _next(pieces: Iterator[bytes]) -> Generator[None, None, bytes]:
    yield
    return next(pieces, b"")
