"""The meter of the event loop's turns, on real loops that are kept for long, and on a frontend."""

import asyncio
import importlib.util
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipper_common import jsontext, long_work
from query_frontend.exporter.server import frontend_gauges
from query_frontend.monitoring.loop_meter import LoopMeter, Turn, Turns, describe
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.monitoring.reporting import Pauses, Report
from tests.query_frontend.conftest import running_frontend, wait_for

LIMIT_SECONDS = 0.02
BLOCKED_SECONDS = 0.3
LONG_SECONDS = 0.1
GIVE_UP_SECONDS = 40.0


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS = [asyncio.new_event_loop, *([new_uvloop] if importlib.util.find_spec("uvloop") else [])]


IsSeen = Callable[[Turn], bool]


class Recorder(Turns):
    """Waits for a long turn that was seen as it is: where the machine is busy, the meter may come too late."""

    def __init__(self, again: Callable[[], object], is_seen: IsSeen) -> None:
        self.again = again
        self.is_seen = is_seen
        self.metrics = SystemMetrics()
        super().__init__(LIMIT_SECONDS, self.metrics)
        self.metrics.longest_turn.read_with(self.longest)
        self.loop = asyncio.get_running_loop()
        self.long: asyncio.Future[Turn] = self.loop.create_future()

    def add(self, turn: Turn) -> None:
        super().add(turn)
        if turn.wall_seconds > LONG_SECONDS:
            if self.is_seen(turn):
                self.loop.call_soon_threadsafe(self.long.set_result, turn)
            else:
                self.again()


async def measure(work: Callable[[], object], is_seen: IsSeen) -> tuple[Recorder, Turn]:
    """The turn in which an otherwise idle loop does `work`, once the meter has seen what it does."""
    here, there = socket.socketpair()
    turns = Recorder(lambda: there.send(b"\0"), lambda turn: work.__name__ in turn.stack and is_seen(turn))

    def on_readable() -> None:
        here.recv(1)
        work()

    with here, there, LoopMeter(LIMIT_SECONDS, turns):
        turns.loop.add_reader(here, on_readable)
        turns.again()
        turn = await asyncio.wait_for(turns.long, GIVE_UP_SECONDS)
        turns.loop.remove_reader(here)
    return turns, turn


def run(
    factory: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], object], is_seen: IsSeen
) -> tuple[Recorder, Turn]:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measure(work, is_seen))


def computes(turn: Turn) -> bool:
    return turn.cpu_seconds > LONG_SECONDS / 2


def waits(turn: Turn) -> bool:
    return turn.cpu_seconds < LIMIT_SECONDS


def spin() -> None:
    end = time.thread_time() + BLOCKED_SECONDS
    while time.thread_time() < end:
        pass


def doze() -> None:
    time.sleep(BLOCKED_SECONDS)


def add_up() -> None:
    """Keeps Python's lock all the time, as whoever parses a large text does."""
    start = time.thread_time()
    while time.thread_time() < start + BLOCKED_SECONDS / 2:
        sum(range(20_000_000))


