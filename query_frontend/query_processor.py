"""One request -> a task for each input -> an answer for each by the deadline: the model's, or the default."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from clipper_common.datatypes import ModelId
from query_frontend.deadlines import DeadlineWheel
from query_frontend.model_queue import Task
from query_frontend.registry import AppState
from query_frontend.schemas import Answer
from query_frontend.task_executor import NO_MODELS, TaskExecutor

SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"


class Query:
    """The inputs of one request, each of which gets exactly one answer."""

    __slots__ = (
        "_defaults",
        "_done",
        "_executor",
        "_slot",
        "_tasks",
        "_wheel",
        "answers",
        "app",
        "arrival",
        "missing",
        "model",
    )

    def __init__(
        self, executor: TaskExecutor, wheel: DeadlineWheel, app: AppState, model: ModelId | None, arrival: float
    ) -> None:
        self._executor = executor
        self._wheel = wheel
        self.app = app
        self.model = model
        self.arrival = arrival
        self.answers: list[Any] = []
        """An `Answer` for each input, None as long as it is not there."""
        self._tasks: list[Task | None] = []
        self.missing = 0
        """How many answers are not there yet."""
        self._defaults = 0
        self._slot = 0
        self._done: Callable[[Query], None] | None = None

    def begin(self, inputs: Sequence[bytes], done: Callable[["Query"], None]) -> None:
        """Ask for the answers. `done` is called when they are all there, but not if none is missing on return."""
        deadline = self.arrival + self.app.slo_seconds
        self.answers = [None] * len(inputs)
        self.missing = len(inputs)
        if self.model is None:
            for index in range(len(inputs)):
                self.resolve(index, None, NO_MODELS)
        else:
            submit = self._executor.submit
            self._tasks = [submit(self.model, item, deadline, self, i) for i, item in enumerate(inputs)]
        if self.missing:
            self._done = done
            self._slot = self._wheel.add(self, deadline)

    @property
    def answering_model(self) -> ModelId | None:
        """The model version, if it answered at least one of the inputs."""
        return self.model if self._defaults < len(self.answers) else None

    def resolve(self, index: int, output: bytes | None, reason: str | None) -> None:
        """Take the answer to an input: the model's output, or a reason for the default."""
        if self.answers[index] is not None:
            return
        if output is None:
            self.answers[index] = self.app.default_answer(reason)
            self._defaults += 1
        else:
            self.answers[index] = Answer(output, self.model)
        self.missing -= 1
        if not self.missing:
            self._finish()

    def expire(self) -> None:
        """The deadline is over."""
        self._leave()
        for index in range(len(self.answers)):
            self.resolve(index, None, SLO_MISSED)

    def abandon(self) -> None:
        """The client is gone. `done` is not called any more."""
        if self._done is not None:
            self._done = None
            self._wheel.remove(self, self._slot)
            self._leave()

    def _leave(self) -> None:
        """Have no more use for what is not answered yet."""
        if self.model is None:
            return
        for index, task in enumerate(self._tasks):
            if task is not None and self.answers[index] is None:
                self._executor.leave(task, self, index, self.model)

    def _finish(self) -> None:
        self.app.metrics.add_answers(len(self.answers), self._defaults, time.monotonic() - self.arrival)
        done, self._done = self._done, None
        if done is not None:
            self._wheel.remove(self, self._slot)
            done(self)


class QueryProcessor:
    def __init__(self, loop: asyncio.AbstractEventLoop, executor: TaskExecutor) -> None:
        self._executor = executor
        self.wheel = DeadlineWheel(loop)

    def make_query(self, app: AppState, model: ModelId | None, arrival: float) -> Query:
        """A query for `model`, which is answered at the latest when the SLO of `app` is over since `arrival`."""
        return Query(self._executor, self.wheel, app, model, arrival)

    async def wait_for(self, query: Query, inputs: Sequence[bytes]) -> None:
        """Return when all `inputs` are answered."""
        done = asyncio.Event()
        query.begin(inputs, lambda _: done.set())
        try:
            if query.missing:
                await done.wait()
        finally:  # also when the client hung up, which cancels us
            query.abandon()
