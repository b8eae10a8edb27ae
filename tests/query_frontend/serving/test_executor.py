"""The ids of batches."""

import tracemalloc
from itertools import islice

import pytest

from query_frontend.serving import executor

MANY = 100_000


def test_ids_that_were_used_take_no_memory() -> None:
    ids = executor._message_ids()
    assert list(islice(ids, 3)) == [0, 1, 2]
    tracemalloc.start()
    try:
        next(islice(ids, MANY, None))
        assert tracemalloc.get_traced_memory()[0] < MANY
    finally:
        tracemalloc.stop()


def test_ids_begin_anew_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MESSAGE_ID_LIMIT", 3)
    assert list(islice(executor._message_ids(), 7)) == [0, 1, 2, 0, 1, 2, 0]
