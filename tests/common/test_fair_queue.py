"""Requests that wait, with applications in turn."""

from clipper_common.fair_queue import FairQueue


def all_of(queue: FairQueue[str]) -> list[str]:
    return [item for item in iter(lambda: queue.take_first(lambda _: True), None) if item is not None]


def test_applications_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for app_name, item in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
        queue.put(app_name, item)
    assert all_of(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert not queue


def test_the_lowest_rank_of_an_application_comes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for item, rank in [("late", 2.0), ("early", 1.0), ("as late", 2.0)]:
        queue.put("a", item, rank)
    assert all_of(queue) == ["early", "late", "as late"]


def test_an_application_whose_first_item_may_not_go_is_passed_over() -> None:
    queue: FairQueue[str] = FairQueue()
    for app_name, item in [("a", "no"), ("a", "yes"), ("b", "yes b")]:
        queue.put(app_name, item)
    assert queue.take_first(lambda item: item != "no") == "yes b"
    assert queue.take_first(lambda item: item != "no") is None
    assert all_of(queue) == ["no", "yes"]


def test_an_item_that_left_is_not_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    numbers = [queue.put("a", item) for item in ("first", "second")]
    other = queue.put("b", "other")
    queue.discard("a", numbers[0])
    queue.discard("b", other)
    queue.discard("b", other)
    assert all_of(queue) == ["second"]
    assert not queue
