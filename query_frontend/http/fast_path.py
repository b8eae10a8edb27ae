"""The fast path: plain prediction requests are answered straight from the socket's bytes.

aiohttp's general path makes a request, a response, headers, a writer and a task for each request, which together cost
several times what the prediction does. `FastPathConnection` looks at the bytes first: a complete ``POST
/<app>/predict`` whose head is plain is parsed, queued and answered without any of these. All other requests are
aiohttp's, and so are those that must be refused: errors have one source.

Nobody can tell the two paths apart (tests/query_frontend/http/test_fast_path.py compares them): a head is plain if
aiohttp's own parser, given exactly these bytes, says so, and answers keep their order since `HttpConnection` begins
with a request when the one before it is answered. The option `fast_lane` of the query frontend turns the fast path off.
"""

import re
from collections.abc import Callable, Iterator
from email.utils import formatdate
from time import time
from typing import Final

from aiohttp.http import SERVER_SOFTWARE

from clipper_common.datatypes import InputType, ModelId, is_app_name
from clipper_common.errors import JsonError
from clipper_common.http_framing import Head
from query_frontend.http.connection_drain import ConnectionDrain
from query_frontend.http.decoder import SMALL_BODY_BYTES
from query_frontend.http.handlers import EXPLAIN_HEADER, MODEL_HEADER, model_header, sticky_key
from query_frontend.http.schemas import parse_doubles, parse_predict, parse_single
from query_frontend.serving.answers import AFTER_OUTPUT, before_output, render_in_parts, render_one
from query_frontend.serving.query import Query, QueryContext
from query_frontend.serving.registry import AppState, ArmChooser, Registry
from query_frontend.serving.waiting import BatchClients

_MAX_KNOWN_LENGTHS: Final = 1024
_MAX_BODY_BYTES: Final = SMALL_BODY_BYTES
"""The most bytes of a body on the fast path. Larger ones gain nothing here: decoding them takes most of their time."""
_PREDICT_PATH: Final = re.compile(r"/([^/]+)/predict/?")
_DOUBLES: Final = InputType.DOUBLES
_EXPLAIN_HEADER: Final = b"\r\n" + EXPLAIN_HEADER.lower().encode()
"""Requests with it are the general path's, which can explain answers."""


def app_of(head: Head) -> str | None:
    """Return the application that a plain request asks for a prediction, if its body is small."""
    if _EXPLAIN_HEADER in head.text.lower():
        return None
    path = _PREDICT_PATH.fullmatch(head.plain_path or "")
    return path[1] if path is not None and is_app_name(path[1]) and head.length <= _MAX_BODY_BYTES else None


class FastPath:
    """The parts of the fast path that all connections share."""

    def __init__(
        self,
        registry: Registry,
        context: QueryContext,
        query_ids: Iterator[int],
        content_seconds: float,
        draining: ConnectionDrain,
    ) -> None:
        self.wheel = context.wheel
        self.content_seconds = content_seconds
        self.draining = draining
        """The connections that close with their next answer. Their next requests are given to aiohttp."""
        self._registry = registry
        self._context = context
        self._query_ids = query_ids
        self._second_ends = 0.0
        self._heads: dict[ModelId | None, dict[int, bytes]] = {}
        """The heads of responses in this second, by the model version that answered and the length of the body."""
        self._answerer: ModelId | None = None
        """The model version that answered last, whose heads of responses are in `_its_heads`."""
        self._its_heads: dict[int, bytes] = {}

    def knows(self, app_name: str) -> bool:
        return self._registry.app(app_name) is not None

    def ask(
        self,
        app_name: str,
        head: Head,
        body: bytes,
        arrival: float,
        done: Callable[[Query, float], None],
        clients: BatchClients | None,
    ) -> Query | None:
        """Begin to answer a request of one of `clients`. None if that is for the general path to do."""
        app = self._registry.app(app_name)
        if app is None:
            return None
        if app.chooser is not None:
            return self._ask_arm(app, app.chooser, head, body, arrival, done, clients)
        payload = parse_doubles(body) if app.input_type is _DOUBLES else None
        if not payload:
            try:
                payload = parse_single(body, app.input_type, app.missing_values)
            except JsonError:
                return None
            if payload is None:
                return None
        if clients is not None:
            clients.note_return(app.model_id, arrival)
        query = Query(self._context, app, app.model_id, payload, arrival)
        query.submit(done)
        return query

    def _ask_arm(
        self,
        app: AppState,
        chooser: ArmChooser,
        head: Head,
        body: bytes,
        arrival: float,
        done: Callable[[Query, float], None],
        clients: BatchClients | None,
    ) -> Query | None:
        """As `ask`, for an application whose selection policy chooses who answers."""
        key, uid = b"", None
        payload = parse_doubles(body) if app.input_type is _DOUBLES and not chooser.by_uid else None
        try:
            if not payload:
                asked = parse_predict(body, app.input_type, app.missing_values)
                if asked.version is not None or asked.explain or len(asked.inputs) != 1:
                    return None
                payload, uid = asked.inputs[0], asked.uid
            if chooser.by_uid or chooser.header:
                key = sticky_key(chooser, uid, header_of(head.text, chooser.header))
        except JsonError:
            return None
        arm = chooser.choose(key)
        if clients is not None:
            clients.note_return(arm.model_id, arrival)
        query = Query(self._context, arm, arm.model_id, payload, arrival)
        query.submit(done)
        return query

    def render(self, query: Query, now: float) -> bytes:
        """Return the response to an answered query, byte for byte as aiohttp writes it."""
        if now >= self._second_ends:
            self._second_ends = now + 1 - time() % 1
            self._forget_heads()
        answer = query.answer
        assert answer is not None
        if not isinstance(answer, bytes):
            body = render_one(next(self._query_ids), answer)
            return self._head(None, len(body)) + body
        before = before_output(next(self._query_ids))  # `render_one` in place: this runs for every query
        head = self._head(query.model_id, len(before) + len(answer) + len(AFTER_OUTPUT))
        return b"".join((head, before, answer, AFTER_OUTPUT))

    def render_in_parts(self, query: Query, output: bytes) -> list[bytes]:
        """Return the response like `render`, in parts, without a copy of a large output."""
        before, *rest = render_in_parts(next(self._query_ids), output)
        length = len(before) + sum(map(len, rest))
        return [_render_head(query.model_id, length) + before, *rest]

    def _head(self, model: ModelId | None, length: int) -> bytes:
        """Return the head of a response that `model` answered, if it is not None, with a body of this length."""
        if model is not self._answerer:
            self._answerer = model
            self._its_heads = self._heads.setdefault(model, {})
        return self._its_heads.get(length) or self._render_head(length)

    def _render_head(self, length: int) -> bytes:
        if len(self._its_heads) >= _MAX_KNOWN_LENGTHS:
            self._forget_heads()
        head = self._its_heads[length] = _render_head(self._answerer, length)
        return head

    def _forget_heads(self) -> None:
        self._its_heads = {}
        self._heads = {self._answerer: self._its_heads}


def header_of(head: bytes, name: str) -> bytes:
    """Return the value of the first header with this name in a valid head; empty if there is none, or no name."""
    if not name:
        return b""
    found = re.search(rb"\r\n%b:([^\r]*)\r" % name.encode(), head, re.IGNORECASE)
    return b"" if found is None else found[1].strip(b" \t")


def _render_head(model: ModelId | None, length: int) -> bytes:
    named = f"{MODEL_HEADER}: {model_header(model)}\r\n" if model else ""
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{named}Content-Length: {length}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    ).encode()
