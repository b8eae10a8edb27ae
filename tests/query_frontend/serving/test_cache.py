import asyncio

from hypothesis import given
from hypothesis import strategies as st

from query_frontend.serving.cache import CachePartition, Key, LargeKey, PredictionCache, key_of, keys_of
from tests.steps import in_steps

A_TASK, ANOTHER_TASK = 1, 2


ENTRY, BATCH = 190, 170
"""Bytes that an entry takes beside input and output, and a batch of them."""


def put(cache: PredictionCache, partition: CachePartition, payload: bytes, output: bytes) -> None:
    cache.put(partition, [payload], [output])


def known(partition: CachePartition, *payloads: bytes) -> list[bytes | int | None]:
    return [partition.entries.get(payload) for payload in payloads]


def test_keeps_what_was_put_on_that_shelf() -> None:
    cache, partition, other = PredictionCache(10_000), CachePartition(), CachePartition()
    put(cache, partition, b"input", b"output")
    assert known(partition, b"input", b"inpuT") == [b"output", None]
    assert known(other, b"input") == [None]


def test_the_oldest_goes_first_unless_it_was_used() -> None:
    cache, partition = PredictionCache(3 * (ENTRY + BATCH + 2)), CachePartition()
    for payload in (b"a", b"b", b"c"):
        put(cache, partition, payload, b"x")
    partition.used.add(b"a")
    put(cache, partition, b"d", b"x")
    assert known(partition, b"a", b"b", b"c", b"d") == [b"x", None, b"x", b"x"]
    for payload in (b"e", b"f"):
        put(cache, partition, payload, b"x")
    assert known(partition, b"a", b"c", b"d", b"e", b"f") == [b"x", None, None, b"x", b"x"]
    put(cache, partition, b"g", b"x")  # it was used once, and that was long ago
    assert known(partition, b"a", b"e", b"f", b"g") == [None, b"x", b"x", b"x"]
    assert not partition.used


def test_of_size_zero_it_is_off() -> None:
    cache, partition = PredictionCache(0), CachePartition()
    put(cache, partition, b"", b"")
    assert not cache.enabled
    assert cache.size_bytes == 0
    assert not partition.entries


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache, partition = PredictionCache(1000), CachePartition()
    put(cache, partition, b"a", b"x")
    partition.entries[b"b"] = A_TASK
    put(cache, partition, b"b", b"x" * 1000)
    assert known(partition, b"a", b"b") == [b"x", None]


def test_what_is_on_its_way_takes_no_room_and_is_not_pushed_out() -> None:
    cache, partition = PredictionCache(2 * (ENTRY + BATCH + 2)), CachePartition()
    partition.entries[b"s"] = A_TASK
    assert cache.size_bytes == 0
    for payload in (b"a", b"b", b"c"):
        put(cache, partition, payload, b"x")
    assert known(partition, b"s", b"a", b"b", b"c") == [A_TASK, None, b"x", b"x"]
    put(cache, partition, b"s", b"y")
    assert known(partition, b"s", b"b", b"c") == [b"y", None, b"x"]


def test_only_what_is_in_flight_is_removed() -> None:
    partition = CachePartition()
    partition.entries[b"a"] = ANOTHER_TASK
    partition.remove_in_flight(b"a", A_TASK)
    assert known(partition, b"a") == [ANOTHER_TASK]
    partition.remove_in_flight(b"a", ANOTHER_TASK)
    assert known(partition, b"a") == [None]


def test_forgets_a_shelf() -> None:
    cache, partition, other = PredictionCache(3 * (ENTRY + BATCH + 2)), CachePartition(), CachePartition()
    put(cache, partition, b"a", b"x")
    put(cache, other, b"a", b"y")
    partition.entries[b"b"] = A_TASK
    cache.forget(partition)
    assert known(partition, b"a", b"b") == [None, None]
    assert known(other, b"a") == [b"y"]
    for payload in (b"c", b"d", b"e"):
        put(cache, other, payload, b"z")
    assert known(other, b"a", b"c", b"d", b"e") == [None, b"z", b"z", b"z"]


def test_what_came_together_goes_together_except_what_was_used() -> None:
    room = 3 * ENTRY + BATCH + 6
    cache, partition = PredictionCache(64 * room), CachePartition()
    first = [b"a", b"b", b"c"]
    cache.put(partition, first, [b"1", b"2", b"3"])
    partition.used.add(b"b")
    for number in range(80):
        cache.put(partition, [b"%d-%d" % (number, k) for k in range(3)], [b"x"] * 3)
    assert known(partition, *first) == [None, b"2", None]
    assert not partition.used


def test_a_batch_of_any_size_is_a_small_part_of_the_cache_when_it_goes() -> None:
    cache, partition = PredictionCache(100_000), CachePartition()
    payloads = [b"%04d" % number for number in range(200)]
    cache.put(partition, payloads, [b"1"] * 200)
    for number in range(200):
        put(cache, partition, b"more %04d" % number, b"1")
        if len(partition.entries) < 201 + number:
            break
    assert 190 < sum(payload in partition.entries for payload in payloads) < 200


