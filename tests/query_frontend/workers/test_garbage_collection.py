"""Garbage collections are short, and garbage is collected all the same."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from query_frontend.workers import garbage_collection
from query_frontend.workers.garbage_collection import GarbageCollection

MANY = 100_000
MOST_EXAMINED = garbage_collection._MANY + 2 * garbage_collection._THRESHOLDS[0] * (
    garbage_collection._THRESHOLDS[1] + 1
)
"""Old objects, and those of the younger generations."""


class Node:
    """Refers to itself: only the collector frees it."""

    alive = 0

    def __init__(self) -> None:
        self.me = self
        Node.alive += 1

    def __del__(self) -> None:
        Node.alive -= 1


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    assert (gc.get_threshold(), gc.callbacks, gc.get_freeze_count()) == (thresholds, callbacks, 0)
    gc.collect()
    assert Node.alive == 0


async def grow(kept: list[Any], number: int, kind: type = list) -> int:
    """Make objects, with turns of the loop in between; how many objects the collector examined at most."""
    most = 0
    for made in range(number):
        kept.append(kind())
        if made % 1000 == 0:
            await asyncio.sleep(0)
            most = max(most, len(gc.get_objects()))
    return most


async def test_what_stays_is_not_examined_again() -> None:
    kept: list[Any] = []
    with GarbageCollection():
        assert len(gc.get_objects()) < garbage_collection._FEW, "the program itself is not examined"
        assert await grow(kept, MANY) < MOST_EXAMINED
        assert gc.get_freeze_count() > MANY // 2


async def test_garbage_is_collected_when_it_is_old() -> None:
    """As are the requests under way when the collector runs."""
    with GarbageCollection():
        for _ in range(20):
            under_way: list[Any] = []
            await grow(under_way, MANY // 20, Node)
        del under_way
        assert Node.alive < MOST_EXAMINED


async def test_what_is_frozen_and_freed_costs_nothing() -> None:
    with GarbageCollection():
        before = gc.get_freeze_count()
        kept: list[Any] = []
        await grow(kept, MANY)
        kept.clear()
        assert gc.get_freeze_count() < before + MOST_EXAMINED


async def test_what_is_frozen_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """To count 1.5 million objects takes the collector 50 to 120 ms."""
    monkeypatch.setattr(garbage_collection, "_MOST_FROZEN", MANY)
    count = Mock(return_value=0)
    with GarbageCollection(), monkeypatch.context() as patches:
        patches.setattr(gc, "get_freeze_count", count)
        for _ in range(4):
            await grow([], MANY)
    assert not count.called


async def test_garbage_among_what_is_frozen_is_found_when_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_collection, "_MOST_FROZEN", MANY)
    with GarbageCollection():
        kept: list[Any] = []
        await grow(kept, 4 * MANY, Node)
        kept.clear()
        await grow(kept, 4 * MANY)
        assert Node.alive < MOST_EXAMINED
