"""One input -> a task -> an answer by the deadline: the model's, or the default."""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from clipper_common.datatypes import ModelId
from query_frontend.deadlines import DeadlineWheel, Slot
from query_frontend.model_queue import Task
from query_frontend.registry import AppState
from query_frontend.schemas import Answer
from query_frontend.task_executor import NO_MODELS, TaskExecutor

SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"


class QueryContext(NamedTuple):
    """What all queries need."""

    executor: TaskExecutor
    wheel: DeadlineWheel


class Query(Task):
    """An input, which gets exactly one answer, at the latest when the application's SLO is over since `arrival`.

    It is asked when it is made. If there is no answer then, `done` is called with it when there is, and with the time.
    """

    __slots__ = ("_context", "_done", "_slot", "answer", "app", "arrival", "model")

    def __init__(
        self,
        context: QueryContext,
        app: AppState,
        model: ModelId | None,
        payload: bytes,
        arrival: float,
        done: Callable[["Query", float], None],
    ) -> None:
        self.payload = payload  # `super().__init__` in place: this runs for every query
        self.deadline = deadline = arrival + app.slo_seconds
        self.wanted = True
        self.host = self.joined = None
        self.queued = False
        self.sends = 0
        self.sent_at = None
        self._context = context
        self.app = app
        self.model = model
        self.arrival = arrival
        """When the request came, by the monotonic clock."""
        self.answer: Answer | None = None
        self._done: Callable[[Query, float], None] | None = None
        self._slot: Slot | None = None
        if model is None:
            self.take(None, NO_MODELS, arrival)
            return
        context.executor.submit(model, self)
        if self.answer is None:
            self._done = done
            self._slot = context.wheel.add(self, deadline)

    def take(self, output: bytes | None, reason: str, now: float) -> None:
        """Have the answer: the model's output, or a reason for the default."""
        if not self.wanted:
            return
        self.wanted = False
        app = self.app
        self.answer = output if output is not None else app.default_answer(reason)
        app.metrics.add_answer(output is None, now - self.arrival)
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
        if self._done is not None:
            done, self._done = self._done, None
            done(self, now)

    def expire(self) -> None:
        """The deadline is over."""
        self.take(None, SLO_MISSED, time.monotonic())
        self._leave()

    def abandon(self) -> None:
        """The client is gone. `done` is not called any more."""
        if self._slot is not None:
            self._done = None
            self._slot.pop(self, None)
            self._slot = None
            self.wanted = False
            self._leave()

    def _leave(self) -> None:
        if self.model is not None:
            self._context.executor.leave(self, self.model)


class Request:
    """The inputs of one HTTP request: a query for each, and `done` when the last of them is answered."""

    def __init__(
        self,
        context: QueryContext,
        app: AppState,
        model: ModelId | None,
        inputs: Sequence[bytes],
        arrival: float,
        done: Callable[[], None],
    ) -> None:
        self._done = done
        self._queries = [Query(context, app, model, item, arrival, self._on_answered) for item in inputs]
        self._missing = sum(query.answer is None for query in self._queries)
        if not self._missing:
            done()

    def _on_answered(self, _: Query, now: float) -> None:
        self._missing -= 1
        if not self._missing:
            self._done()

    @property
    def answers(self) -> list[Answer]:
        return [query.answer for query in self._queries if query.answer is not None]

    @property
    def answering_model(self) -> ModelId | None:
        """The model version, if it answered at least one of the inputs."""
        return next((query.model for query in self._queries if isinstance(query.answer, bytes)), None)

    def abandon(self) -> None:
        """The client is gone. `done` is not called any more."""
        for query in self._queries:
            query.abandon()
