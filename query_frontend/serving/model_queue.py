"""The queue of a model version: tasks in the order of their deadlines, bounded in number and bytes."""

from bisect import insort
from collections.abc import Iterable
from heapq import merge
from math import inf

from clipper_common.constants import MAX_QUEUED_BYTES, MAX_QUEUED_QUERIES
from query_frontend.serving.cache import Key
from query_frontend.serving.waiting import BatchClients


class Task:
    """An input on its way through a model version, with the tasks that joined it and wait for the same output.

    A query is a task itself, of a class with its own `resolve`: most inputs are asked for once, so a waiter beside the
    task would be one object more for each query.
    """

    __slots__ = (
        "arrival",
        "clients",
        "counting_queue",
        "deadline",
        "host",
        "joined",
        "key",
        "payload",
        "queued",
        "sends",
        "sent_at",
        "is_waiting",
    )
    is_relayed = False
    """Whether another frontend relayed the task here. Then it is not relayed on, and does not join a task that may
    be."""

    def __init__(self, payload: bytes, deadline: float, arrival: float = -inf) -> None:
        self.arrival = arrival
        """Monotonic time at which the task began to wait. The default, the infinite past, makes no batch delay keep
        it."""
        self.payload = payload
        self.key: Key = payload
        self.deadline = deadline
        """The latest of its own deadline and those of the tasks that joined it."""
        self.is_waiting = True
        """Whether the task itself waits for the output, besides those that joined it."""
        self.counting_queue: ModelQueue
        """The queue that counts the task, once the task has joined another."""
        self.host: Task | None = None
        """The task that gets the output for this one, if it joined one."""
        self.joined: dict[Task, None] | None = None
        """The tasks that joined it, in their order. It is a dictionary, since any of thousands may leave."""
        self.queued = False
        self.sends = 0
        self.sent_at: float | None = None
        """Monotonic time since which a replica has the task; None if none has it."""
        self.clients: BatchClients | None = None
        """The clients of the batch that the task was sent with; its own is one of them."""

    def resolve(self, output: bytes | None, reason: str, now: float) -> None:
        """Receive the output, or the reason why there is none. A call after the task has stopped waiting must be
        ignored."""
        self.is_waiting = False

    def take_waiting(self) -> list["Task"]:
        """Return all tasks that wait for the output, this one and those that joined it, and forget the latter."""
        joined, self.joined = self.joined, None
        if not joined:
            return [self]
        next(iter(joined)).counting_queue.num_joined -= len(joined)
        return [self, *joined]

    def join(self, host: "Task", counting_queue: "ModelQueue") -> None:
        """Wait for what `host` gets, as one of those that `counting_queue` counts."""
        self.host = host
        self.counting_queue = counting_queue
        self.payload, self.key = host.payload, host.key  # equal, and thousands may join
        counting_queue.num_joined += 1
        host.deadline = max(host.deadline, self.deadline)
        if host.joined is None:
            host.joined = {}
        host.joined[self] = None

    def withdraw(self) -> "Task":
        """Stop waiting for the output. Return the task that gets it: this one, or the one that it joined."""
        if self.host is None:
            return self
        if self.host.joined is not None and self in self.host.joined:
            del self.host.joined[self]
            self.counting_queue.num_joined -= 1
        return self.host


Entry = tuple[float, Task]
"""A task with the deadline that orders it. A task has several entries if a less patient one joined it."""


