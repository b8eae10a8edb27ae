"""Whether a batch waits for clients that are expected back, and what that brings."""

from math import inf

import pytest

from clipper_common.datatypes import ModelId
from query_frontend.serving.waiting import WAIT_SHARE, BatchClients, Returns
from tests.query_frontend.serving.batching_simulation import LOADS, Load, simulate

MODEL = ModelId("m", "1")
FIXED = 0.01
"""The seconds that a batch takes however small it is."""


def answer(returns: Returns, now: float, size: int = 10, fixed: float = FIXED) -> BatchClients:
    clients = BatchClients(MODEL, size)
    returns.expect(clients, now, fixed)
    return clients


def taught(num_returned: int = 10, after: float = 0.001) -> Returns:
    """A batch of ten clients is answered again and again; `num_returned` of them ask again after so many seconds."""
    returns = Returns()
    for batch in range(100):
        clients = answer(returns, float(batch))
        for _ in range(num_returned):
            clients.note_return(MODEL, batch + after)
    return returns


def wait(returns: Returns, queued: int, now: float, most: int = 100, gain: float = FIXED, latest: float = inf) -> float:
    """Return for how long to wait."""
    if not returns.are_likely():
        return 0.0
    return max(returns.wait_until(queued, most, gain, latest, now) - now, 0.0)


def test_nobody_is_expected_before_anybody_returned() -> None:
    returns = Returns()
    answer(returns, 0.0)
    assert wait(returns, 1, 0.0001) == 0


def test_the_share_of_clients_that_return_is_learned_and_how_soon() -> None:
    returns = taught(num_returned=8, after=0.001)
    answer(returns, 100.0)
    assert returns.share == pytest.approx(0.8)
    assert returns.seconds() == pytest.approx(0.0015, rel=0.05)


def test_a_batch_waits_until_all_that_are_expected_are_back() -> None:
    returns = taught(num_returned=8)
    clients = answer(returns, 100.0)
    for number in range(8):
        assert wait(returns, 1 + number, 100.0005) == pytest.approx(0.001, rel=0.1), number
        clients.note_return(MODEL, 100.0005)
    assert wait(returns, 9, 100.0005) == 0


def test_a_batch_waits_no_longer_than_clients_take_to_return() -> None:
    returns = taught()
    answer(returns, 100.0)
    assert 0 < wait(returns, 1, 100.001) < 0.0006
    assert wait(returns, 1, 100.0016) == 0


def test_a_batch_does_not_wait_if_many_would_wait_for_few() -> None:
    returns = taught()
    clients = answer(returns, 100.0)
    for _ in range(9):
        clients.note_return(MODEL, 100.0001)
    assert wait(returns, 5, 100.0001) > 0  # one is missing: 1 * 10 ms against 5 * 1.4 ms
    assert wait(returns, 9, 100.0001) == 0
    assert wait(returns, 5, 100.0001, gain=0.002) == 0  # another replica is about to be free
    assert wait(returns, 5, 100.0001, most=5) == 0  # it is full


def test_a_batch_waits_no_longer_than_its_first_deadline_allows() -> None:
    returns = taught()
    answer(returns, 100.0)
    assert wait(returns, 1, 100.0, latest=100.0004) == pytest.approx(0.0004)
    assert wait(returns, 1, 100.0, latest=99.0) == 0


def test_a_lone_client_is_back_when_it_asks() -> None:
    returns = Returns()
    for batch in range(100):
        clients = answer(returns, float(batch), size=1)
        clients.note_return(MODEL, batch + 0.0005)
        assert wait(returns, 1, batch + 0.0005) == 0
    assert returns.share == 1


@pytest.mark.parametrize("num_returned", [0, 3, 4])
def test_few_returns_may_be_chance(num_returned: int) -> None:
    """So it is behind a proxy, where any query may come by a connection that was just answered."""
    returns = taught(num_returned)
    answer(returns, 100.0)
    assert returns.share == pytest.approx(num_returned / 10)
    assert wait(returns, 1, 100.0) == 0


def test_clients_that_return_too_late_are_not_waited_for() -> None:
    returns = taught(after=WAIT_SHARE * FIXED * 1.1)
    answer(returns, 100.0)
    assert returns.share == 0


def test_only_clients_that_ask_the_same_model_return() -> None:
    returns = Returns()
    clients = answer(returns, 0.0)
    clients.note_return(ModelId("other", "1"), 0.001)
    clients.note_return(None, 0.001)
    assert clients.num_returned == 0
    clients.note_return(ModelId("m", "1"), 0.001)
    assert clients.num_returned == 1


def test_a_batch_that_is_not_answered_has_no_clients_that_return() -> None:
    clients = BatchClients(MODEL, 10)
    clients.note_return(MODEL, 1.0)
    assert clients.num_returned == 0


def test_a_quick_model_expects_nobody() -> None:
    """A timer of the event loop is as long as all that it may wait."""
    returns = Returns()
    for batch in range(100):
        clients = answer(returns, float(batch), fixed=0.003)
        for _ in range(10):
            clients.note_return(MODEL, batch + 0.0001)
    assert wait(returns, 1, 99.0001) == 0


def test_clients_of_several_batches_are_waited_for_at_once() -> None:
    returns = taught()
    answer(returns, 100.0)
    answer(returns, 100.001)
    assert wait(returns, 1, 100.0012) == pytest.approx(0.0013, rel=0.1)
    assert wait(returns, 90, 100.0012, gain=0.01) == 0


# --- simulated ---


@pytest.mark.parametrize(("clients", "more"), [(2, 1.8), (4, 1.8), (16, 1.7), (64, 1.5), (256, 1.1)])
def test_clients_of_a_closed_loop_get_more_answers(clients: int, more: float) -> None:
    load = LOADS[f"{clients} clients"]._replace(seconds=5.0)
    at_once, waiting = simulate(load._replace(waits=False)), simulate(load)
    assert waiting.throughput > more * at_once.throughput
    assert waiting.p50_millis < at_once.p50_millis / (1 + (more - 1) / 2)


@pytest.mark.parametrize(
    "name", ["1 clients", "500/s", "4000/s", "500/s by a proxy", "4000/s by a proxy", "16 clients, linear"]
)
def test_nobody_else_waits(name: str) -> None:
    load = LOADS[name]._replace(seconds=5.0)
    at_once, waiting = simulate(load._replace(waits=False)), simulate(load)
    assert waiting.throughput > 0.98 * at_once.throughput
    assert waiting.p50_millis < 1.02 * at_once.p50_millis
    assert waiting.p99_millis < 1.05 * at_once.p99_millis


def test_clients_in_a_mixed_load_and_of_several_replicas_get_more_answers() -> None:
    for load in (Load(16, rate=1000, seconds=5.0), Load(32, replicas=2, seconds=5.0)):
        assert simulate(load).throughput > 1.2 * simulate(load._replace(waits=False)).throughput
