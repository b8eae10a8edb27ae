"""Requests that go wrong leave nothing behind."""

import asyncio
import contextlib
import gc
import io
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clipper_common import webapp
from clipper_common.body_budget import BodyBudget


class Body:
    """A body that breaks off."""

    total_bytes = 0

    def __init__(self) -> None:
        self.kept: list[weakref.ref[Body]] = []

    async def readany(self) -> bytes:
        held = Body()
        self.kept.append(weakref.ref(held))
        await asyncio.sleep(0)
        raise ConnectionResetError


async def test_a_body_that_breaks_off_leaves_no_cycle_behind() -> None:
    """Or what had come of it would be kept until there is a garbage collection, or for ever: it may be frozen."""
    budget = BodyBudget(1)
    body = Body()
    request = cast(Any, SimpleNamespace(content_length=10, content=body, client_max_size=10))
    gc.disable()
    try:
        with contextlib.suppress(ConnectionResetError), budget.count() as held:
            await budget.read(request, held)
        await asyncio.sleep(0)
        assert [each() for each in body.kept] == [None]
    finally:
        gc.enable()


class LostBody:
    """A body of a client that has gone: aiohttp keeps the error with it."""

    def __init__(self) -> None:
        self._error = ConnectionResetError()

    async def readany(self) -> bytes:
        raise self._error


async def test_what_came_of_a_body_is_not_kept_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[weakref.ref[io.BytesIO]] = []

    def make() -> io.BytesIO:
        buffer = io.BytesIO()
        buffers.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(webapp, "io", SimpleNamespace(BytesIO=make))
    request = cast(Any, SimpleNamespace(content_length=10, content=LostBody(), client_max_size=10))
    gc.disable()
    try:
        with contextlib.suppress(ConnectionResetError):
            await webapp.read_in_parts(request)
        assert [each() for each in buffers] == [None]
    finally:
        gc.enable()
