"""An application that sends queries at a steady rate over kept connections, without waiting for earlier answers."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

LATE: Final = "default: Failed to retrieve a prediction response within the specified latency SLO"
_MOST_LATE: Final = 0.005
_PRESSURE: Final = Path("/proc/pressure/cpu")


@dataclass
class Step:
    """The results of the queries of a period."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    """``ok``, or what was wrong."""
    outputs: Counter[Any] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Seconds since each query was due."""
    seconds: float = 0.0
    pressure: float = 0.0
    """The share of the time in which something on this machine waited for a processor (PSI of the Linux kernel)."""

    @property
    def mishaps(self) -> dict[str, int]:
        return {outcome: number for outcome, number in self.outcomes.items() if outcome != "ok"}

    @property
    def losses(self) -> dict[str, int]:
        """The mishaps, but not what came late on a machine that had too much to do."""
        return {outcome: number for outcome, number in self.mishaps.items() if outcome != LATE or self.pressure < 0.6}

    def late_share(self, slo_seconds: float) -> float:
        """The share of queries that were answered after their deadline."""
        over = sum(latency > slo_seconds for latency in self.latencies)
        return max(self.outcomes[LATE], over) / max(self.outcomes.total(), 1)

    def __str__(self) -> str:
        latencies = sorted(self.latencies)
        p50, p99 = (1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
        worst = 1000 * latencies[-1]
        return (
            f"{self.name}: {self.seconds:.0f} s, {self.outcomes.total()} queries, {self.mishaps or 'no mishap'}, "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {worst:.0f} ms, processors short {self.pressure:.0%} of the time"
        )


class OpenLoop:
    """Asks `url` `rate` times a second, each time for another input. What it sees is noted in `step`."""

    def __init__(self, url: str, rate: float = 100.0, connections: int = 32) -> None:
        self.steps: list[Step] = []
        self.between = Step("between the steps")
        self._url = url
        self._rate = rate
        self._connections = connections
        self._ends = threading.Event()
        self._step = self.between

    @contextmanager
    def running(self) -> Iterator["OpenLoop"]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            thread.join(60)

    @contextmanager
    def step(self, name: str, before: float = 1.0, after: float = 2.0) -> Iterator[Step]:
        """Note apart what happens during the block, and for some seconds around it."""
        self._step = step = Step(name)
        self.steps.append(step)
        started, stalled = time.monotonic(), _stalled_seconds()
        self._wait(before)
        yield step
        self._wait(after)
        step.seconds = time.monotonic() - started
        step.pressure = (_stalled_seconds() - stalled) / step.seconds
        self._step = self.between
        self._wait(1.0)  # for answers that are due

    @staticmethod
    def _wait(seconds: float) -> None:
        threading.Event().wait(seconds)

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as queries:
            start = time.monotonic()
            number = 0
            while not self._ends.is_set():
                due = start + number / self._rate
                await asyncio.sleep(due - time.monotonic())
                queries.create_task(self._ask(session, self._step, float(number), due))
                number += 1

    async def _ask(self, session: aiohttp.ClientSession, step: Step, number: float, due: float) -> None:
        try:
            async with session.post(self._url, json={"input": [number, 1.0]}) as response:
                answer = await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            outcome = f"{type(error).__name__}: {error}"
        else:
            outcome = f"{response.status}: {answer}" if response.status != 200 else "ok"
            if response.status == 200 and answer["default"]:
                outcome = f"default: {answer['default_explanation']}"
            step.outputs[answer.get("output")] += 1
        step.outcomes[outcome] += 1
        step.latencies.append(time.monotonic() - due)


def check_harms_nobody(load: OpenLoop, name: str, slo_seconds: float, attack: Callable[[], None]) -> Step:
    """Check that `attack` costs `load` no query, and makes few more late than the seconds before it.

    What is late is measured once more if need be: a busy machine may be late once.
    """
    for attempt in (1, 2):
        with load.step("alone", before=0.5, after=0.5) as alone:
            pass
        with load.step(name, before=0.1, after=0.5) as beside:
            attack()
        print(alone, beside, sep="\n")
        assert beside.mishaps.keys() <= {LATE}
        most_late = alone.late_share(slo_seconds) + _MOST_LATE
        if beside.late_share(slo_seconds) <= most_late or attempt == 2:
            break
    assert beside.late_share(slo_seconds) <= most_late
    return beside


def _stalled_seconds() -> float:
    return int(_PRESSURE.read_text().split()[4].removeprefix("total=")) / 1e6 if _PRESSURE.exists() else 0.0
