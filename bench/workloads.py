"""The requests of the comparison: inputs of four kinds, as JSON in the form of each server.

A body holds the ten digits MARK once. wrk.lua and generator.c put another number there in each request, so that no two
inputs are the same. `fixed` has a number there already: each request is the same.
"""

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

MARK: Final = b"0123456789"
FIRST_NUMBER: Final = 1_000_000_000
_IMAGE_BYTES: Final = 100_000


class Workload(NamedTuple):
    name: str
    input_type: str
    value: Any
    """JSON of an input, with the mark."""


def _doubles(count: int) -> Workload:
    numbers = random.Random(7)
    parts = [b"%.17g" % numbers.random() for _ in range(count)]
    parts[0] = b"0." + MARK
    return Workload(f"{count} doubles", "doubles", orjson.Fragment(b"[" + b",".join(parts) + b"]"))


def _image() -> Workload:
    """Random bytes: what is compressed, as images are, looks like that."""
    text = base64.b64encode(random.Random(7).randbytes(_IMAGE_BYTES)).decode()
    return Workload("100 KB image", "bytes", MARK.decode() + text[len(MARK) :])


def _string() -> Workload:
    text = " is the number of this question: which of two sentences is more likely to be followed by the other one?"
    return Workload("a string", "strings", MARK.decode() + 2 * text)


WORKLOADS: Final = {workload.name: workload for workload in (_doubles(10), _doubles(784), _image(), _string())}


# --- the words of servers ---


def plain(workload: Workload) -> Any:
    return {"input": workload.value}


def open_inference(workload: Workload) -> Any:
    """The V2 protocol; base64 comes as a string that the model decodes, as everywhere else."""
    is_vector = workload.input_type == "doubles"
    text = orjson.dumps(workload.value)
    tensor = {
        "name": "x",
        "shape": [1, text.count(b",") + 1] if is_vector else [1, 1],
        "datatype": "FP64" if is_vector else "BYTES",
        "data": workload.value if is_vector else [workload.value],
    }
    return {"inputs": [tensor]}


def list_of_one(workload: Workload) -> Any:
    return {"input": [workload.value]}


Dialect = Callable[[Workload], Any]


def body(workload: Workload, dialect: Dialect = plain, distinct: bool = True) -> bytes:
    text = orjson.dumps(dialect(workload))
    assert text.count(MARK) == 1
    return text if distinct else fixed(text)


def fixed(text: bytes) -> bytes:
    return text.replace(MARK, b"%d" % FIRST_NUMBER)


def write_body(folder: Path, text: bytes) -> Path:
    path = folder / "body.json"
    path.write_bytes(text)
    return path