def test_what_is_answered_twice_is_forgotten_once() -> None:
    cache, partition = PredictionCache(100_000), CachePartition()
    cache.put(partition, [b"a", b"a", b"b"], [b"1", b"2", b"3"])
    put(cache, partition, b"a", b"4")
    assert known(partition, b"a", b"b") == [b"4", b"3"]
    partition.entries[b"a"] = A_TASK
    partition.used.add(b"a")
    for number in range(2000):
        put(cache, partition, b"%d" % number, b"x")
    assert known(partition, b"b") == [None]
    assert cache.size_bytes <= 100_000


Puts = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=300))), st.booleans())
)


@given(Puts)
def test_never_exceeds_its_bytes(puts: list[tuple[int, list[tuple[bytes, bytes]], bool]]) -> None:
    cache, partitions = PredictionCache(2000), [CachePartition() for _ in range(3)]
    for number, pairs, is_used in puts:
        partition = partitions[number]
        cache.put(partition, [payload for payload, _ in pairs], [output for _, output in pairs])
        if is_used:
            partition.used.update(payload for payload, _ in pairs if payload in partition.entries)
        kept = [
            (key, value)
            for partition in partitions
            for key, value in partition.entries.items()
            if isinstance(value, bytes)
        ]
        assert sum(ENTRY + len(key) + len(value) for key, value in kept) <= cache.size_bytes <= 2000
        for payload, output in dict(pairs).items():
            assert partition.entries.get(payload) in (None, output)


def test_making_room_looks_at_a_bounded_number_of_entries() -> None:
    cache, partition = PredictionCache(4000 * (ENTRY + BATCH + 5)), CachePartition()
    inputs = [b"%04d" % number for number in range(4000)]
    for payload in inputs:
        put(cache, partition, payload, b"x")
    partition.used.update(inputs)
    put(cache, partition, b"more", b"x")
    assert 0 < 4000 - len(partition.used) <= 2 * 1024
    assert 3998 < len(partition.entries) <= 4001
    assert cache.size_bytes <= 4000 * (ENTRY + BATCH + 5)
    assert known(partition, b"more") == [b"x"]


async def test_a_large_partition_is_dropped_in_steps() -> None:
    cache, partition = PredictionCache(1 << 24), CachePartition()
    inputs = [b"%05d" % number for number in range(10_000)]
    for payload in inputs:
        put(cache, partition, payload, b"x")
    entries = partition.entries
    cache.forget(partition)
    assert not partition.entries and not partition.used
    assert 0 < len(entries) < len(inputs), "only a step is made at once"
    await wait_until_dropped(entries)


async def wait_until_dropped(entries: dict[Key, object]) -> None:
    while entries:
        await asyncio.sleep(0)


def test_batches_of_a_removed_model_version_make_room_in_their_turn() -> None:
    cache, partition, other = PredictionCache(10 * (ENTRY + BATCH + 2)), CachePartition(), CachePartition()
    for number in range(10):
        put(cache, partition, b"%d" % number, b"x")
    cache.forget(partition)
    for number in range(10):
        put(cache, other, b"%d" % number, b"y")
    assert len(other.entries) == 10
    assert cache.size_bytes <= 10 * (ENTRY + BATCH + 2)


def steps_of(payloads: list[bytes]) -> tuple[list[Key], int]:
    """The keys of inputs, and in how many steps they were made."""
    return in_steps(keys_of(payloads))


def test_a_large_input_is_hashed_in_steps() -> None:
    large = bytes(range(256)) * (1 << 14)
    [key], count = steps_of([large])
    assert count == 16
    assert isinstance(key, LargeKey)
    assert key.payload is large
    assert len(key) == len(large)


def test_many_inputs_are_hashed_in_steps() -> None:
    inputs = [bytes([number]) * (1 << 16) for number in range(256)]
    keys, count = steps_of(inputs)
    assert count == 256 // 5
    assert all(key is payload for key, payload in zip(keys, inputs, strict=True))


def test_a_large_input_is_found_by_what_it_holds() -> None:
    cache, partition = PredictionCache(1 << 24), CachePartition()
    large = bytes(1 << 20)
    cache.put(partition, [key_of(large)], [b"output"])
    assert partition.entries.get(key_of(bytes(1 << 20))) == b"output"
    assert cache.size_bytes == len(large) + len(b"output") + ENTRY + BATCH
    for other in (bytes((1 << 20) + 1), bytes((1 << 20) - 1) + b"x", b"x" + bytes((1 << 20) - 1)):
        assert partition.entries.get(key_of(other)) is None
    cache.put(partition, [key_of(large)], [b"x" * (1 << 24)])
    assert not partition.entries
