"""One request -> a task for each input -> an answer for each by the deadline: the model's, or the default."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from clipper_common.datatypes import ModelId
from query_frontend.deadlines import DeadlineWheel
from query_frontend.model_queue import Task
from query_frontend.registry import AppState
from query_frontend.task_executor import NO_MODELS, TaskExecutor

SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"


class QueryContext(NamedTuple):
    """What all queries need."""

    executor: TaskExecutor
    wheel: DeadlineWheel


class Query:
    """The inputs of one request, each of which gets exactly one answer, at the latest when the SLO is over.

    It is asked when it is made. If answers are missing then, `done` is called with it when the last one came.
    """

    __slots__ = ("_context", "_defaults", "_done", "_slot", "_tasks", "answers", "app", "arrival", "missing", "model")

    def __init__(
        self,
        context: QueryContext,
        app: AppState,
        model: ModelId | None,
        inputs: Sequence[bytes],
        arrival: float,
        done: Callable[["Query"], None],
    ) -> None:
        self._context = context
        self.app = app
        self.model = model
        self.arrival = arrival
        """When the request came, by the monotonic clock."""
        self.missing = len(inputs)
        """How many answers are not there yet."""
        self.answers: list[Any] = [None] * self.missing
        """An `Answer` for each input, None as long as it is not there."""
        self._defaults = 0
        self._tasks: list[Task | None] = []
        self._done: Callable[[Query], None] | None = None
        self._ask(inputs)
        if self.missing:
            self._done = done
            self._slot = context.wheel.add(self, arrival + app.slo_seconds)

    def _ask(self, inputs: Sequence[bytes]) -> None:
        if self.model is None:
            for index in range(len(inputs)):
                self.resolve(index, None, NO_MODELS)
            return
        submit = self._context.executor.submit
        deadline = self.arrival + self.app.slo_seconds
        for index, item in enumerate(inputs):
            self._tasks.append(submit(self.model, item, deadline, self, index))

    @property
    def answering_model(self) -> ModelId | None:
        """The model version, if it answered at least one of the inputs."""
        return self.model if self._defaults < len(self.answers) else None

    def resolve(self, index: int, output: bytes | None, reason: str) -> None:
        """Take the answer to an input: the model's output, or a reason for the default."""
        if self.answers[index] is not None:
            return
        if output is None:
            self.answers[index] = self.app.default_answer(reason)
            self._defaults += 1
        else:
            self.answers[index] = output
        self.missing -= 1
        if not self.missing:
            self._finish()

    def expire(self) -> None:
        """The deadline is over."""
        self._leave()
        for index in range(len(self.answers)):
            self.resolve(index, None, SLO_MISSED)

    def abandon(self) -> None:
        """Forget what is not answered yet: the client is gone. `done` is not called any more."""
        if self._done is not None:
            self._done = None
            self._context.wheel.remove(self, self._slot)
            self._leave()

    def _leave(self) -> None:
        for index, task in enumerate(self._tasks):
            if task is not None and self.answers[index] is None and self.model is not None:
                self._context.executor.leave(task, self, index, self.model)

    def _finish(self) -> None:
        self.app.metrics.add_answers(len(self.answers), self._defaults, time.monotonic() - self.arrival)
        done, self._done = self._done, None
        if done is not None:
            self._context.wheel.remove(self, self._slot)
            done(self)
