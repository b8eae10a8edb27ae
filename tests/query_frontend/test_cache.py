from hypothesis import given
from hypothesis import strategies as st

from query_frontend.cache import PredictionCache, Shelf

A_TASK, ANOTHER_TASK = 1, 2


ENTRY, BATCH = 190, 170
"""Bytes that an entry takes beside input and output, and a batch of them."""


def put(cache: PredictionCache[int], shelf: Shelf[int], payload: bytes, output: bytes) -> None:
    cache.put(shelf, [payload], [output])


def known(shelf: Shelf[int], *payloads: bytes) -> list[bytes | int | None]:
    return [shelf.entries.get(payload) for payload in payloads]


def test_keeps_what_was_put_on_that_shelf() -> None:
    cache, shelf, other = PredictionCache[int](10_000), Shelf[int](), Shelf[int]()
    put(cache, shelf, b"input", b"output")
    assert known(shelf, b"input", b"inpuT") == [b"output", None]
    assert known(other, b"input") == [None]


def test_the_oldest_goes_first_unless_it_was_used() -> None:
    cache, shelf = PredictionCache[int](3 * (ENTRY + BATCH + 2)), Shelf[int]()
    for payload in (b"a", b"b", b"c"):
        put(cache, shelf, payload, b"x")
    shelf.used.add(b"a")
    put(cache, shelf, b"d", b"x")
    assert known(shelf, b"a", b"b", b"c", b"d") == [b"x", None, b"x", b"x"]
    for payload in (b"e", b"f"):
        put(cache, shelf, payload, b"x")
    assert known(shelf, b"a", b"c", b"d", b"e", b"f") == [b"x", None, None, b"x", b"x"]
    put(cache, shelf, b"g", b"x")  # it was used once, and that was long ago
    assert known(shelf, b"a", b"e", b"f", b"g") == [None, b"x", b"x", b"x"]
    assert not shelf.used


def test_of_size_zero_it_is_off() -> None:
    cache, shelf = PredictionCache[int](0), Shelf[int]()
    put(cache, shelf, b"", b"")
    assert not cache.enabled
    assert cache.size_bytes == 0
    assert not shelf.entries


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache, shelf = PredictionCache[int](1000), Shelf[int]()
    put(cache, shelf, b"a", b"x")
    shelf.entries[b"b"] = A_TASK
    put(cache, shelf, b"b", b"x" * 1000)
    assert known(shelf, b"a", b"b") == [b"x", None]


def test_what_is_on_its_way_takes_no_room_and_is_not_pushed_out() -> None:
    cache, shelf = PredictionCache[int](2 * (ENTRY + BATCH + 2)), Shelf[int]()
    shelf.entries[b"s"] = A_TASK
    assert cache.size_bytes == 0
    for payload in (b"a", b"b", b"c"):
        put(cache, shelf, payload, b"x")
    assert known(shelf, b"s", b"a", b"b", b"c") == [A_TASK, None, b"x", b"x"]
    put(cache, shelf, b"s", b"y")
    assert known(shelf, b"s", b"b", b"c") == [b"y", None, b"x"]


def test_only_what_is_on_its_way_can_give_up() -> None:
    shelf = Shelf[int]()
    shelf.entries[b"a"] = ANOTHER_TASK
    shelf.give_up(b"a", A_TASK)
    assert known(shelf, b"a") == [ANOTHER_TASK]
    shelf.give_up(b"a", ANOTHER_TASK)
    assert known(shelf, b"a") == [None]


def test_forgets_a_shelf() -> None:
    cache, shelf, other = PredictionCache[int](3 * (ENTRY + BATCH + 2)), Shelf[int](), Shelf[int]()
    put(cache, shelf, b"a", b"x")
    put(cache, other, b"a", b"y")
    shelf.entries[b"b"] = A_TASK
    cache.forget(shelf)
    assert known(shelf, b"a", b"b") == [None, None]
    assert known(other, b"a") == [b"y"]
    for payload in (b"c", b"d", b"e"):
        put(cache, other, payload, b"z")
    assert known(other, b"a", b"c", b"d", b"e") == [None, b"z", b"z", b"z"]


def test_what_came_together_goes_together_except_what_was_used() -> None:
    room = 3 * ENTRY + BATCH + 6
    cache, shelf = PredictionCache[int](64 * room), Shelf[int]()
    first = [b"a", b"b", b"c"]
    cache.put(shelf, first, [b"1", b"2", b"3"])
    shelf.used.add(b"b")
    for number in range(80):
        cache.put(shelf, [b"%d-%d" % (number, k) for k in range(3)], [b"x"] * 3)
    assert known(shelf, *first) == [None, b"2", None]
    assert not shelf.used


def test_a_batch_of_any_size_is_a_small_part_of_the_cache_when_it_goes() -> None:
    cache, shelf = PredictionCache[int](100_000), Shelf[int]()
    payloads = [b"%04d" % number for number in range(200)]
    cache.put(shelf, payloads, [b"1"] * 200)
    for number in range(200):
        put(cache, shelf, b"more %04d" % number, b"1")
        if len(shelf.entries) < 201 + number:
            break
    assert 190 < sum(payload in shelf.entries for payload in payloads) < 200


def test_what_is_answered_twice_is_forgotten_once() -> None:
    cache, shelf = PredictionCache[int](100_000), Shelf[int]()
    cache.put(shelf, [b"a", b"a", b"b"], [b"1", b"2", b"3"])
    put(cache, shelf, b"a", b"4")
    assert known(shelf, b"a", b"b") == [b"4", b"3"]
    shelf.entries[b"a"] = A_TASK
    shelf.used.add(b"a")
    for number in range(2000):
        put(cache, shelf, b"%d" % number, b"x")
    assert known(shelf, b"b") == [None]
    assert cache.size_bytes <= 100_000
    cache.forget(shelf)
    assert cache.size_bytes == 0


Puts = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=300))), st.booleans())
)


@given(Puts)
def test_never_exceeds_its_bytes(puts: list[tuple[int, list[tuple[bytes, bytes]], bool]]) -> None:
    cache, shelves = PredictionCache[int](2000), [Shelf[int]() for _ in range(3)]
    for number, pairs, is_used in puts:
        shelf = shelves[number]
        cache.put(shelf, [payload for payload, _ in pairs], [output for _, output in pairs])
        if is_used:
            shelf.used.update(payload for payload, _ in pairs if payload in shelf.entries)
        kept = [(key, value) for shelf in shelves for key, value in shelf.entries.items() if isinstance(value, bytes)]
        assert sum(ENTRY + len(key) + len(value) for key, value in kept) <= cache.size_bytes <= 2000
        for payload, output in dict(pairs).items():
            assert shelf.entries.get(payload) in (None, output)
    for shelf in shelves:
        cache.forget(shelf)
    assert cache.size_bytes == 0
