"""The inputs of batches with which a replica died, in parts that are tried apart from each other."""

from collections import deque

from query_frontend.serving.model_queue import Task


class Suspects:
    """The parts of lost batches that are to be tried, the next one first."""

    def __init__(self) -> None:
        self.parts: deque[list[Task]] = deque()

    def add_halves(self, tasks: list[Task]) -> None:
        """Add the halves of a lost batch. Of a part that is lost again, halves are added again."""
        half = (len(tasks) + 1) // 2
        self.parts.extend(part for part in (tasks[:half], tasks[half:]) if part)

    def has(self, task: Task) -> bool:
        return any(task in part for part in self.parts)

    def next_is_relayed(self) -> bool:
        """Whether a task of the next part was relayed here."""
        return any(task.is_relayed for task in self.parts[0])

    def pop_part(self, now: float) -> tuple[list[Task], list[Task]]:
        """Remove the next part. Return its tasks that are still waited for, and those that are not."""
        awaited: list[Task] = []
        unwanted: list[Task] = []
        for task in self.parts.popleft():
            is_awaited = (task.is_waiting or task.joined) and task.deadline > now
            (awaited if is_awaited else unwanted).append(task)
        return awaited, unwanted

    def remove(self, only_relayed: bool) -> list[Task]:
        """Remove and return all tasks, or only those that were relayed here."""
        removed: list[Task] = []
        for part in self.parts:
            removed += (task for task in part if task.is_relayed or not only_relayed)
            part[:] = (task for task in part if only_relayed and not task.is_relayed)
        return removed
