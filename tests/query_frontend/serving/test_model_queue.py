from hypothesis import given
from hypothesis import strategies as st

from query_frontend.serving.model_queue import ModelQueue, Task


def make_task(deadline: float, payload: bytes = b"x") -> Task:
    return Task(payload, deadline)


@given(st.lists(st.floats(1, 100), max_size=50), st.integers(1, 10))
def test_draws_by_deadline_in_batches(deadlines: list[float], most: int) -> None:
    queue = ModelQueue()
    for deadline in deadlines:
        assert queue.put(make_task(deadline))
    drawn = []
    while batch := queue.draw(most, now=0.0):
        assert len(batch) <= most
        drawn += [task.deadline for task in batch]
    assert drawn == sorted(deadlines)
    assert len(queue) == 0


def test_equal_deadlines_keep_their_order() -> None:
    queue = ModelQueue()
    tasks = [make_task(5.0) for _ in range(20)]
    for task in tasks:
        queue.put(task)
    assert queue.draw(20, 0.0) == tasks


def test_passes_over_the_expired() -> None:
    queue = ModelQueue()
    late, timely = make_task(1.0), make_task(2.0)
    queue.put(late)
    queue.put(timely)
    assert queue.draw(10, now=1.0) == [timely]
    assert not late.queued


def test_passes_over_what_nobody_waits_for() -> None:
    queue = ModelQueue()
    task = make_task(1.0)
    queue.put(task)
    task.is_waiting = False
    assert queue.draw(1, 0.0) == []
    assert len(queue) == 0


def test_draws_what_only_others_wait_for() -> None:
    queue = ModelQueue()
    task, other = make_task(1.0), make_task(3.0)
    queue.put(task)
    other.join(task, queue)
    task.is_waiting = False
    assert queue.draw(1, now=2.0) == [task]


def test_lets_those_go_first_that_can_still_be_in_time() -> None:
    queue = ModelQueue()
    late, timely, later = make_task(1.0), make_task(2.0), make_task(3.0)
    for task in (late, timely, later):
        queue.put(task)
    assert queue.draw(1, now=0.0, seconds=1.5) == [timely]
    assert queue.draw(5, now=0.0, seconds=1.5) == [later]
    assert late.queued
    assert len(queue) == 1


def test_if_all_would_be_late_those_with_the_most_time_go() -> None:
    queue = ModelQueue()
    tasks = [make_task(deadline) for deadline in (1.0, 2.0, 3.0, 4.0)]
    for task in tasks:
        queue.put(task)
    queue.expedite(tasks[3], 2.5)
    queue.expedite(tasks[2], 3.5)
    assert queue.draw(2, now=0.0, seconds=9.0) == [tasks[3], tasks[2]]
    assert queue.draw(5, now=0.0) == tasks[:2]
    assert len(queue) == 0


def test_knows_the_first_deadline() -> None:
    queue = ModelQueue()
    first, second = make_task(1.0), make_task(2.0)
    queue.put(second)
    queue.put(first)
    assert queue.first_deadline() == 1.0
    queue.drop(first)
    assert queue.first_deadline() == 2.0


@given(st.lists(st.floats(1, 100), max_size=50), st.integers(1, 10), st.floats(0, 100))
def test_draws_each_once_whatever_a_batch_takes(deadlines: list[float], most: int, seconds: float) -> None:
    queue = ModelQueue()
    for deadline in deadlines:
        queue.put(make_task(deadline))
    drawn = []
    while batch := queue.draw(most, 0.0, seconds):
        assert len({task.deadline > seconds for task in batch}) == 1
        drawn += [task.deadline for task in batch]
    assert sorted(drawn) == sorted(deadlines)
    assert len(queue) == 0


def test_is_bounded_in_number_and_bytes() -> None:
    queue = ModelQueue(max_tasks=2, max_bytes=100)
    assert queue.put(make_task(1.0, b"x" * 60))
    assert not queue.put(make_task(1.0, b"x" * 60))
    assert queue.put(make_task(1.0, b"x" * 30))
    assert not queue.put(make_task(1.0, b""))
    queue.draw(1, 0.0)
    assert queue.put(make_task(1.0))


def test_a_hurried_task_is_drawn_earlier_and_once() -> None:
    queue = ModelQueue()
    patient, other = make_task(10.0), make_task(5.0)
    queue.put(patient)
    queue.put(other)
    queue.expedite(patient, 1.0)
    assert queue.draw(10, 0.0) == [patient, other]
    assert len(queue) == 0


def test_dropped_tasks_leave_no_memory_behind() -> None:
    queue = ModelQueue()
    kept = make_task(1.0)
    queue.put(kept)
    for _ in range(1000):
        task = make_task(50.0)
        queue.put(task)
        queue.drop(task)
        queue.drop(task)
    assert len(queue) == 1
    assert len(queue._entries) < 200
    assert queue.draw(10, 0.0) == [kept]


def test_clear_gives_each_task_once() -> None:
    queue = ModelQueue()
    task = make_task(3.0)
    queue.put(task)
    queue.expedite(task, 2.0)
    assert list(queue.clear()) == [task]
    assert len(queue) == 0


def test_put_back_ignores_the_bound() -> None:
    queue = ModelQueue(max_tasks=0)
    task = make_task(1.0)
    assert not queue.put(task)
    queue.put_back(task)
    assert queue.draw(1, 0.0) == [task]


def test_a_task_and_those_that_joined_wait_once() -> None:
    queue = ModelQueue()
    task, other, gone = make_task(1.0), make_task(2.0), make_task(0.5)
    other.join(task, queue)
    gone.join(task, queue)
    assert task.deadline == 2.0
    assert gone.withdraw() is task
    assert task.withdraw() is task
    assert task.take_waiting() == [task, other]
    assert task.take_waiting() == [task]
    assert other.withdraw() is task
    assert queue.num_joined == 0