class ModelQueue:
    """The tasks of a model version, earliest deadline first. Tasks that nobody waits for any more, or that have
    expired, are skipped."""

    def __init__(self, max_tasks: int = MAX_QUEUED_QUERIES, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        """The tasks in the order of deadlines. Nearly all arrive in that order, which is why a list is cheaper than a
        heap."""
        self._tasks = 0
        self._bytes = 0
        self.num_joined = 0
        """The number of tasks that joined another, whether that one is queued or with a replica."""

    def __len__(self) -> int:
        return self._tasks

    def put(self, task: Task) -> bool:
        """Queue `task`. Return False when there is no room."""
        entries, deadline, size = self._entries, task.deadline, self._bytes + len(task.payload)
        if self._tasks >= self._max_tasks or size > self._max_bytes:
            return False
        task.queued = True  # `put_back` in place: this runs for every query
        self._tasks += 1
        self._bytes = size
        if not entries or entries[-1][0] <= deadline:
            entries.append((deadline, task))
        else:
            self.expedite(task, deadline)
        return True

    def let_join(self, task: Task, host: Task) -> bool:
        """Let `task` wait for the output of `host`. Return False when as many tasks have joined others as may be
        queued."""
        if self.num_joined >= self._max_tasks:
            return False
        if host.queued and task.deadline < host.deadline:
            self.expedite(host, task.deadline)
        task.join(host, self)
        return True

    def put_back(self, task: Task) -> None:
        """Queue a task that had its room already."""
        task.queued = True
        self._tasks += 1
        self._bytes += len(task.payload)
        self.expedite(task, task.deadline)

    def expedite(self, task: Task, deadline: float) -> None:
        """Order a queued task by an earlier deadline too, since a less patient task joined it."""
        insort(self._entries, (deadline, task), key=_deadline)

    def first_deadline(self) -> float:
        """Return the deadline of the first task. There must be one."""
        return next(deadline for deadline, task in self._entries if task.queued)

    def last_deadline(self) -> float:
        """Return the deadline of the last task. There must be one."""
        return next(deadline for deadline, task in reversed(self._entries) if task.queued)

    def first_arrival(self) -> float:
        """Return the arrival of the task that came first. There must be one."""
        return min(task.arrival for _, task in self._entries if task.queued)

    def draw(self, most: int, now: float, seconds: float = 0.0, for_relay: bool = False) -> list[Task]:
        """Remove and return at most `most` tasks that can still be answered in time, if that takes `seconds`.

        If there is none, return those with the most time left, since the estimate of `seconds` may be wrong. With
        `for_relay`, no task is returned that was relayed here.
        """
        if for_relay:
            return self._draw_unrelayed(most, now, seconds)
        drawn: list[Task] = []
        late: list[Entry] = []
        in_time = now + seconds
        looked_at = size = 0
        for entry in self._entries:
            looked_at += 1
            task = entry[1]
            if not task.queued:
                continue
            is_awaited = task.is_waiting or task.joined
            if is_awaited and task.deadline > in_time:
                task.queued = False  # `_remove` in place: this runs for every query
                size += len(task.payload)
                drawn.append(task)
                if len(drawn) >= most:
                    break
            elif is_awaited and task.deadline > now:
                late.append(entry)
            else:
                self._remove(task)
        self._tasks -= len(drawn)
        self._bytes -= size
        if late and not drawn:
            drawn = self._take_last(late, most)
        self._entries[:looked_at] = late
        return drawn

    def _draw_unrelayed(self, most: int, now: float, seconds: float) -> list[Task]:
        relayed = [entry for entry in self._entries if entry[1].is_relayed]
        self._entries = [entry for entry in self._entries if not entry[1].is_relayed]
        drawn = self.draw(most, now, seconds)
        self._entries = list(merge(self._entries, relayed, key=_deadline))
        return drawn

    def _take_last(self, late: list[Entry], most: int) -> list[Task]:
        drawn: list[Task] = []
        while late and len(drawn) < most:
            task = late.pop()[1]
            if task.queued:  # it is there twice when somebody less patient joined
                self._remove(task)
                drawn.append(task)
        return drawn

    def drop(self, task: Task) -> None:
        """Remove a task that nobody waits for. Its entry stays until most entries are of such tasks."""
        if not task.queued:
            return
        self._remove(task)
        if len(self._entries) > 64 and len(self._entries) > 2 * self._tasks:
            self._entries = [entry for entry in self._entries if entry[1].queued]

    def clear(self, only_relayed: bool = False) -> Iterable[Task]:
        """Remove and return all tasks, or only those that were relayed here."""
        tasks = {id(task): task for _, task in self._entries if task.queued and (task.is_relayed or not only_relayed)}
        for task in tasks.values():
            self._remove(task)
        self._entries = [entry for entry in self._entries if entry[1].queued]
        return tasks.values()

    def _remove(self, task: Task) -> None:
        task.queued = False
        self._tasks -= 1
        self._bytes -= len(task.payload)


def _deadline(entry: Entry) -> float:
    return entry[0]
