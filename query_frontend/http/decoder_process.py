"""The process beside a query frontend that decodes its large bodies, and what the two say to each other.

It reads questions from its standard input and writes answers to its standard output, one at a time, until the input
ends, as it does when the query frontend dies.
"""

import os
import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

from clipper_common import jsontext
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from clipper_common.long_work import finish_at_once
from query_frontend.http import large_bodies, schemas
from query_frontend.http.schemas import Asked, UpdateRequest
from query_frontend.simd import simdjson_parser

_KEYS: Final = ("input", "input_batch", "version", "uid", "explain")
LENGTH_BYTES: Final = 8
_NICE: Final = 5
"""The event loops of the workers come first where there are not enough cores."""


@dataclass(frozen=True)
class DecodedBody:
    """The answer for a body that is right. The inputs follow it, one after the other, since they are large."""

    lengths: Sequence[int]
    """The lengths of the inputs, in bytes."""
    value: Asked | UpdateRequest
    """The value that the parser returned, without its inputs."""

    def filled(self, inputs: list[bytes]) -> Asked | UpdateRequest:
        """Return the value with these inputs."""
        if isinstance(self.value, Asked):
            return self.value._replace(inputs=inputs)
        return replace(self.value, input=inputs[0])


def encode_question(parse: str, length: int, input_type: InputType, missing_values: bool) -> bytes:
    """Return the head of a question. The body follows it."""
    head = pickle.dumps((parse, length, input_type, missing_values))
    return _length(head) + head


def read_length(head: bytes) -> int:
    """Return the length of what follows `head`."""
    return int.from_bytes(head, "little")


def _length(text: bytes) -> bytes:
    return len(text).to_bytes(LENGTH_BYTES, "little")


def decode_answer(answer: bytes) -> DecodedBody | Exception:
    """Return the answer, or the reason why the body is refused."""
    value: DecodedBody | Exception = pickle.loads(answer)
    return value


def main() -> None:
    """Answer questions until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the query frontend to obey
    os.nice(_NICE)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := questions.read(LENGTH_BYTES):
        parse, length, input_type, missing_values = pickle.loads(questions.read(read_length(head)))
        _answer(answers, parse, questions.read(length), input_type, missing_values)


def _answer(answers: BinaryIO, parse: str, body: bytes, input_type: InputType, missing_values: bool) -> None:
    inputs: list[bytes] = []
    answer: DecodedBody | Exception
    try:
        if parse == schemas.parse_update.__name__:
            feedback = schemas.parse_update(body, input_type, missing_values)
            inputs = [feedback.input]
            answer = DecodedBody([len(feedback.input)], replace(feedback, input=b""))
        else:
            asked = _parse_predict(body, input_type, missing_values)
            inputs = asked.inputs
            answer = DecodedBody(list(map(len, inputs)), asked._replace(inputs=[]))
    except JsonError as error:
        answer = error
    except MemoryError:
        answer = JsonError("The body takes more memory to decode than there is")
    said = pickle.dumps(answer)
    answers.write(_length(said) + said)
    for value in inputs:
        answers.write(value)
    answers.flush()


def _parse_predict(body: bytes, input_type: InputType, missing_values: bool) -> Asked:
    body = _asked_for(body)
    asked = finish_at_once(large_bodies.decode([body], input_type))
    return asked or schemas.parse_predict(body, input_type, missing_values)


def _asked_for(body: bytes) -> bytes:
    """Return the body without the keys that have no meaning here, where it is certain which these are."""
    if b"\\u" in body or any(body.count(b'"%b"' % key.encode()) > 1 for key in _KEYS):  # the last of several counts
        return body
    try:
        fields = simdjson_parser().parse(body)
        found = [b'"%b":%b' % (key.encode(), _text_of(value)) for key in _KEYS for value in _values_of(fields, key)]
        return b"{%b}" % b",".join(found)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # no object, or malformed: the general parser tells
        return body


def _values_of(fields: Any, key: str) -> list[Any]:
    try:
        return [fields[key]]
    except KeyError:
        return []


def _text_of(value: Any) -> bytes:
    text: bytes = value.mini if hasattr(value, "mini") else jsontext.dumps(value)
    return text


if __name__ == "__main__":
    from query_frontend.http import decoder_process  # the classes in answers are those of the module by its own name

    decoder_process.main()
