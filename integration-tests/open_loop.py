"""An application that asks at a steady rate, whatever becomes of earlier queries: `bench.open_loop`, step by step."""

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.open_loop import Load, Outcome, Result, RunningLoad
from bench.workloads import MARK

NEEDS_GENERATOR: Final = pytest.mark.usefixtures("load_generator")
"""Marks tests that offer such a load."""
LATE: Final = "default: Failed to retrieve a prediction response within the specified latency SLO"
_MOST_LATE: Final = 0.005
_PRESSURE: Final = Path("/proc/pressure/cpu")
_LONGEST_SECONDS: Final = 1200.0
_GRACE_SECONDS: Final = 30.0


@dataclass
class Step:
    """The outcomes of the queries of an interval."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    """``ok``, or what was wrong."""
    outputs: Counter[Any] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Seconds from when each query was due to its answer."""
    seconds: float = 0.0
    pressure: float = 0.0
    """The share of the time in which something on this machine waited for a processor (PSI of the Linux kernel)."""

    def add(self, result: Result) -> None:
        """Count what became of the queries of a load."""
        reasons = list(result.reasons)
        for outcome, place in zip(result.outcome.tolist(), result.reason.tolist(), strict=True):
            reason = reasons[place] if place >= 0 else ""
            if outcome == Outcome.OK and reason:
                self.outputs[json.loads(reason)] += 1
            name = Outcome(outcome).name.lower()
            self.outcomes[f"{name}: {reason}" if reason and outcome != Outcome.OK else name] += 1
        self.outcomes += Counter({"answers that nobody asked for": result.surplus})
        self.latencies += result.latency[result.latency >= 0].tolist()

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
    """Asks `url` `rate` times a second, each time for another input: a number of its own, and 1.

    Each step has a load of its own, and so has the time between them. With `is_echoed`, the output is to be that
    number; with `keeps_outputs`, steps count the outputs, of which there are a few different ones.
    """

    def __init__(
        self,
        url: str,
        rate: float = 100.0,
        connections: int = 32,
        is_echoed: bool = False,
        keeps_outputs: bool = False,
    ) -> None:
        self.steps: list[Step] = []
        self.between = Step("between the steps")
        parts = urlsplit(url)
        self._load = Load(
            parts.port or 80,
            parts.path,
            rate,
            _LONGEST_SECONDS,
            connections,
            body=b'{"input":[%b,1.0]}' % MARK,
            arrivals="uniform",
            grace_seconds=_GRACE_SECONDS,
            host=socket.gethostbyname(parts.hostname or ""),
            is_echoed=is_echoed,
            keeps_outputs=keeps_outputs,
        )
        self._num_queries = 0

    @contextmanager
    def running(self) -> Iterator["OpenLoop"]:
        self._running = self._begin()
        try:
            yield self
        finally:
            self._end(self.between)

    @contextmanager
    def step(self, name: str, before: float = 1.0, after: float = 2.0) -> Iterator[Step]:
        """Note apart what happens during the block, and for some seconds around it."""
        self._end(self.between)
        step = Step(name)
        self.steps.append(step)
        started, stalled = time.monotonic(), _stalled_seconds()
        self._running = self._begin()
        try:
            self._wait(before)
            yield step
            self._wait(after)
        finally:
            self._end(step)
            step.seconds = time.monotonic() - started
            step.pressure = (_stalled_seconds() - stalled) / step.seconds
            self._running = self._begin()
        self._wait(1.0)  # in which what the step left behind would show

    @staticmethod
    def _wait(seconds: float) -> None:
        threading.Event().wait(seconds)

    def _begin(self) -> RunningLoad:
        return RunningLoad(replace(self._load, first_input=self._num_queries))

    def _end(self, step: Step) -> None:
        with self._running as running:
            running.end()
            result = running.result()
        self._num_queries += result.offered
        step.add(result)


def check_harms_nobody(load: OpenLoop, name: str, slo_seconds: float, attack: Callable[[], None]) -> Step:
    """Check that `attack` costs `load` no query, and makes few more late than the seconds before it.

    What is late is measured once more if need be: a busy machine may be late once.
    """
    for attempt in (1, 2):
        with load.step("alone", before=0.5, after=0.5) as alone:
            pass
        with load.step(name, before=0.3, after=0.5) as beside:
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
