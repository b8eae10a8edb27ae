"""Queries: each input of a request is a task, and gets an answer by its deadline, the model's or the default."""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Final, NamedTuple

from clipper_common.datatypes import ModelId
from clipper_common.long_work import Steps
from query_frontend.serving.answers import Answer, Waited
from query_frontend.serving.cache import Key
from query_frontend.serving.deadlines import DeadlineWheel, Slot
from query_frontend.serving.executor import Executor
from query_frontend.serving.model_queue import Task
from query_frontend.serving.reasons import NO_MODELS, SLO_MISSED, cause_of
from query_frontend.serving.registry import AppState, ArmState


class QueryContext:
    """A query context is the objects that all queries share."""

    def __init__(self, executor: Executor, wheel: DeadlineWheel) -> None:
        self.executor = executor
        self.wheel = wheel


class Query(Task):
    """An input of a request, which gets exactly one answer, at the latest when the SLO of the application is over since
    `arrival`.

    There is no answer before `submit`.
    """

    __slots__ = ("_context", "_done", "_slot", "answer", "app", "model_id")

    def __init__(
        self,
        context: QueryContext,
        app: AppState,
        model_id: ModelId | None,
        payload: bytes,
        arrival: float,
        key: Key | None = None,
    ) -> None:
        self.payload = payload  # `super().__init__` in place: this runs for every query
        self.key = payload if key is None else key
        self.is_waiting = True
        self.host = self.joined = None
        self.queued = False
        self.sends = 0
        self.sent_at = None
        self.clients = None
        self._context = context
        self.app = app
        self.model_id = model_id
        self.arrival = arrival
        """Monotonic time at which the request arrived."""
        self.deadline = self.arrival + self.app.slo_seconds
        self.answer: Answer | None = None
        self._done: Callable[[Query, float], None] | None = None
        self._slot: Slot | None = None

    def submit(self, done: Callable[["Query", float], None]) -> None:
        """Ask the model version. Without an `answer` on return, `done` is called later, with the query and the time."""
        context, model = self._context, self.model_id
        if model is None:
            self.resolve(None, NO_MODELS, self.arrival)
            return
        context.executor.submit(model, self)
        if self.answer is None:
            self._done = done
            self._slot = context.wheel.add(self, self.deadline)

    def resolve(self, output: bytes | None, reason: str, now: float) -> None:
        """Answer the query with the model's output or, if it is None, with the default and this reason."""
        if not self.is_waiting:
            return
        self.is_waiting = False
        app = self.app
        if output is not None:
            self.answer = output
            app.metrics.add_answer(now - self.arrival)
        else:
            self.answer = app.default_answer(reason, self._waited(now) if reason is SLO_MISSED else None)
            app.metrics.add_default(cause_of(reason), now - self.arrival)
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
        if self._done is not None:
            done, self._done = self._done, None
            done(self, now)

    def _waited(self, now: float) -> Waited:
        task = self.host or self
        sent_at = now if task.sent_at is None else min(max(task.sent_at, self.arrival), now)
        return Waited(sent_at - self.arrival, now - sent_at)

    def expire(self) -> None:
        """Answer with the default because the deadline has passed."""
        self.resolve(None, SLO_MISSED, monotonic())
        self._withdraw()

    def abandon(self) -> None:
        """Forget the query because its client has disconnected. `done` is no longer called."""
        if self._slot is not None:
            self._done = None
            self._slot.pop(self, None)
            self._slot = None
            self.is_waiting = False
            self._withdraw()

    def _withdraw(self) -> None:
        if self.model_id is not None:
            self._context.executor.withdraw(self, self.model_id)


class Explained(NamedTuple):
    """How one input was answered."""

    link: str | None
    """The link that the policy chose; None if the request named a version."""
    model: ModelId | None
    """The model version that was asked, if there was one."""
    seconds: float


_COUNTED_OUTPUT_BYTES: Final = 1 << 12
"""The most bytes of an output that is not counted while it waits for the others of its request."""
_STEP_QUERIES: Final = 64