@pytest.mark.parametrize("factory", LOOPS)
def test_a_callback_that_computes(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    turns, turn = run(factory, spin, computes)
    assert LONG_SECONDS / 2 < turn.cpu_seconds < BLOCKED_SECONDS * 1.5
    assert turn.stack.startswith("monitoring/test_loop_meter.py:")
    assert "spin" in turn.stack
    assert turns.metrics.slow_turns.count >= 1
    assert turns.metrics.slow_computing_turns.count >= 1
    longest = turns.metrics.longest_turn.state()
    assert float(longest["wall_micros_max"]) >= turn.wall_seconds * 1e6 - 1
    assert float(longest["cpu_micros_max"]) >= turn.cpu_seconds * 1e6 - 1


@pytest.mark.parametrize("factory", LOOPS)
def test_a_callback_that_waits(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    turns, turn = run(factory, doze, waits)
    assert turn.cpu_seconds < LIMIT_SECONDS
    assert "doze" in turn.stack
    assert turns.metrics.slow_turns.count >= 1
    assert turns.metrics.slow_computing_turns.count == 0


@pytest.mark.parametrize("factory", LOOPS)
def test_a_callback_that_keeps_pythons_lock(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    _, turn = run(factory, add_up, computes)
    assert turn.cpu_seconds > LONG_SECONDS / 2
    assert "add_up" in turn.stack


@pytest.mark.parametrize("factory", LOOPS)
def test_an_idle_loop(factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture) -> None:
    class Looking(LoopMeter):
        looks = 0

        def _look(self, late_seconds: float) -> bool:
            is_busy = super()._look(late_seconds)
            self.looks += 1
            if self.looks == 5:
                self._loop.call_soon_threadsafe(enough.set)
            return is_busy

    async def idle() -> None:
        with Looking(LIMIT_SECONDS, Turns(LIMIT_SECONDS, metrics)):
            await asyncio.wait_for(enough.wait(), GIVE_UP_SECONDS)

    enough = asyncio.Event()
    metrics = SystemMetrics()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(idle())
    assert metrics.slow_turns.count == metrics.slow_computing_turns.count == 0
    assert not caplog.records


def test_the_log_has_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):  # what a busy machine keeps the meter from seeing is told without its stack
        with caplog.at_level(logging.WARNING):
            run(LOOPS[-1], spin, computes)
        if "spin" in caplog.text:
            break
    assert "a turn of the event loop took" in caplog.text
    assert "spin" in caplog.text


# --- parts ---


def test_the_log_has_one_line_in_ten_seconds() -> None:
    now = [100.0]
    turns = Turns(0.02, SystemMetrics(), lambda: now[0])
    assert turns.take_line() is None
    turns.add(Turn(0.05, 0.04, "a.py:1 f"))
    assert turns.take_line() == "a turn of the event loop took 50 ms, 40 ms of it computing, in a.py:1 f"
    for wall in (0.03, 0.3, 0.04):
        turns.add(Turn(wall, 0.03, f"a.py:{wall * 100:.0f} f"))
    now[0] += 9.0
    assert turns.take_line() is None
    now[0] += 2.0
    told = "a turn of the event loop, the longest of 3 long ones, took 300 ms, 30 ms of it computing, in a.py:30 f"
    assert turns.take_line() == told
    now[0] += 60.0
    assert turns.take_line() is None


@pytest.mark.parametrize(
    ("wall", "cpu", "counted", "is_told"),
    [
        (0.019, 0.018, (0, 0), False),
        (0.09, 0.019, (1, 0), False),
        (0.11, 0.0, (1, 0), True),
        (0.03, 0.03, (1, 1), True),
    ],
    ids=["short", "waits for a processor", "waits for long", "computes"],
)
def test_which_turns_are_counted_and_told(wall: float, cpu: float, counted: tuple[int, int], is_told: bool) -> None:
    metrics = SystemMetrics()
    turns = Turns(0.02, metrics)
    turns.add(Turn(wall, cpu, "a.py:1 f"))
    assert (metrics.slow_turns.count, metrics.slow_computing_turns.count) == counted
    assert (turns.take_line() is not None) is is_told


def test_the_longest_turn_is_forgotten_after_two_minutes() -> None:
    now = [100.0]
    metrics = SystemMetrics()
    turns = Turns(0.02, metrics, lambda: now[0])
    metrics.longest_turn.read_with(turns.longest)
    turns.add(Turn(0.5, 0.25, ""))
    now[0] += 61.0
    turns.add(Turn(0.1, 0.05, ""))
    assert metrics.longest_turn.state() == {"wall_micros_max": "500000", "cpu_micros_max": "250000"}
    now[0] += 60.0
    assert metrics.longest_turn.state() == {"wall_micros_max": "100000", "cpu_micros_max": "50000"}
    now[0] += 120.0
    assert metrics.longest_turn.state() == {"wall_micros_max": "0", "cpu_micros_max": "0"}


def test_the_exporter_has_their_numbers() -> None:
    metrics = SystemMetrics()
    turns = Turns(0.02, metrics)
    metrics.longest_turn.read_with(turns.longest)
    turns.add(Turn(0.5, 0.25, ""))
    report = Report()
    for line in metrics.lines():
        report.add(line)
    gauges = frontend_gauges(jsontext.parse(b"".join(asyncio.run(report.render(Pauses())))))
    assert gauges["internal_slow_turns_count"] == gauges["internal_slow_computing_turns_count"] == 1.0
    assert gauges["internal_longest_turn_wall_micros_max"] == 500000.0
    assert gauges["internal_longest_turn_cpu_micros_max"] == 250000.0


def test_a_stack_is_short() -> None:
    def recurse(depth: int) -> str:
        return recurse(depth - 1) if depth else describe(sys._getframe())

    stack = recurse(50)
    assert stack.count(" <- ") == 11
    assert stack.startswith("monitoring/test_loop_meter.py:")


# --- a frontend ---


@pytest.mark.parametrize("workers", [1, 2])
def test_a_frontend_tells_of_a_large_request(workers: int, redis_port: int, tmp_path: Path) -> None:
    log = tmp_path / "frontend.log"
    with running_frontend(redis_port, log, workers=workers, slow_turn_millis=1) as frontend:
        frontend.serve("app")
        frontend.predict("app", input_batch=[[float(number) for number in range(200)]] * 4000)

        def is_told() -> bool:
            return "a turn of the event loop" in log.read_text()

        wait_for(is_told, "the log tells of it")
        count = frontend.metric("counters", "internal:slow_computing_turns")
        assert count is not None
        assert int(count["count"]) >= 1
        longest = frontend.metric("gauges", "internal:longest_turn")
        assert longest is not None
        assert float(longest["cpu_micros_max"]) > 1000


def test_a_frontend_without_the_meter(redis_port: int, tmp_path: Path) -> None:
    with running_frontend(redis_port, tmp_path / "frontend.log", slow_turn_millis=0) as frontend:
        assert frontend.metric("gauges", "internal:longest_turn") == {}
        assert frontend.metric("counters", "internal:slow_turns") == {"count": "0"}


async def test_it_gets_to_look_between_turns_that_follow_each_other_without_a_pause() -> None:
    """Steps of a large body are made for so long before the loop has its turn."""
    before = sys.getswitchinterval()
    with LoopMeter(LIMIT_SECONDS, Turns(LIMIT_SECONDS, SystemMetrics())):
        assert sys.getswitchinterval() < long_work.TURN_SECONDS
    assert sys.getswitchinterval() == before


def test_turns_with_long_work_are_told_apart_by_a_meter_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's thread may have kept Python's lock for several turns that followed each other without a pause."""
    began = time.perf_counter() - 50.0
    monkeypatch.setattr(long_work, "turn_began_after", lambda loop: began)
    meter = LoopMeter(LIMIT_SECONDS, Turns(LIMIT_SECONDS, SystemMetrics()))
    asked: list[Any] = []
    meter._loop = SimpleNamespace(call_soon_threadsafe=asked.append)  # type: ignore[assignment]
    meter._watched = threading.get_ident()
    meter._cpu_clock = time.pthread_getcpuclockid(meter._watched)
    meter._seen_cpu = time.thread_time() - 200.0
    assert meter._look(100.0)
    assert 50.0 <= time.monotonic() - asked[0].wall < 75.0
    assert 50.0 <= time.thread_time() - asked[0].cpu < 75.0
