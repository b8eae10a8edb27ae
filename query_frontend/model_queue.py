"""What waits for a model version: tasks in the order of their deadlines, bounded in number and bytes."""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Protocol

from clipper_common.constants import MAX_QUEUED_BYTES, MAX_QUEUED_QUERIES


class Waiter(Protocol):
    """Who wants to know the outcome of a task."""

    def resolve(self, output: bytes | None, reason: str) -> None:
        """Take the output, or the reason why there is none."""


class Task:
    """An input on its way through a model version, and everyone who waits for its output."""

    __slots__ = ("deadline", "payload", "queued", "sends", "sent_at", "waiters")

    def __init__(self, payload: bytes, deadline: float, waiter: Waiter) -> None:
        self.payload = payload
        self.deadline = deadline
        """Of the most patient waiter."""
        self.waiters = [waiter]
        self.queued = False
        self.sends = 0
        self.sent_at: float | None = None
        """Since when it is with a replica, if it is."""

    def leave(self, waiter: Waiter) -> None:
        """`waiter` has no more use for the output."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    def resolve(self, output: bytes | None, reason: str = "") -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.resolve(output, reason)


class ModelQueue:
    """Earliest deadline first. Tasks that nobody waits for any more, or too late to answer, are passed over."""

    def __init__(self, max_tasks: int = MAX_QUEUED_QUERIES, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._heap: list[tuple[float, int, Task]] = []
        self._pushes = 0
        self._tasks = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._tasks

    def put(self, task: Task) -> bool:
        """Queue `task`; False when there is no room."""
        if self._tasks >= self._max_tasks or self._bytes + len(task.payload) > self._max_bytes:
            return False
        task.queued = True  # `put_back` in place: this runs for every query
        self._tasks += 1
        self._bytes += len(task.payload)
        self._pushes += 1
        heappush(self._heap, (task.deadline, self._pushes, task))
        return True

    def put_back(self, task: Task) -> None:
        """Queue a task that had its room already."""
        task.queued = True
        self._tasks += 1
        self._bytes += len(task.payload)
        self._push(task.deadline, task)

    def hurry(self, task: Task, deadline: float) -> None:
        """Let a queued task be drawn by an earlier deadline too: someone less patient joined."""
        self._push(deadline, task)

    def first_deadline(self) -> float:
        """Of what it holds, which must be something."""
        while not self._heap[0][2].queued:
            heappop(self._heap)
        return self._heap[0][0]

    def draw(self, most: int, now: float, seconds: float = 0.0) -> list[Task]:
        """Take at most `most` tasks that can still be answered in time, if that takes `seconds`.

        If there is none, take those with the most time left: what was expected of the model may be wrong.
        """
        drawn: list[Task] = []
        late: list[tuple[float, int, Task]] = []
        while self._heap and len(drawn) < most:
            entry = heappop(self._heap)
            task = entry[2]
            if not task.queued:
                continue
            if task.deadline > now + seconds and task.waiters:
                self._remove(task)
                drawn.append(task)
            elif task.deadline > now and task.waiters:
                late.append(entry)
            else:
                self._remove(task)
        if late and not drawn:
            return self._draw_late(late, most)
        for entry in late:
            heappush(self._heap, entry)
        return drawn

    def _draw_late(self, late: list[tuple[float, int, Task]], most: int) -> list[Task]:
        """Take the last ones of `late`, which is all there is."""
        drawn: list[Task] = []
        while late and len(drawn) < most:
            task = late.pop()[2]
            if task.queued:  # it is there twice when somebody less patient joined
                self._remove(task)
                drawn.append(task)
        self._heap = late  # in order, so it is a heap
        return drawn

    def drop(self, task: Task) -> None:
        """Forget a task that nobody waits for. Its place in the heap goes when the heap is mostly such places."""
        if not task.queued:
            return
        self._remove(task)
        if len(self._heap) > 64 and len(self._heap) > 2 * self._tasks:
            self._heap = [entry for entry in self._heap if entry[2].queued]
            heapify(self._heap)

    def clear(self) -> Iterable[Task]:
        """Take out everything."""
        tasks = {id(entry[2]): entry[2] for entry in self._heap if entry[2].queued}
        for task in tasks.values():
            self._remove(task)
        self._heap.clear()
        return tasks.values()

    def _push(self, deadline: float, task: Task) -> None:
        self._pushes += 1
        heappush(self._heap, (deadline, self._pushes, task))

    def _remove(self, task: Task) -> None:
        task.queued = False
        self._tasks -= 1
        self._bytes -= len(task.payload)
