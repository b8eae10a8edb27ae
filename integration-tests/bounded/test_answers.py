"""However large the answer to a small request is, the queries of another application are answered in time beside it."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from managers import MANAGERS
from open_loop import NEEDS_GENERATOR, OpenLoop, check_harms_nobody

from clipper_admin import ClipperConnection
from clipper_admin.deployers.python import create_endpoint

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(180), NEEDS_GENERATOR]

RATE = 200.0
SLO_MICROS = 500_000
INPUTS = 4096
OUTPUT_BYTES = 60_000
MEGABYTE = 1 << 20
UNREAD_SECONDS = 3.0
"""For which clients leave their answers unread."""


@pytest.fixture(scope="module")
def conn(clipper_home: Path) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(MANAGERS["process"]("answers"))
    conn.start_clipper()
    try:
        create_endpoint(conn, "neighbour", "doubles", sums, slo_micros=SLO_MICROS)
        create_endpoint(conn, "long", "strings", long_texts, slo_micros=20_000_000)
        conn.register_application("without-model", "strings", "y" * OUTPUT_BYTES, SLO_MICROS)
        yield conn
    finally:
        conn.stop_all()


def sums(inputs: Any) -> Any:
    return [float(sum(each)) for each in inputs]


def long_texts(inputs: Any) -> Any:
    return [each + "x" * 60_000 for each in inputs]


@pytest.fixture(scope="module")
def load(conn: ClipperConnection) -> Iterator[OpenLoop]:
    with OpenLoop(f"http://{conn.get_query_addr()}/neighbour/predict", RATE).running() as load:
        yield load


def body(several: list[str]) -> bytes:
    return json.dumps({"input_batch": several}).encode()


def query_frontend(port: str) -> list[psutil.Process]:
    """The processes of the query frontend that has this port."""
    command = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    found = [
        each for each in command if "query_frontend" in command[each] and any(port in text for text in command[each])
    ]
    return [process for each in found for process in [each, *each.children(recursive=True)]]


def most_bytes(processes: list[psutil.Process]) -> int:
    """The memory of the one that has the most. One that was only starting others may have ended."""
    most = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            most = max(most, process.memory_info().rss)
    assert most
    return most


@pytest.mark.parametrize("app", ["long", "without-model"])
def test_answers_that_nobody_reads_harm_nobody(app: str, conn: ClipperConnection, load: OpenLoop) -> None:
    host, port = conn.get_query_addr().split(":")
    asked = body(["same"] * INPUTS)
    processes = query_frontend(port)
    most = 0

    def attack() -> None:
        nonlocal most
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
                client.connect((host, int(port)))
                head = f"POST /{app}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(asked)}\r\n\r\n"
                client.sendall(head.encode() + asked)
            end = time.monotonic() + UNREAD_SECONDS
            while time.monotonic() < end:
                most = max(most, most_bytes(processes))
                time.sleep(0.1)

    before = most_bytes(processes)
    check_harms_nobody(load, f"answers of {app} that nobody reads", SLO_MICROS / 1e6, attack)
    assert most - before < 64 * MEGABYTE


@pytest.mark.parametrize("distinct", [False, True])
def test_a_client_that_reads_gets_all_of_a_large_answer(
    distinct: bool, conn: ClipperConnection, load: OpenLoop
) -> None:
    asked = [str(number) if distinct else "same" for number in range(INPUTS)]
    answer = b""

    def ask() -> None:
        nonlocal answer
        connection = http.client.HTTPConnection(conn.get_query_addr(), timeout=60)
        try:
            connection.request("POST", "/long/predict", body(asked))
            answer = connection.getresponse().read()
        finally:
            connection.close()

    check_harms_nobody(load, f"an answer of {INPUTS * OUTPUT_BYTES / MEGABYTE:.0f} MiB", SLO_MICROS / 1e6, ask)
    answers = json.loads(answer)["batch_predictions"]
    assert not any(each["default"] for each in answers)
    assert [each["output"] for each in answers] == [each + "x" * OUTPUT_BYTES for each in asked]
