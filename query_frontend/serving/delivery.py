"""Gives the outputs of a model version to its cache and to the tasks that wait for them, or the reason for having none.

A delivery of a few milliseconds is made at once. A longer one is made in steps, between which the event loop does its
other work.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Any, Final

from clipper_common import jsontext, long_work
from clipper_common.constants import SIZE_LIMITS
from clipper_common.datatypes import View
from clipper_common.wire import Response
from query_frontend.serving import large_outputs
from query_frontend.serving.answers import LARGE_OUTPUT_BYTES, embed_large
from query_frontend.serving.cache import CachePartition, PredictionCache
from query_frontend.serving.model_queue import Task

STEP_TASKS: Final = 64
"""The most tasks that get their outputs in one step: less than a millisecond, with what is written to their clients."""
STEP_BYTES: Final = 1 << 16
"""No more outputs are delivered at once, unless a single one is larger."""
_FEW_WAITING: Final = 8
"""The most tasks that wait for one output and get it in the same step, which delivers those of many tasks."""
_SMALLEST_LIMIT: Final = SIZE_LIMITS[0]

Value = bytes | str
"""An output as JSON, or the reason for having none."""


class Delivery:
    """A delivery gives out the outputs of a registered model version, which may be of `max_output_bytes` each."""

    def __init__(self, cache: PredictionCache, partition: CachePartition, max_output_bytes: int) -> None:
        self._cache = cache
        self._partition = partition
        self._max_output_bytes = max_output_bytes
        self._keeps = cache.enabled
        """Whether outputs are put into the cache."""

    def close(self) -> None:
        """Forget all outputs, and put no more into the cache."""
        self._keeps = False
        self._cache.forget(self._partition)

    def deliver(self, tasks: list[Task], response: Response, raised: str, size: int) -> Iterator[None] | None:
        """Give outputs, which are of `size` bytes, to their tasks. Return the steps that are left, if it takes long.

        The reason for having no output begins with `raised`.
        """
        if size > STEP_BYTES:
            return self._deliver_large(tasks, response, raised)
        until = inf if len(tasks) <= STEP_TASKS else monotonic() + long_work.seconds_left()
        outputs: Any = response.outputs  # only large ones are views
        values = self._values(tasks, outputs, response.failed, raised, size)
        given = self._give(tasks, values, 0, until)
        return None if given == len(tasks) else self._give_rest(tasks, values, given)

    def _deliver_large(self, tasks: list[Task], response: Response, raised: str) -> Iterator[None]:
        for begin, end in _parts(response.outputs):
            if begin:
                yield
            part, failed = tasks[begin:end], response.failed[begin:end]
            outputs = list(map(bytes, response.outputs[begin:end]))
            size = sum(map(len, outputs))
            embedded = None
            if STEP_BYTES < size <= self._max_output_bytes and not failed[0]:  # it is only one
                embedded = yield from large_outputs.embed(outputs[0])
            values = self._values(part, outputs, failed, raised, size, embedded)
            yield from self._give_rest(part, values, self._give(part, values, 0, 0.0))

    def _values(
        self,
        tasks: list[Task],
        outputs: list[bytes],
        failed: list[bool],
        raised: str,
        size: int,
        embedded: bytes | None = None,
    ) -> list[Value]:
        """Return what each task gets, and keep the outputs. A single one that is large was `embedded` before."""
        if size > _SMALLEST_LIMIT and size > self._max_output_bytes:
            outputs, failed = _without_oversized(outputs, failed, self._max_output_bytes)
        embed = jsontext.embed if size < LARGE_OUTPUT_BYTES else embed_large
        if embedded is not None:
            values: list[Value] = [embedded]
        elif any(failed):
            values = [
                raised + output.decode(errors="replace") if has_failed else embed(output)
                for output, has_failed in zip(outputs, failed, strict=True)
            ]
        else:
            values = list(map(embed, outputs))
        if self._keeps:
            keys = [task.key for task, value in zip(tasks, values, strict=True) if isinstance(value, bytes)]
            self._cache.put(self._partition, keys, [value for value in values if isinstance(value, bytes)])
        return values

    def _give(self, tasks: list[Task], values: list[Value], begin: int, until: float) -> int:
        """Give values to their tasks from `begin` on: to `STEP_TASKS` of them, and to others before the time `until`.

        Return where those begin that have got none.
        """
        least = begin + STEP_TASKS
        for index in range(begin, len(tasks)):
            now = monotonic()
            if index >= least and now >= until:
                return index
            task, value = tasks[index], values[index]
            if task.joined is None and type(value) is bytes:
                task.resolve(value, "", now)  # `_resolve_all` in place: this runs for every query
            elif isinstance(value, bytes):
                _resolve_all(task, value, "")
            else:
                self._partition.remove_in_flight(task.key, task)
                _resolve_all(task, None, value)
        return len(tasks)

    def _give_rest(self, tasks: list[Task], values: list[Value], given: int) -> Iterator[None]:
        while given < len(tasks):
            yield
            given = self._give(tasks, values, given, 0.0)

    def fail_tasks(self, tasks: list[Task], why: Callable[[Task], str]) -> Iterator[None]:
        """Give tasks for which there is no output the reason that `why` tells of each, in steps."""
        for begin in range(0, len(tasks), STEP_TASKS):
            if begin:
                yield
            for task in tasks[begin : begin + STEP_TASKS]:
                self._partition.remove_in_flight(task.key, task)
                _resolve_all(task, None, why(task))


def _parts(outputs: Sequence[View]) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a batch begin and end, each of at most `STEP_BYTES` or a single output."""
    begin = size = 0
    for index, output in enumerate(outputs):
        if size + len(output) > STEP_BYTES and index > begin:
            yield begin, index
            begin, size = index, 0
        size += len(output)
    yield begin, len(outputs)


def _resolve_all(task: Task, output: bytes | None, reason: str) -> None:
    """Resolve a task and all that joined it, of which there may be thousands, with the output or the reason why there
    is none."""
    waiting = task.take_waiting()
    if len(waiting) <= _FEW_WAITING:
        _give(waiting, output, reason)
    else:
        long_work.start_soon(_give_in_steps(waiting, output, reason))


def _give_in_steps(waiting: list[Task], output: bytes | None, reason: str) -> Iterator[None]:
    for begin in range(0, len(waiting), STEP_TASKS):
        _give(waiting[begin : begin + STEP_TASKS], output, reason)
        yield


def _give(waiting: list[Task], output: bytes | None, reason: str) -> None:
    for task in waiting:
        task.resolve(output, reason, monotonic())


def _without_oversized(outputs: list[bytes], failed: list[bool], most: int) -> tuple[list[bytes], list[bool]]:
    """Return the outputs and whether each has failed, with an error instead of each output that is larger than
    allowed."""
    outputs, failed = list(outputs), list(failed)
    for index, output in enumerate(outputs):
        if len(output) > most:
            text = f"OutputError: an output is of {len(output)} bytes, and the most are {most}"
            outputs[index], failed[index] = text.encode(), True
    return outputs, failed