class Request:
    """The inputs of one HTTP request. Each becomes a query, and `done` is called when the last of them is answered.

    `ask` makes and submits the queries. `hold` is called with the size of each large output, once if several inputs
    have the same.
    """

    def __init__(
        self,
        context: QueryContext,
        app: AppState,
        model_id: ModelId | None,
        arrival: float,
        done: Callable[[], None],
        hold: Callable[[int], None],
        choose: Callable[[], AppState] | None = None,
    ) -> None:
        """Each input is for `model_id`, or is given to what `choose` returns if it is given."""
        self._context = context
        self._app = app
        self._model_id = model_id
        self._choose = choose
        self._arrival = arrival
        self._done = done
        self._hold = hold
        self._queries: list[Query] = []
        self._missing = 0
        self._counted: set[int] = set()
        """The identities of the outputs that are counted."""
        self._answered_at: dict[Query, float] | None = None

    def note_times(self) -> None:
        """Let `explained` know how long each answer took. Call it before `ask`."""
        self._answered_at = {}

    def ask(self, inputs: Sequence[bytes], keys: Sequence[Key]) -> Steps[None]:
        """Ask for all inputs, which have these keys in the cache, in steps of a fraction of a millisecond."""
        steps = self._ask_in_steps(inputs, keys)
        if len(inputs) > _STEP_QUERIES:
            for model_id in self._model_ids():
                steps = self._context.executor.fill(model_id, steps)
        yield from steps

    def _model_ids(self) -> Sequence[ModelId]:
        """Return the model versions that may be asked."""
        chooser = self._app.chooser
        if self._choose is not None and chooser is not None:
            return chooser.model_ids
        return [] if self._model_id is None else [self._model_id]

    def _ask_in_steps(self, inputs: Sequence[bytes], keys: Sequence[Key]) -> Iterator[None]:
        self._missing = len(inputs)
        app, model_id, choose = self._app, self._model_id, self._choose
        for payload, key in zip(inputs, keys, strict=True):
            if self._queries and not len(self._queries) % _STEP_QUERIES:
                yield
            if choose is not None:
                app = choose()
                model_id = app.model_id
            query = Query(self._context, app, model_id, payload, self._arrival, key)
            query.submit(self._on_answered)
            self._queries.append(query)
            if query.answer is not None:
                self._missing -= 1
                self._count(query.answer)
                if self._answered_at is not None:
                    self._answered_at[query] = monotonic()
        if not self._missing:
            self._done()

    def _on_answered(self, query: Query, now: float) -> None:
        self._missing -= 1
        if query.answer is not None:
            self._count(query.answer)
        if self._answered_at is not None:
            self._answered_at[query] = now
        if not self._missing:
            self._done()

    def _count(self, answer: Answer) -> None:
        if isinstance(answer, bytes) and len(answer) > _COUNTED_OUTPUT_BYTES and id(answer) not in self._counted:
            self._counted.add(id(answer))
            self._hold(len(answer))

    @property
    def answers(self) -> list[Answer]:
        return [query.answer for query in self._queries if query.answer is not None]

    @property
    def answering_model(self) -> ModelId | None:
        """The model version, if it answered at least one of the inputs, and no other did."""
        answering = (query.model_id for query in self._queries if isinstance(query.answer, bytes))
        first = next(answering, None)
        return first if self._choose is None or all(model_id == first for model_id in answering) else None

    def explained(self) -> Iterator[Explained]:
        """Yield, for each input, who was asked and how long the answer took."""
        times = self._answered_at or {}
        for query in self._queries:
            link = query.app.link if isinstance(query.app, ArmState) else None
            yield Explained(link, query.model_id, times.get(query, query.arrival) - query.arrival)

    def abandon(self) -> None:
        """Forget the request because its client has disconnected. `done` is no longer called."""
        for query in self._queries:
            query.abandon()
