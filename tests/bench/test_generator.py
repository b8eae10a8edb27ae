"""Tests of the load generator against a server whose behaviour each test determines."""

import json
import os
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bench import generator
from bench.generator import Records, Running
from bench.workloads import FIRST_NUMBER, MARK

IS_REQUIRED = "compiler" in os.environ.get("CLIPPER_REQUIRE", "").split(",")
pytestmark = pytest.mark.skipif(not (generator.can_run() or IS_REQUIRED), reason="needs a C compiler")

BODY = b'{"input":[%b,2]}' % MARK
OK, DEFAULT, ERROR, UNANSWERED, WRONG = range(5)

Answer = Callable[[int], bytes]
"""The bytes that answer a query; none close the connection."""


def response(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def echo(number: int) -> bytes:
    return response(json.dumps({"query_id": 0, "output": number, "default": False}, separators=(",", ":")))


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while head := self._head():
            length = re.search(rb"content-length: (\d+)", head.lower())
            assert length is not None
            number = json.loads(self.rfile.read(int(length[1])))["input"][0]
            self.server.numbers.append(number)
            answer = self.server.answer(number)
            self.wfile.write(answer)
            if not answer:
                return

    def _head(self) -> bytes:
        lines = b""
        while (line := self.rfile.readline()).strip():
            lines += line
        return lines


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.numbers: list[int] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def closed_loop(server: Server, queries: int, **options: object) -> Records:
    with Running(server.port, "/x/predict", BODY, 4, queries=queries, seconds=20, echo=True, **options) as running:
        return running.result(30)


def open_loop(server: Server, due: list[float], connections: int = 4, **options: object) -> Records:
    with Running(server.port, "/x/predict", BODY, connections, due, **options) as running:
        return running.result(30)


def test_each_query_has_a_number_of_its_own() -> None:
    with serving(echo) as server:
        records = closed_loop(server, 500)
    assert sorted(server.numbers) == list(range(FIRST_NUMBER, FIRST_NUMBER + 500))
    assert set(records.outcome) == {OK}
    assert records.surplus == 0


def test_numbers_go_on_where_they_are_told_to() -> None:
    with serving(echo) as server:
        closed_loop(server, 3, first=100)
    assert sorted(server.numbers) == [FIRST_NUMBER + number for number in (100, 101, 102)]


def test_answer_of_another_query_is_noticed() -> None:
    with serving(lambda number: echo(number if number != FIRST_NUMBER + 7 else number + 1)) as server:
        records = closed_loop(server, 20)
    assert list(np.flatnonzero(records.outcome == WRONG)) == [7]


def test_answers_too_many_are_noticed() -> None:
    with serving(lambda number: echo(number) * (2 if number == FIRST_NUMBER + 7 else 1)) as server:
        records = closed_loop(server, 20)
    assert records.surplus >= 1


def test_defaults_and_errors_are_counted_with_their_reasons() -> None:
    default = response('{"query_id":0,"output":-1,"default":true,"default_explanation":"too late"}')
    answers = {1: default, 2: response("{}", "503 Service Unavailable"), 3: default, 4: b""}
    with serving(
        lambda number: answers.get(number - FIRST_NUMBER) or echo(number) * (number != FIRST_NUMBER + 4)
    ) as server:
        records = closed_loop(server, 20)
    assert list(np.flatnonzero(records.outcome == DEFAULT)) == [1, 3]
    assert list(np.flatnonzero(records.outcome == ERROR)) == [2, 4]
    assert records.reasons == {"too late": 2, "status 503": 1, "the connection was closed": 1}


def test_latency_counts_from_when_a_query_was_due() -> None:
    """One connection, and a first answer that takes long: the others wait for the connection, and their time runs."""

    def slow_at_first(number: int) -> bytes:
        if number == FIRST_NUMBER:
            time.sleep(0.3)
        return echo(number)

    with serving(slow_at_first) as server:
        records = open_loop(server, [0.0, 0.1, 0.2, 0.5], connections=1)
    assert set(records.outcome) == {OK}
    assert records.latency[:3] == pytest.approx([0.3, 0.2, 0.1], abs=0.08)
    assert records.lateness[1:3] == pytest.approx([0.2, 0.1], abs=0.08)
    assert records.latency[3] < 0.1


def test_queries_leave_when_they_are_due() -> None:
    due = [number / 200 for number in range(100)]
    with serving(echo) as server:
        records = open_loop(server, due)
    assert list(records.due) == due
    assert np.median(records.lateness) < 0.005
    assert records.ended >= due[-1]


def test_query_without_an_answer_is_unanswered() -> None:
    never = threading.Event()

    def stuck(number: int) -> bytes:
        if number == FIRST_NUMBER + 1:
            never.wait(20)
        return echo(number)

    with serving(stuck) as server:
        try:
            records = open_loop(server, [0.0, 0.01, 0.02], grace=0.3)
        finally:
            never.set()
    assert list(records.outcome) == [OK, UNANSWERED, OK]


def test_a_load_that_is_told_to_end_waits_for_its_answers() -> None:
    asked = threading.Event()

    def slow(number: int) -> bytes:
        if number == FIRST_NUMBER + 5:
            asked.set()
            time.sleep(0.3)
        return echo(number)

    due = [number / 100 for number in range(100_000)]
    with serving(slow) as server, Running(server.port, "/x/predict", BODY, 4, due) as running:
        assert asked.wait(20)
        running.end()
        records = running.result(30)
    assert 6 <= len(records.due) < 1000
    assert set(records.outcome) == {OK}
    assert len(server.numbers) == len(records.due)


def test_outputs_and_reasons_are_told_of_each_query() -> None:
    texts = {0: '"a \\"b\\""', 1: "2.5", 2: '"a \\"b\\""'}

    def answer(number: int) -> bytes:
        place = number - FIRST_NUMBER
        if place == 3:
            return response("{}", "503 Service Unavailable")
        return response(f'{{"query_id":0,"output":{texts[place]},"default":false}}')

    with serving(answer) as server:
        records = open_loop(server, [0.0, 0.1, 0.2, 0.3], outputs=True)
    names = list(records.reasons)
    assert [names[place] for place in records.reason] == ['"a \\"b\\""', "2.5", '"a \\"b\\""', "status 503"]
    assert list(records.outcome) == [OK, OK, OK, ERROR]
