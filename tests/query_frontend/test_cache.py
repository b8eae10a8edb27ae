from hypothesis import given
from hypothesis import strategies as st

from query_frontend.cache import PredictionCache


def test_answers_what_was_put_for_that_owner() -> None:
    cache = PredictionCache(10_000)
    cache.put(1, b"input", b"output")
    assert cache.get(1, b"input") == b"output"
    assert cache.get(2, b"input") is None
    assert cache.get(1, b"inpuT") is None


def test_the_least_recently_used_goes_first() -> None:
    cache = PredictionCache(3 * (250 + 2))
    for payload in (b"a", b"b", b"c"):
        cache.put(1, payload, b"x")
    cache.get(1, b"a")
    cache.put(1, b"d", b"x")
    assert [cache.get(1, payload) for payload in (b"a", b"b", b"c", b"d")] == [b"x", None, b"x", b"x"]


def test_of_size_zero_it_is_off() -> None:
    cache = PredictionCache(0)
    cache.put(1, b"", b"")
    assert not cache.enabled
    assert len(cache) == 0


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache = PredictionCache(1000)
    cache.put(1, b"a", b"x")
    cache.put(1, b"b", b"x" * 1000)
    assert cache.get(1, b"a") == b"x"
    assert cache.get(1, b"b") is None


def test_forgets_an_owner() -> None:
    cache = PredictionCache(10_000)
    cache.put(1, b"a", b"x")
    cache.put(2, b"a", b"y")
    cache.forget(1)
    assert cache.get(1, b"a") is None
    assert cache.get(2, b"a") == b"y"


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=5), st.binary(max_size=300)), max_size=60))
def test_never_exceeds_its_bytes(entries: list[tuple[int, bytes, bytes]]) -> None:
    cache = PredictionCache(2000)
    for owner, payload, output in entries:
        cache.put(owner, payload, output)
        assert cache.size_bytes <= 2000
        assert cache.get(owner, payload) == output
    for owner in (1, 2, 3):
        cache.forget(owner)
    assert cache.size_bytes == 0 and len(cache) == 0
