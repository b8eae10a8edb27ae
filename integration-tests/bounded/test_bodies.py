"""Tests that queries of other applications are answered in time beside any large body."""

import base64
import http.client
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from managers import MANAGERS
from open_loop import NEEDS_GENERATOR, OpenLoop, check_harms_nobody

from clipper_admin import ClipperConnection
from clipper_admin.deployers.python import create_endpoint

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(180), NEEDS_GENERATOR]

RATE = 200.0
SLO_MICROS = 500_000
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def conn(clipper_home: Path) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(MANAGERS["process"]("bounded"))
    conn.start_clipper()
    try:
        create_endpoint(conn, "neighbour", "doubles", echo, slo_micros=SLO_MICROS)
        for kind in ("ints", "floats", "doubles", "strings", "bytes"):
            create_endpoint(conn, kind, kind, lengths, slo_micros=20_000_000)
        yield conn
    finally:
        conn.stop_all()


def echo(inputs: Any) -> Any:
    return [int(each[0]) for each in inputs]


def lengths(inputs: Any) -> Any:
    return [len(each) for each in inputs]


@pytest.fixture(scope="module")
def load(conn: ClipperConnection) -> Iterator[OpenLoop]:
    with OpenLoop(f"http://{conn.get_query_addr()}/neighbour/predict", RATE, is_echoed=True).running() as load:
        yield load


def numbers(text: bytes, size: int) -> bytes:
    return b'{"input":[' + (text + b",") * (size // (len(text) + 1)) + text + b"]}"


def randoms(size: int) -> bytes:
    rng = random.Random(1)
    return json.dumps({"input": [rng.uniform(-1, 1) for _ in range(size // 20)]}).encode()


CASES: dict[str, tuple[str, Callable[[], bytes], bool]] = {
    "nested lists that nobody asked for": (
        "doubles",
        lambda: b'{"x":[' + b"[]," * (10 * MEGABYTE) + b'[]],"input":[1]}',
        True,
    ),
    "short floats": ("floats", lambda: numbers(b"1.5", 31 * MEGABYTE), True),
    "short doubles": ("doubles", lambda: numbers(b"1.5", 31 * MEGABYTE), True),
    "ints": ("ints", lambda: numbers(b"-1234567", 31 * MEGABYTE), True),
    "random floats": ("floats", lambda: randoms(10 * MEGABYTE), True),
    "keys": ("doubles", lambda: b"{" + b"".join(b'"%d":1,' % i for i in range(2_200_000)) + b'"input":[1]}', True),
    "a batch": ("doubles", lambda: b'{"input_batch":[' + b"[1.25,2.5,3.75]," * 4000 + b"[4]]}", True),
    "a malformed body": ("doubles", lambda: b'{"x":[' + b"[]," * (10 * MEGABYTE) + b'],"input":[1]}', False),
    "a list of lists": ("doubles", lambda: b'{"input":[' + b"[]," * (2 * MEGABYTE) + b"[]]}", False),
    "bytes": ("bytes", lambda: b'{"input":"' + base64.b64encode(bytes(23 * MEGABYTE)) + b'"}', True),
    "text": ("strings", lambda: b'{"input":"' + b"text \xc3\xa9 " * (3 * MEGABYTE) + b'"}', True),
    "text with escapes": ("strings", lambda: b'{"input":"' + b"text \\n " * (3 * MEGABYTE) + b'"}', True),
}


def post(address: str, app: str, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", f"/{app}/predict", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("name", CASES)
def test_a_large_body_harms_nobody_else(name: str, conn: ClipperConnection, load: OpenLoop) -> None:
    app, make, is_answered = CASES[name]
    body = make()

    def attack() -> None:
        status, answer = post(conn.get_query_addr(), app, body)
        assert status == (200 if is_answered else 400), answer
        assert not is_answered or not any(each["default"] for each in answer.get("batch_predictions", [answer]))

    check_harms_nobody(load, name, SLO_MICROS / 1e6, attack)
