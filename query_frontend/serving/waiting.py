"""Decides whether a replica that could take a batch should wait for clients that are expected back.

A client of a closed loop asks again just after it was answered. A replica that takes at once what is queued then splits
such clients into halves, each of which waits for the batch of the other. So these classes learn which part of the
answered clients ask again, and how soon, and a batch waits for them while that pays: `docs/batching.md` derives the
rule.

They are told the time, and have neither a clock nor an event loop.
"""

from math import inf
from typing import Final

from clipper_common.datatypes import ModelId

WAIT_SHARE: Final = 0.3
"""No batch waits for longer than this part of the time that a batch takes however small it is."""
_LEAST_SHARE: Final = 1.5 * WAIT_SHARE
"""The least share of clients that must return before any batch waits for them. Fewer may return by chance: a proxy that
gives each query of an open loop a connection of its pool seems to return with `WAIT_SHARE` of a batch, since it sends
queries evenly while a batch is computed."""
_SHORTEST_WAIT_SECONDS: Final = 0.001
"""The event loop's timers are no finer, so a model does not wait if it may only wait for less."""
_FIRST_SECONDS: Final = 0.0005
_MEMORY: Final = 0.8
"""A batch counts this part of the next one, for the share of clients that return."""
_RANK: Final = 0.9
_STEP: Final = 0.02
_MARGIN: Final = 1.5
"""The multiple, of the time in which nine of ten returning clients do, within which nearly all do."""


class BatchClients:
    """The clients of a batch, each of which may ask again once it is answered."""

    def __init__(self, model_id: ModelId, size: int, expected_at: float = inf) -> None:
        self.model_id = model_id
        self.size = size
        self.expected_at = expected_at
        """Monotonic time at which the batch is expected to be answered."""
        self.answered_at = inf
        self.horizon = 0.0
        """Seconds within which a client must ask again to be waited for."""
        self.num_returned = 0
        self._returns: Returns

    def open(self, returns: "Returns", now: float, horizon: float) -> None:
        """Count the clients that ask again, since the batch is answered now."""
        self._returns = returns
        self.answered_at = now
        self.horizon = horizon

    def note_return(self, model_id: ModelId | None, now: float) -> None:
        """Note that one of the clients asks `model_id`."""
        seconds = now - self.answered_at
        if 0 <= seconds < self.horizon and model_id == self.model_id:
            self.num_returned += 1
            self._returns.learn_seconds(seconds)


class Returns:
    """Estimates which part of the clients of a model version ask again after they were answered, and how soon."""

    def __init__(self) -> None:
        self.share = 0.0
        """The part of the answered clients that ask again in time to be waited for."""
        self._quantile = _FIRST_SECONDS
        self._open: list[BatchClients] = []
        """The clients of the batches that were just answered."""
        self._answered = self._returned = 0.0

    def seconds(self) -> float:
        """Return how long after their batch is answered nearly all clients that return have asked again."""
        return _MARGIN * self._quantile

    def learn_seconds(self, seconds: float) -> None:
        """Learn from a client that asked again `seconds` after its batch was answered."""
        self._quantile *= 1 + _STEP * (_RANK if seconds > self._quantile else _RANK - 1)

    def expect(self, clients: BatchClients, now: float, fixed_seconds: float) -> None:
        """Expect clients of a batch back that is answered now, by a replica whose batches take `fixed_seconds` at
        least."""
        self._close(now)
        horizon = WAIT_SHARE * fixed_seconds
        if horizon >= _SHORTEST_WAIT_SECONDS:
            clients.open(self, now, horizon)
            self._open.append(clients)

    def _close(self, now: float) -> None:
        """Learn from the batches whose clients are not waited for any more."""
        still_open: list[BatchClients] = []
        for clients in self._open:
            if now < clients.answered_at + clients.horizon:
                still_open.append(clients)
            else:
                self._answered = _MEMORY * self._answered + clients.size
                self._returned = _MEMORY * self._returned + min(clients.num_returned, clients.size)
                self.share = self._returned / self._answered
        self._open = still_open

    def are_likely(self) -> bool:
        """Return whether clients may be waited for at all."""
        return self.share >= _LEAST_SHARE and bool(self._open)

    def wait_until(self, queued: int, most: int, gain_seconds: float, latest: float, now: float) -> float:
        """Return until when a batch should wait for more than the `queued` inputs: `now` or earlier if it should not.

        Parameters
        ----------
        queued, most
            How many inputs are there, at least 1, and how many a batch may have.
        gain_seconds
            How much sooner an input is sent that comes in time for this batch.
        latest
            The time at which the batch must be sent, so that it is answered by its nearest deadline.
        """
        expected, until = 0.0, now
        for clients in self._open:
            end = clients.answered_at + min(self.seconds(), clients.horizon)
            if end > now:
                expected += max(self.share * clients.size - clients.num_returned, 0.0)
                until = max(until, end)
        until = min(until, latest)
        pays = min(expected, most - queued) * gain_seconds > queued * (until - now)
        return until if pays else now
