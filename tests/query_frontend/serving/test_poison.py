"""Which inputs are known to end replicas."""

import pytest

from query_frontend.serving import poison
from query_frontend.serving.poison import BLAME_SECONDS, Blame


def test_an_input_is_blamed_for_the_second_replica() -> None:
    ends = Blame()
    assert ends.is_empty
    assert not ends.note(b"x", 1.0)
    assert not ends.is_empty
    assert not ends.is_blamed(b"x", 1.0)
    assert ends.note(b"x", 2.0)
    assert ends.is_blamed(b"x", 2.0) and not ends.is_blamed(b"y", 2.0)
    assert ends.num_blamed(2.0) == 1


def test_blame_ends_after_a_while() -> None:
    ends = Blame()
    ends.note(b"x", 0.0)
    ends.note(b"x", 1.0)
    assert ends.is_blamed(b"x", BLAME_SECONDS)
    assert not ends.is_blamed(b"x", 1.0 + BLAME_SECONDS)
    assert not ends.note(b"y", 1.0 + BLAME_SECONDS)
    assert ends.num_blamed(1.0 + BLAME_SECONDS) == 0
    assert not ends.note(b"x", 2.0 + BLAME_SECONDS), "it counts anew"


def test_how_long_is_a_setting() -> None:
    ends = Blame(5.0)
    ends.note(b"x", 0.0)
    assert ends.note(b"x", 1.0)
    assert ends.num_blamed(5.9) == 1 and ends.is_blamed(b"x", 5.9)
    assert ends.num_blamed(6.0) == 0 and not ends.is_blamed(b"x", 6.0)


def test_ends_long_ago_do_not_count() -> None:
    ends = Blame()
    ends.note(b"x", 0.0)
    assert not ends.note(b"x", BLAME_SECONDS)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "_MOST_BYTES", 10)
    ends = Blame()
    for payload in (b"12345", b"12345", b"abcde", b"abcde"):
        ends.note(payload, 1.0)
    assert ends.num_blamed(1.0) == 2
    ends.note(b"!", 2.0)
    assert not ends.is_blamed(b"12345", 2.0) and ends.is_blamed(b"abcde", 2.0)
    monkeypatch.setattr(poison, "_MOST_INPUTS", 2)
    ends.note(b"?", 3.0)
    assert not ends.is_blamed(b"abcde", 3.0)
    ends.note(bytes(100), 4.0)
    assert ends.is_empty, "one that is too large is not kept"
