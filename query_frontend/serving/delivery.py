"""Gives the outputs of a model version to its cache and to the tasks that wait for them, or the reason for having none.

What is small is delivered at once, and all else in steps, between which others have their turn of the event loop.
"""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Final

from clipper_common import jsontext, long_work
from clipper_common.constants import SIZE_LIMITS
from clipper_common.wire import Response
from query_frontend.serving import large_outputs
from query_frontend.serving.answers import LARGE_OUTPUT_BYTES, embed_large
from query_frontend.serving.cache import CachePartition, PredictionCache
from query_frontend.serving.model_queue import Task

STEP_TASKS: Final = 64
"""This many tasks get their outputs in about a millisecond, with what is written to their clients."""
STEP_BYTES: Final = 1 << 16
"""No more outputs are delivered at once, unless a single one is larger."""
_FEW_WAITING: Final = 8
"""This many who wait for one task get its output at once, since a step delivers those of many tasks."""
_SMALLEST_LIMIT: Final = SIZE_LIMITS[0]


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

    def deliver(self, tasks: list[Task], response: Response, raised: str, size: int, embedded: bytes | None) -> None:
        """Give outputs, which are of `size` bytes, to their tasks. A single one that is large was `embedded` before.

        The reason for having no output begins with `raised`.
        """
        outputs: Sequence[bytes] = response.outputs
        if size > _SMALLEST_LIMIT and size > self._max_output_bytes:
            response = _without_oversized(response, self._max_output_bytes)
        if any(response.failed):
            self._deliver_failures(tasks, response, raised)
            answered = [index for index, failed in enumerate(response.failed) if not failed]
            tasks, outputs = [tasks[index] for index in answered], [outputs[index] for index in answered]
        if embedded is None:
            values = list(map(jsontext.embed if size < LARGE_OUTPUT_BYTES else embed_large, outputs))
        else:
            values = [embedded]
        if self._keeps:
            self._cache.put(self._partition, [task.key for task in tasks], values)
        for task, value in zip(tasks, values, strict=True):
            if task.joined is None:
                task.take(value, "", monotonic())  # `_resolve` in place: this runs for every query
            else:
                _resolve(task, value, "")

    def _deliver_failures(self, tasks: list[Task], response: Response, raised: str) -> None:
        for task, output, failed in zip(tasks, response.outputs, response.failed, strict=True):
            if failed:
                self._partition.give_up(task.key, task)
                _resolve(task, None, raised + output.decode(errors="replace"))

    def deliver_in_steps(self, tasks: list[Task], response: Response, raised: str) -> Iterator[None]:
        """As `deliver`, for a large batch."""
        for begin, end in _parts(response.outputs):
            if begin:
                yield
            part = Response(response.message_id, response.outputs[begin:end], response.failed[begin:end])
            size = sum(map(len, part.outputs))
            embedded = None
            if STEP_BYTES < size <= self._max_output_bytes and not part.failed[0]:  # it is only one
                embedded = yield from large_outputs.embed(part.outputs[0])
            self.deliver(tasks[begin:end], part, raised, size, embedded)

    def give_up(self, tasks: list[Task], why: Callable[[Task], str]) -> Iterator[None]:
        """Give tasks for which there is no output the reason that `why` tells of each, in steps."""
        for begin in range(0, len(tasks), STEP_TASKS):
            if begin:
                yield
            for task in tasks[begin : begin + STEP_TASKS]:
                self._partition.give_up(task.key, task)
                _resolve(task, None, why(task))


def _parts(outputs: list[bytes]) -> Iterator[tuple[int, int]]:
    """Where the parts of a batch begin and end that are delivered in one step each."""
    begin = size = 0
    for index, output in enumerate(outputs):
        if index - begin == STEP_TASKS or size + len(output) > STEP_BYTES and index > begin:
            yield begin, index
            begin, size = index, 0
        size += len(output)
    yield begin, len(outputs)


def _resolve(task: Task, output: bytes | None, reason: str) -> None:
    """Give the output, or the reason why there is none, to everyone who waits: thousands may have joined the task."""
    waiting = task.take_waiting()
    if len(waiting) <= _FEW_WAITING:
        _give(waiting, output, reason)
    else:
        long_work.start(_give_in_steps(waiting, output, reason))


def _give_in_steps(waiting: list[Task], output: bytes | None, reason: str) -> Iterator[None]:
    for begin in range(0, len(waiting), STEP_TASKS):
        _give(waiting[begin : begin + STEP_TASKS], output, reason)
        yield


def _give(waiting: list[Task], output: bytes | None, reason: str) -> None:
    for task in waiting:
        task.take(output, reason, monotonic())


def _without_oversized(response: Response, most: int) -> Response:
    """Return the response with an error in the place of each output that is larger than outputs may be."""
    outputs, failed = list(response.outputs), list(response.failed)
    for index, output in enumerate(outputs):
        if len(output) > most:
            text = f"OutputError: an output is of {len(output)} bytes, and the most are {most}"
            outputs[index], failed[index] = text.encode(), True
    return response._replace(outputs=outputs, failed=failed)
