"""One request -> a task for each input -> an answer for each by the deadline: the model's, or the default."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from clipper_common.datatypes import ModelId
from query_frontend.model_queue import Task
from query_frontend.registry import AppState
from query_frontend.schemas import Answer
from query_frontend.task_executor import NO_MODELS, TaskExecutor

SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"

_TIMER_SECONDS: Final = 0.001
"""Resolution of the event loop's timers: so much later they fire, lest they fire too early."""


class Query:
    """The inputs of one request, each of which gets exactly one answer."""

    def __init__(self, app: AppState, model: ModelId, inputs: int) -> None:
        self.app = app
        self.model = model
        self.answers: list[Answer | None] = [None] * inputs
        self.missing = inputs
        self.done: asyncio.Future[None] | None = None
        """Only made when something has to be waited for."""

    def resolve(self, index: int, output: bytes | None, reason: str | None) -> None:
        if self.answers[index] is not None:
            return
        if output is None:
            self.answers[index] = self.app.default_answer(reason)
        else:
            self.answers[index] = Answer(output, self.model)
        self.missing -= 1
        if not self.missing and self.done is not None and not self.done.done():
            self.done.set_result(None)

    def expire(self) -> None:
        for index, answer in enumerate(self.answers):
            if answer is None:
                self.resolve(index, None, SLO_MISSED)


class QueryProcessor:
    def __init__(self, loop: asyncio.AbstractEventLoop, executor: TaskExecutor) -> None:
        self._loop = loop
        self._executor = executor

    async def predict(
        self, app: AppState, model: ModelId | None, inputs: Sequence[bytes], arrival: float
    ) -> list[Answer]:
        """Answer `inputs` by `model`, at the latest when the application's SLO is over since `arrival`."""
        if model is None:
            return [app.default_answer(NO_MODELS)] * len(inputs)
        query = Query(app, model, len(inputs))
        deadline = arrival + app.slo_seconds
        tasks = [self._executor.submit(model, item, deadline, query, i) for i, item in enumerate(inputs)]
        if query.missing:
            await self._wait(query, tasks, deadline)
        return [answer for answer in query.answers if answer is not None]

    async def _wait(self, query: Query, tasks: Sequence[Task | None], deadline: float) -> None:
        query.done = self._loop.create_future()
        delay = deadline - time.monotonic() + _TIMER_SECONDS
        timer = self._loop.call_later(max(delay, 0.0), query.expire)
        try:
            await query.done
        finally:  # also when the client hung up, which cancels us
            timer.cancel()
            for index, task in enumerate(tasks):
                if task is not None and not _answered_by_model(query.answers[index]):
                    self._executor.leave(task, query, index, query.model)


def _answered_by_model(answer: Answer | None) -> bool:
    return answer is not None and answer.explanation is None
