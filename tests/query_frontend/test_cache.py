from hypothesis import given
from hypothesis import strategies as st

from query_frontend.cache import PredictionCache, Shelf

A_TASK, ANOTHER_TASK = 1, 2


def known(shelf: Shelf[int], *payloads: bytes) -> list[bytes | int | None]:
    return [shelf.entries.get(payload) for payload in payloads]


def test_keeps_what_was_put_on_that_shelf() -> None:
    cache, shelf, other = PredictionCache[int](10_000), Shelf[int](), Shelf[int]()
    cache.put(shelf, b"input", b"output")
    assert known(shelf, b"input", b"inpuT") == [b"output", None]
    assert known(other, b"input") == [None]


def test_the_oldest_goes_first_unless_it_was_used() -> None:
    cache, shelf = PredictionCache[int](3 * (170 + 2)), Shelf[int]()
    for payload in (b"a", b"b", b"c"):
        cache.put(shelf, payload, b"x")
    shelf.used.add(b"a")
    cache.put(shelf, b"d", b"x")
    assert known(shelf, b"a", b"b", b"c", b"d") == [b"x", None, b"x", b"x"]
    for payload in (b"e", b"f"):
        cache.put(shelf, payload, b"x")
    assert known(shelf, b"a", b"c", b"d", b"e", b"f") == [b"x", None, None, b"x", b"x"]
    cache.put(shelf, b"g", b"x")  # it was used once, and that was long ago
    assert known(shelf, b"a", b"e", b"f", b"g") == [None, b"x", b"x", b"x"]
    assert not shelf.used


def test_of_size_zero_it_is_off() -> None:
    cache, shelf = PredictionCache[int](0), Shelf[int]()
    cache.put(shelf, b"", b"")
    assert not cache.enabled
    assert len(cache) == 0
    assert not shelf.entries


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache, shelf = PredictionCache[int](1000), Shelf[int]()
    cache.put(shelf, b"a", b"x")
    shelf.entries[b"b"] = A_TASK
    cache.put(shelf, b"b", b"x" * 1000)
    assert known(shelf, b"a", b"b") == [b"x", None]


def test_what_is_on_its_way_takes_no_room_and_is_not_pushed_out() -> None:
    cache, shelf = PredictionCache[int](2 * (170 + 2)), Shelf[int]()
    shelf.entries[b"s"] = A_TASK
    assert cache.size_bytes == 0
    for payload in (b"a", b"b", b"c"):
        cache.put(shelf, payload, b"x")
    assert known(shelf, b"s", b"a", b"b", b"c") == [A_TASK, None, b"x", b"x"]
    cache.put(shelf, b"s", b"y")
    assert known(shelf, b"s", b"b", b"c") == [b"y", None, b"x"]


def test_only_what_is_on_its_way_can_give_up() -> None:
    shelf = Shelf[int]()
    shelf.entries[b"a"] = ANOTHER_TASK
    shelf.give_up(b"a", A_TASK)
    assert known(shelf, b"a") == [ANOTHER_TASK]
    shelf.give_up(b"a", ANOTHER_TASK)
    assert known(shelf, b"a") == [None]


def test_forgets_a_shelf() -> None:
    cache, shelf, other = PredictionCache[int](3 * (170 + 2)), Shelf[int](), Shelf[int]()
    cache.put(shelf, b"a", b"x")
    cache.put(other, b"a", b"y")
    shelf.entries[b"b"] = A_TASK
    cache.forget(shelf)
    assert known(shelf, b"a", b"b") == [None, None]
    assert known(other, b"a") == [b"y"]
    for payload in (b"c", b"d", b"e"):
        cache.put(other, payload, b"z")
    assert known(other, b"a", b"c", b"d", b"e") == [None, b"z", b"z", b"z"]


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=2), st.binary(max_size=300), st.booleans())))
def test_never_exceeds_its_bytes(entries: list[tuple[int, bytes, bytes, bool]]) -> None:
    cache, shelves = PredictionCache[int](2000), [Shelf[int]() for _ in range(3)]
    for number, payload, output, is_used in entries:
        shelf = shelves[number]
        was = shelf.entries.get(payload)
        cache.put(shelf, payload, output)
        assert shelf.entries[payload] == (output if was is None else was)
        if is_used:
            shelf.used.add(payload)
        kept = [(key, value) for shelf in shelves for key, value in shelf.entries.items() if isinstance(value, bytes)]
        assert cache.size_bytes == sum(170 + len(key) + len(value) for key, value in kept) <= 2000
        assert len(cache) == len(kept)
    for shelf in shelves:
        cache.forget(shelf)
    assert cache.size_bytes == 0 and len(cache) == 0
