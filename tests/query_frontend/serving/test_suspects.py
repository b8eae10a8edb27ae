"""Parts of lost batches, which are tried until the input is found that ends replicas."""

from query_frontend.serving.model_queue import Task
from query_frontend.serving.suspects import Suspects


def tasks(*deadlines: float) -> list[Task]:
    return [Task(b"x", deadline) for deadline in deadlines]


def test_a_lost_batch_is_tried_in_halves_and_a_single_input_alone() -> None:
    suspects = Suspects()
    first, second, third = batch = tasks(1.0, 1.0, 1.0)
    suspects.add_halves(batch)
    assert [*suspects.parts] == [[first, second], [third]]
    assert suspects.pop_part(0.0) == ([first, second], [])
    suspects.add_halves([first, second])
    assert [*suspects.parts] == [[third], [first], [second]]
    suspects.add_halves([])
    assert len(suspects.parts) == 3


def test_tasks_that_nobody_waits_for_are_told_apart() -> None:
    suspects = Suspects()
    gone, expired, host, awaited = tasks(2.0, 1.0, 2.0, 2.0)
    gone.is_waiting = host.is_waiting = False
    host.joined = {awaited: None}
    suspects.add_halves([gone, expired])
    suspects.add_halves([host, awaited])
    parts = [suspects.pop_part(1.0) for _ in range(4)]
    assert parts == [([], [gone]), ([], [expired]), ([host], []), ([awaited], [])]
    assert not suspects.has(gone)


class RelayedTask(Task):
    is_relayed = True


def test_relayed_tasks_are_removed_alone() -> None:
    suspects = Suspects()
    relayed, own, other = RelayedTask(b"r", 1.0), *tasks(1.0, 1.0)
    suspects.add_halves([relayed, own, other])
    assert suspects.next_is_relayed() and suspects.has(relayed)
    assert suspects.remove(only_relayed=True) == [relayed]
    assert not suspects.next_is_relayed() and not suspects.has(relayed)
    assert suspects.remove(only_relayed=False) == [own, other]
