"""The HTTP routes: parse, call, render."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

from aiohttp import web

from clipper_common import jsontext, long_work
from clipper_common.body_budget import BodyBudget, Held, OverBudgetError
from clipper_common.datatypes import ModelId
from clipper_common.errors import JsonError, QueryError, RequestError
from clipper_common.http_server import connection_of, json_response
from clipper_common.webapp import Handler, is_compressed, late_body, read_in_parts
from query_frontend.cluster.readiness import NOT_LOADED, Readiness
from query_frontend.http import answer_body, inflation, schemas
from query_frontend.http.connection_drain import ConnectionDrain
from query_frontend.http.decoder import SMALL_BODY_BYTES, Decoder
from query_frontend.monitoring.reporting import Pauses, Report, in_small_parts
from query_frontend.serving import answers
from query_frontend.serving.cache import Key, keys_of
from query_frontend.serving.query import QueryContext, Request
from query_frontend.serving.registry import AppState, ArmChooser, Registry

MODEL_HEADER: Final = "X-Clipper-Model"
"""Names the model version that answered, as ``name:version``, percent-encoded where it is not ASCII."""
EXPLAIN_HEADER: Final = "X-Clipper-Explain"
"""``true`` asks for an explanation of each answer of an application with a selection policy."""
_HEADER_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


_MAX_SCRAPES: Final = 8
"""The most scrapes of metrics that wait; they are answered one after the other."""


class Handlers:
    """The HTTP handlers of a query frontend: predictions that the fast path leaves, feedback, metrics and probes.

    It owns no state but that of running scrapes; all else belongs to `QueryFrontend`. The routes of the aiohttp
    application call its methods, each in a task of its own on the event loop of the frontend.
    """

    def __init__(
        self,
        registry: Registry,
        context: QueryContext,
        report_metrics: Callable[[Pauses], Awaitable[Report]],
        query_ids: Iterator[int],
        content_seconds: float,
        readiness: Readiness,
        draining: ConnectionDrain,
        decoder: Decoder,
        budget: BodyBudget,
    ) -> None:
        self._registry = registry
        self._context = context
        self._content_seconds = content_seconds
        self._query_ids = query_ids
        self._readiness = readiness
        self._draining = draining
        self._decoder = decoder
        self._budget = budget
        self._report_metrics = report_metrics
        self._scrapes = 0
        self._scraping = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        routes = [web.get("/metrics", self.metrics), web.get("/livez", self.live), web.get("/readyz", self.ready)]
        for end in ("", "/"):
            routes.append(web.post(f"/{{app}}/predict{end}", self.predict))
            routes.append(web.post(f"/{{app}}/update{end}", self.update))
        return routes

    def body_limit(self, request: web.Request) -> int:
        """The most bytes of a body; that of an application may be less, or more, than the frontend's."""
        app = self._registry.app(request.match_info.get("app", ""))
        return request.client_max_size if app is None else app.record.max_body_bytes or request.client_max_size

    async def predict(self, request: web.Request) -> web.Response:
        arrival = time.monotonic()
        app = self._app(request)
        try:
            with self._budget.count(app.record.name) as held:
                return await self._predict(request, app, arrival, held)
        except OverBudgetError:
            return _busy()

    async def _predict(self, request: web.Request, app: AppState, arrival: float, held: Held) -> web.Response:
        parts = await self._read_inflated(request, held)
        try:
            asked = await self._decoder.predict(parts, app.input_type, app.missing_values, app.record.name)
            model = self._registry.choose_model(app, asked.version)
            choose = _chooser(app, asked, request)
        except JsonError as error:
            return _error_response(error, schemas.explain(error, schemas.PREDICT_SCHEMA))
        except QueryError as error:
            return _error_response(error, str(error))
        inputs = asked.inputs
        keys: Sequence[Key] = inputs
        if sum(map(len, parts)) > SMALL_BODY_BYTES:
            del parts  # their memory may be large, and takes time to give back
            if self._context.executor.uses_keys:
                keys = await long_work.finish(keys_of(inputs))
        if held.size:
            held.resize(sum(map(len, inputs)))
        done = asyncio.Event()
        queries = Request(self._context, app, model, arrival, done.set, held.add, choose)
        is_explained = app.chooser is not None and (asked.explain or _is_true(request.headers.get(EXPLAIN_HEADER)))
        if is_explained:
            queries.note_times()
        try:
            await long_work.finish(queries.ask(inputs, keys))
            await done.wait()
        finally:  # also when the client hung up, which cancels us
            queries.abandon()
        explanations = _explanations(app, queries) if is_explained else None
        parts = await long_work.finish(answers.render(queries.answers, self._query_ids, explanations))
        response = web.Response(body=answer_body.of(parts, self._budget), content_type="application/json")
        if queries.answering_model is not None:
            response.headers[MODEL_HEADER] = model_header(queries.answering_model)
        return response

    async def update(self, request: web.Request) -> web.Response:
        """Feedback: checked and acknowledged. No selection policy makes use of it yet; only user 0 has a state."""
        app = self._app(request)
        try:
            with self._budget.count(app.record.name) as held:
                return await self._update(request, app, held)
        except OverBudgetError:
            return _busy()

    async def _update(self, request: web.Request, app: AppState, held: Held) -> web.Response:
        body = await self._read_inflated(request, held)
        try:
            feedback = await self._decoder.update(body, app.input_type, app.missing_values, app.record.name)
        except JsonError as error:
            return web.Response(text=schemas.explain(error, schemas.UPDATE_SCHEMA), status=error.status)
        return web.Response(text=f"Feedback received? {int(feedback.uid == 0)}")

    async def metrics(self, _: web.Request) -> web.Response:
        if self._scrapes >= _MAX_SCRAPES:
            return _unavailable(f"{_MAX_SCRAPES} other requests for /metrics are waiting: ask again")
        self._scrapes += 1
        try:
            async with self._scraping:
                pauses = Pauses()
                parts = await (await self._report_metrics(pauses)).render(pauses)
        finally:
            self._scrapes -= 1
        headers = {"Content-Length": str(sum(map(len, parts)))}
        return web.Response(body=in_small_parts(parts), headers=headers, content_type="application/json")

    async def live(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(self, _: web.Request) -> web.Response:
        missing = self._readiness.missing()
        return web.Response(text="ok") if missing is None else web.Response(text=missing, status=503)

    @web.middleware
    async def close_those_that_leave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A client learns by ``Connection: close`` that its next request needs another connection."""
        response = await handler(request)
        if not self._draining.is_empty and connection_of(request) in self._draining:
            response.force_close()
        return response

    def _app(self, request: web.Request) -> AppState:
        app = self._registry.app(request.match_info["app"])
        if app is None and not self._registry.is_loaded:
            raise web.HTTPServiceUnavailable(text=NOT_LOADED)
        if app is None:
            raise web.HTTPNotFound(text=f"No application is named '{request.match_info['app']}'")
        return app

    async def _read_inflated(self, request: web.Request, held: Held) -> list[bytes]:
        """The body, in parts. Small ones are not counted."""
        parts = await self._read(request, held)
        if not is_compressed(request):
            return parts
        size = sum(map(len, parts))
        await held.reserve(request.client_max_size)
        try:
            inflated = await long_work.finish(inflation.inflate(parts, request.client_max_size))
        except inflation.TooLargeError:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, size) from None
        except inflation.InflationError as error:
            raise web.HTTPBadRequest(text=f"The body cannot be inflated: {error}") from None
        held.resize(len(inflated))
        return [inflated]

    async def _read(self, request: web.Request, held: Held) -> list[bytes]:
        if request.content.is_eof():  # it came with the head: no timer is needed, which costs more than the rest here
            body = await request.read()
            if len(body) > SMALL_BODY_BYTES:
                await held.reserve(len(body))
            return [body]
        is_small = request.content_length is not None and request.content_length <= SMALL_BODY_BYTES
        try:
            async with asyncio.timeout(self._seconds_for_body(request)):
                return await (read_in_parts(request) if is_small else self._budget.read(request, held))
        except TimeoutError:
            raise late_body(self._content_seconds) from None

    def _seconds_for_body(self, request: web.Request) -> float:
        connection = connection_of(request)
        due, connection.body_due = connection.body_due, None  # of a request that waited in the fast path before
        return self._content_seconds if due is None else max(due - time.monotonic(), 0.0)


def model_header(model: ModelId) -> str:
    return quote(str(model), safe=_HEADER_SAFE)


def sticky_key(chooser: ArmChooser, uid: object, header: bytes) -> bytes:
    """Return the key whose requests always get the same arm; empty if a request has none. Raises `JsonError`."""
    if not chooser.by_uid or uid is None:
        return header
    if type(uid) not in (int, str):
        raise jsontext.type_mismatch("uid", "int64 or String", uid)
    return str(uid).encode()


def _chooser(app: AppState, asked: schemas.Asked, request: web.Request) -> Callable[[], AppState] | None:
    """Return the function that chooses who answers the next input, if a selection policy does."""
    chooser = app.chooser
    if chooser is None or asked.version is not None:
        return None
    name = chooser.header.lower().encode()
    header = next((value for key, value in request.raw_headers if key.lower() == name), b"") if name else b""
    key = sticky_key(chooser, asked.uid, header)
    if not key:
        return partial(chooser.choose, key)
    arm = chooser.choose(key)
    return lambda: arm


def _explanations(app: AppState, queries: Request) -> Iterator[bytes]:
    chooser = app.chooser
    assert chooser is not None, "only applications with a policy explain"
    for link, model, seconds in queries.explained():
        weight = None if link is None else chooser.share_of(link)
        asked = {"link": link, "model": model and str(model), "weight": weight, "latency_micros": round(seconds * 1e6)}
        yield jsontext.dumps({"policy": chooser.policy, "models": [asked]})


def _is_true(value: str | None) -> bool:
    return value is not None and value.strip().lower() == "true"


def _error_response(error: RequestError, cause: str) -> web.Response:
    return json_response({"error": error.label, "cause": cause}, error.status)


def _busy() -> web.Response:
    response = _unavailable(
        "Other requests with large bodies take the memory that there is for them (--body_memory): ask again"
    )
    response.force_close()  # its body was not read
    return response


def _unavailable(cause: str) -> web.Response:
    response = json_response({"error": "Service Unavailable", "cause": cause}, status=503)
    response.headers["Retry-After"] = "1"
    return response
