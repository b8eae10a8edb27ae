"""Tests of learning, and of forgetting, what inputs on which a model raises have in common."""

import json
import random

import numpy as np
import pytest

from clipper_common.datatypes import InputType
from clipper_containers.suspicion import Suspicion


def packed(kind: str, *numbers: float) -> bytes:
    return np.array(numbers, kind).tobytes()


CASES = {
    "length": (InputType.DOUBLES, [packed("d", 1, 2), packed("d", -1, 3)], packed("d", 1, 2, 3)),
    "head of bytes": (InputType.BYTES, [b"\x89PNG 12", b"\x89PNG 21"], b"GIF89a1"),
    "characters": (InputType.STRINGS, [b"123", b"40"], b"1x"),
    "a field that is not there": (InputType.STRINGS, [b'{"a": 1, "b": 22}', b'{"b": 1, "a": 3}'], b'{"a": 1, "c": 42}'),
    "null": (InputType.STRINGS, [b'{"a": 1}', b'{"a": 1000}'], b'{"a": null}'),
    "no JSON": (InputType.STRINGS, [json.dumps(["{", "}"]).encode(), b"[1]"], b"[}"),
    "NaN": (InputType.FLOATS, [packed("f", 1, 2), packed("f", -3, 2)], packed("f", 1, np.nan)),
    "infinity": (InputType.DOUBLES, [packed("d", 1, 2), packed("d", -3, 2)], packed("d", 1, np.inf)),
    "a number out of range": (InputType.INTS, [packed("i", 5, 900), packed("i", 7, 1000)], packed("i", 3, 1500)),
    "a negative number": (InputType.INTS, [packed("i", 5, 900), packed("i", 7, 1000)], packed("i", -1, 1000)),
    "the same input": (InputType.STRINGS, [b"abcd 12", b"abcd 21"], b"abcd 11"),
}
every_case = pytest.mark.parametrize(("kind", "good", "bad"), CASES.values(), ids=CASES.keys())


@every_case
def test_an_input_with_what_failing_ones_have_in_common_is_suspected(
    kind: InputType, good: list[bytes], bad: bytes
) -> None:
    suspicion = Suspicion(kind)
    for _ in range(3):
        assert not suspicion.failures_like(bad)
        suspicion.note_failure(bad)
    suspicion.note_outputs(good)
    assert suspicion.failures_like(bad) == 3
    assert suspicion.failures_like(memoryview(bad)) == 3
    assert not any(map(suspicion.failures_like, good))
    suspicion.note_outputs([bad])
    assert not suspicion.failures_like(bad) and not suspicion.has_suspects


@pytest.mark.parametrize("kind", InputType)
@pytest.mark.parametrize("item", [b"", b"x", b"\xff" * 100_001, b"[" * 4000], ids=["empty", "short", "long", "nested"])
def test_any_bytes_can_be_examined(kind: InputType, item: bytes) -> None:
    suspicion = Suspicion(kind)
    for _ in range(3):
        suspicion.note_failure(item)
    assert suspicion.failures_like(item) == 3


def test_failures_are_forgotten_after_many_calls_without_one() -> None:
    suspicion = Suspicion(InputType.STRINGS)
    for _ in range(3):
        suspicion.note_failure(b"bad")
    for _ in range(10_000):
        suspicion.note_outputs([b"ok"])
    assert suspicion.failures_like(b"bad")
    suspicion.note_outputs([b"ok"])
    assert not suspicion.has_suspects and suspicion.may_work(64)


def test_few_values_are_remembered() -> None:
    suspicion = Suspicion(InputType.STRINGS)
    for number in range(2000):
        for _ in range(3):
            suspicion.note_failure(b"%04d" % number)
    suspicion.note_outputs([b"ok"])
    assert sum(map(bool, map(suspicion.failures_like, (b"%04d" % number for number in range(2000))))) == 2000
    suspicion.note_outputs([b"9999"])
    remembered = [suspicion.failures_like(b"%04d" % number) for number in range(2000)]
    assert 0 < sum(map(bool, remembered)) <= 1000


def test_the_share_that_fails_bounds_what_is_tried_together() -> None:
    suspicion = Suspicion(InputType.STRINGS)
    assert suspicion.group_size() >= 1000
    rng = random.Random(1)
    for _ in range(400):
        first, *others = (b"1%08d" % rng.randrange(10**8) for _ in range(10))
        suspicion.note_failure(first)
        suspicion.note_outputs(others)
    assert 5 <= suspicion.group_size() <= 9
    assert not suspicion.may_work(10)
    for _ in range(500):
        suspicion.note_outputs([b"ok"])
    assert suspicion.group_size() >= 1000
