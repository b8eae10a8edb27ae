"""Tests that an input that kills a model's process delays other queries, but does not cost them their answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from managers import MANAGERS

from clipper_admin import ClipperConnection
from clipper_admin.deployers.python import create_endpoint

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(120)]

RATE = 200
SECONDS = 14
GRACE_SECONDS = 10.0
POISON = -1.0


def fragile(inputs: Any) -> Any:
    import os

    if any(each[0] == POISON for each in inputs):
        os._exit(7)
    return [float(each[0]) for each in inputs]


@pytest.fixture
def conn(clipper_home: Path) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(MANAGERS["process"]("poison"))
    conn.start_clipper()
    try:
        create_endpoint(conn, "app", "doubles", fragile, slo_micros=500_000, num_replicas=2)
        yield conn
    finally:
        conn.stop_all()


def test_every_tenth_query_is_poison(conn: ClipperConnection) -> None:
    early, late = asyncio.run(ask_steadily(f"http://{conn.get_query_addr()}/app/predict"))
    print(early, late, sep="\n")
    assert set(early) <= {"right", "default"}, "nothing is lost or wrong"
    assert set(late) == {"right"}


async def ask_steadily(url: str) -> tuple[Counter[str], Counter[str]]:
    """Count the outcomes of the other queries, apart for the first seconds and the time after them."""
    outcomes: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as queries:

        async def ask(number: int, is_late: bool) -> None:
            value = POISON if number % 10 == 0 else float(number)
            async with session.post(url, json={"input": [value]}) as response:
                answer = await response.json()
            if value != POISON:
                outcome = "default" if answer["default"] else "right" if answer["output"] == value else f"{answer}"
                outcomes[is_late][outcome] += 1

        start = time.monotonic()
        for number in range(RATE * SECONDS):
            await asyncio.sleep(start + number / RATE - time.monotonic())
            queries.create_task(ask(number, number / RATE > GRACE_SECONDS))
    return outcomes
