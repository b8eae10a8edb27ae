"""Simulates replicas that are asked by clients in a closed or an open loop, and batches that wait for clients or not.

A batch of n inputs takes ``base + slope * n``, or some 10 % more. The query frontend's own classes learn; only its
event loop, its queue and its clock are simulated.

    python -m tests.query_frontend.serving.batching_simulation
"""

import heapq
import itertools
import random
from collections.abc import Callable
from statistics import fmean
from typing import Final, NamedTuple

from clipper_common.datatypes import ModelId
from query_frontend.serving.batching import LearnedBatchSize
from query_frontend.serving.waiting import BatchClients, Returns

MODEL: Final = ModelId("m", "1")
_WRITE_SECONDS: Final = 12e-6


class Load(NamedTuple):
    """A load of `clients` that ask again once they are answered, and of others that come at `rate` per second."""

    clients: int = 0
    rate: float = 0.0
    pool: int = 0
    """The connections of a proxy by which the others come; 0 if each has a connection of its own."""
    back_seconds: float = 0.00035
    base: float = 0.0055
    slope: float = 8e-6
    replicas: int = 1
    slo_seconds: float = 0.05
    seconds: float = 10.0
    waits: bool = True


class Figures(NamedTuple):
    """The outcome of a load, without its first fifth, in which much is learned."""

    throughput: float
    p50_millis: float
    p99_millis: float
    late: float
    batch_size: float
    share: float
    window_millis: float


class _Input(NamedTuple):
    asked: float
    client: int | None


class _Batch(NamedTuple):
    inputs: list[_Input]
    sent_at: float
    answered: BatchClients


class _Simulation:
    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._queue: list[_Input] = []
        self._idle = list(range(load.replicas))
        self._busy: dict[int, _Batch] = {}
        self._sizers = [LearnedBatchSize() for _ in self._idle]
        self._returns = Returns()
        self._answered: dict[int, BatchClients] = {}
        self._pool: list[int] = list(range(-load.pool, 0))
        self._timer = 0
        self._times: list[float] = []
        self._sizes: list[int] = []
        self._num_late = 0

    def run(self) -> Figures:
        load = self._load
        for client in range(load.clients):
            self._at(self._random.uniform(0, 0.005), lambda client=client: self._ask(client))
        if load.rate:
            self._at(0.0, self._arrive)
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            if self._now > load.seconds:
                break
            happen()
        self._times.sort()
        count = len(self._times)
        return Figures(
            count / (0.8 * load.seconds),
            1e3 * self._times[count // 2],
            1e3 * self._times[int(0.99 * count)],
            self._num_late / count,
            fmean(self._sizes),
            self._returns.share,
            1e3 * self._returns.seconds(),
        )

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _arrive(self) -> None:
        self._at(self._now + self._random.expovariate(self._load.rate), self._arrive)
        self._ask(self._pool.pop() if self._pool else None)

    def _ask(self, client: int | None) -> None:
        if client is not None and (batch := self._answered.pop(client, None)):
            batch.note_return(MODEL, self._now)
        self._queue.append(_Input(self._now, client))
        self._dispatch()

    def _dispatch(self, waited: bool = False) -> None:
        while self._idle and self._queue:
            replica = self._idle[0]
            sizer = self._sizers[replica]
            most = sizer.choose(0.46 * self._load.slo_seconds)
            if self._load.waits and not waited and len(self._idle) == 1 and self._wait(sizer, most):
                return
            most = min(most, -(-len(self._queue) // len(self._idle)))
            self._send(self._idle.pop(0), most)

    def _wait(self, sizer: LearnedBatchSize, most: int) -> bool:
        if not self._returns.are_likely():
            return False
        queued = len(self._queue)
        seconds = sizer.expect(min(queued, most))
        ends = [
            batch.sent_at + self._sizers[replica].expect(len(batch.inputs)) for replica, batch in self._busy.items()
        ]
        gain = min([seconds, *(max(end - self._now, 0.0) for end in ends)])
        latest = self._queue[0].asked + 0.95 * self._load.slo_seconds - seconds
        until = self._returns.wait_until(queued, most, gain, latest, self._now)
        if until <= self._now:
            return False
        self._timer += 1
        self._at(until, lambda timer=self._timer: self._end_wait(timer))
        return True

    def _end_wait(self, timer: int) -> None:
        if timer == self._timer:
            self._dispatch(True)

    def _send(self, replica: int, most: int) -> None:
        self._timer += 1
        drawn, self._queue = self._queue[:most], self._queue[most:]
        self._busy[replica] = _Batch(drawn, self._now, BatchClients(MODEL, len(drawn)))
        if self._now > 0.2 * self._load.seconds:
            self._sizes.append(len(drawn))
        noise = 1 + 0.1 * abs(self._random.gauss(0, 1))
        seconds = (self._load.base + self._load.slope * len(drawn)) * noise
        self._at(self._now + seconds, lambda: self._answer(replica))

    def _answer(self, replica: int) -> None:
        batch = self._busy.pop(replica)
        sizer = self._sizers[replica]
        sizer.observe(len(batch.inputs), self._now - batch.sent_at)
        self._returns.expect(batch.answered, self._now, sizer.fixed())
        for place, (asked, client) in enumerate(batch.inputs):
            written = self._now + place * _WRITE_SECONDS
            if self._now > 0.2 * self._load.seconds:
                self._times.append(written - asked)
                self._num_late += written - asked > self._load.slo_seconds
            if client is None:
                continue
            self._answered[client] = batch.answered
            if client < 0:
                self._at(written, lambda client=client: self._pool.append(client))
            else:
                back = self._load.back_seconds * self._random.uniform(0.5, 1.5)
                self._at(written + back, lambda client=client: self._ask(client))
        self._idle.append(replica)
        self._dispatch()


def simulate(load: Load, seed: int = 1) -> Figures:
    """Return what comes of a load."""
    return _Simulation(load, seed).run()


LOADS: Final = {
    **{f"{clients} clients": Load(clients) for clients in (1, 2, 4, 16, 64, 256)},
    **{f"{rate}/s": Load(rate=rate) for rate in (50, 500, 2000, 4000, 9000)},
    **{f"{rate}/s by a proxy": Load(rate=rate, pool=256) for rate in (50, 500, 2000, 4000, 9000)},
    "16 clients and 1000/s": Load(16, rate=1000),
    "16 clients and 2400/s": Load(16, rate=2400),
    "64 clients and 6000/s": Load(64, rate=6000),
    "32 clients, 2 replicas": Load(32, replicas=2),
    "64 clients, 3 replicas": Load(64, replicas=3),
    "2 clients, 2 replicas": Load(2, replicas=2),
    "16 clients, linear": Load(16, base=0.0, slope=5e-4),
    "16 slow clients": Load(16, back_seconds=0.003),
    "16 clients, 50 ms model": Load(16, back_seconds=0.005, base=0.05, slope=1e-3, slo_seconds=0.5, seconds=60),
}


def main() -> None:
    print(f"{'':24} {'at once':>40}   {'with waits':>40}")
    for name, load in LOADS.items():
        at_once, waiting = simulate(load._replace(waits=False)), simulate(load)
        texts = [
            f"{figures.throughput:7.0f}/s p50 {figures.p50_millis:5.1f} p99 {figures.p99_millis:5.1f} ms "
            f"late {100 * figures.late:4.1f} % n {figures.batch_size:5.1f}"
            for figures in (at_once, waiting)
        ]
        print(f"{name:24} {'   '.join(texts)}   rho {waiting.share:4.2f} W {waiting.window_millis:4.1f} ms")


if __name__ == "__main__":
    main()
