"""The HTTP routes: parse, call, render."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final
from urllib.parse import quote

from aiohttp import web

from clipper_common.constants import MAX_BODY_BYTES
from clipper_common.datatypes import ModelId
from clipper_common.errors import JsonError, QueryError, RequestError
from clipper_common.webapp import Handler, json_response
from query_frontend import schemas
from query_frontend.body_budget import BodyBudget, Held, OverBudgetError
from query_frontend.decoder import SMALL_BODY_BYTES, Decoder
from query_frontend.leaving import Leaving
from query_frontend.metrics import Report, SystemMetrics
from query_frontend.query_processor import QueryContext, Request
from query_frontend.readiness import NOT_LOADED, Readiness
from query_frontend.registry import AppState, Registry

MODEL_HEADER: Final = "X-Clipper-Model"
"""Names the model version that answered, as ``name:version``, percent-encoded where it is not ASCII."""
_HEADER_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


_PROGRESS_SECONDS: Final = 10.0
_PROGRESS_BYTES: Final = 1 << 16
_TOO_SLOW: Final = (
    f"The body brought less than {_PROGRESS_BYTES} bytes in {_PROGRESS_SECONDS:g} seconds while other requests waited "
    "for the memory that was held for it"
)


class Handlers:
    def __init__(
        self,
        registry: Registry,
        context: QueryContext,
        metrics: SystemMetrics,
        query_ids: Iterator[int],
        content_seconds: float,
        readiness: Readiness,
        leaving: Leaving,
        decoder: Decoder,
        budget: BodyBudget,
    ) -> None:
        self._registry = registry
        self._context = context
        self._metrics = metrics
        self._content_seconds = content_seconds
        self._query_ids = query_ids
        self._readiness = readiness
        self._leaving = leaving
        self._decoder = decoder
        self._budget = budget
        self.report_metrics: Callable[[], Awaitable[Report]] = self._report_own_metrics
        """Changed by the composition root, where there are other workers."""

    def routes(self) -> list[web.RouteDef]:
        routes = [web.get("/metrics", self.metrics), web.get("/livez", self.live), web.get("/readyz", self.ready)]
        for end in ("", "/"):
            routes.append(web.post(f"/{{app}}/predict{end}", self.predict))
            routes.append(web.post(f"/{{app}}/update{end}", self.update))
        return routes

    async def predict(self, request: web.Request) -> web.Response:
        arrival = time.monotonic()
        app = self._app(request)
        try:
            async with self._hold(app, request) as held:
                return await self._predict(request, app, arrival, held)
        except OverBudgetError:
            return _busy()

    def _hold(self, app: AppState, request: web.Request) -> AbstractAsyncContextManager[Held | None]:
        """Memory for the body. Small ones are not counted, and a body of unknown length may be as large as any."""
        length = request.content_length
        if length is None:
            length = request.content.total_bytes if request.content.is_eof() else MAX_BODY_BYTES
        return nullcontext() if length <= SMALL_BODY_BYTES else self._budget.hold(app.record.name, length)

    async def _predict(self, request: web.Request, app: AppState, arrival: float, held: Held | None) -> web.Response:
        body = await self._read(request, held)
        try:
            inputs, version = await self._decoder.predict(body, app.input_type, app.missing_values)
            model = self._registry.choose_model(app, version)
        except JsonError as error:
            return _error_response(error, schemas.explain(error, schemas.PREDICT_SCHEMA))
        except QueryError as error:
            return _error_response(error, str(error))
        if held is not None:
            held.resize(len(body) + sum(map(len, inputs)))
        done = asyncio.Event()
        asked = Request(self._context, app, model, inputs, arrival, done.set)
        try:
            await done.wait()
        finally:  # also when the client hung up, which cancels us
            asked.abandon()
        response = web.Response(body=schemas.render(asked.answers, self._query_ids), content_type="application/json")
        if asked.answering_model is not None:
            response.headers[MODEL_HEADER] = model_header(asked.answering_model)
        return response

    async def update(self, request: web.Request) -> web.Response:
        """Feedback: checked and acknowledged. No selection policy makes use of it yet; only user 0 has a state."""
        app = self._app(request)
        try:
            async with self._hold(app, request) as held:
                return await self._update(request, app, held)
        except OverBudgetError:
            return _busy()

    async def _update(self, request: web.Request, app: AppState, held: Held | None) -> web.Response:
        body = await self._read(request, held)
        try:
            feedback = await self._decoder.update(body, app.input_type, app.missing_values)
        except JsonError as error:
            return web.Response(text=schemas.explain(error, schemas.UPDATE_SCHEMA), status=error.status)
        return web.Response(text=f"Feedback received? {int(feedback.uid == 0)}")

    async def metrics(self, _: web.Request) -> web.Response:
        return json_response(await self.report_metrics())

    async def _report_own_metrics(self) -> Report:
        return self._metrics.report()

    async def live(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(self, _: web.Request) -> web.Response:
        missing = self._readiness.missing()
        return web.Response(text="ok") if missing is None else web.Response(text=missing, status=503)

    @web.middleware
    async def close_those_that_leave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A client learns by ``Connection: close`` that its next request needs another connection."""
        response = await handler(request)
        if not self._leaving.is_empty and request.protocol in self._leaving:
            response.force_close()
        return response

    def _app(self, request: web.Request) -> AppState:
        app = self._registry.app(request.match_info["app"])
        if app is None and not self._registry.is_loaded:
            raise web.HTTPServiceUnavailable(text=NOT_LOADED)
        if app is None:
            raise web.HTTPNotFound(text=f"No application is named '{request.match_info['app']}'")
        return app

    async def _read(self, request: web.Request, held: Held | None) -> bytes:
        if request.content.is_eof():  # it came with the head: no timer is needed, which costs more than the rest here
            return await request.read()
        try:
            async with asyncio.timeout(self._seconds_for_body(request)):
                return await (request.read() if held is None else self._read_large(request))
        except TimeoutError:
            raise web.HTTPRequestTimeout(
                text=f"The body did not arrive within {self._content_seconds:g} seconds"
            ) from None

    async def _read_large(self, request: web.Request) -> bytes:
        """Read a body that memory is held for, unless it hardly moves while others wait for that memory."""
        reading = asyncio.create_task(request.read())
        try:
            seen = 0
            while not (await asyncio.wait([reading], timeout=_PROGRESS_SECONDS))[0]:
                seen, before = request.content.total_bytes, seen
                if seen - before < _PROGRESS_BYTES and self._budget.was_short_within(_PROGRESS_SECONDS):
                    raise web.HTTPRequestTimeout(text=_TOO_SLOW)
            return reading.result()
        finally:
            reading.cancel()

    def _seconds_for_body(self, request: web.Request) -> float:
        take_body_due: Callable[[], float | None] = getattr(request.protocol, "take_body_due", lambda: None)
        due = take_body_due()  # of a request that waited in the lane before
        return self._content_seconds if due is None else max(due - time.monotonic(), 0.0)


def model_header(model: ModelId) -> str:
    return quote(str(model), safe=_HEADER_SAFE)


def _error_response(error: RequestError, cause: str) -> web.Response:
    return json_response({"error": error.label, "cause": cause}, error.status)


def _busy() -> web.Response:
    cause = "Other requests with large bodies take the memory that there is for them (--body_memory): ask again"
    response = json_response({"error": "Service Unavailable", "cause": cause}, status=503)
    response.headers["Retry-After"] = "1"
    response.force_close()  # its body was not read
    return response
