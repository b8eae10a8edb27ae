"""Several real query frontends on one real Redis."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clipper_common.datatypes import InputType, ModelId
from clipper_common.wire import Metadata
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, RawContainer, running_frontend, wait_for

pytestmark = pytest.mark.integration

MODEL = ModelId("m", "1")
Start = Callable[..., Frontend]


@pytest.fixture
def start(redis_port: int, tmp_path: Path) -> Iterator[Start]:
    """Starts frontends on one Redis, which containers can reach."""
    with ExitStack() as frontends:

        def start(port: int = redis_port, **flags: Any) -> Frontend:
            log = tmp_path / f"frontend-{len(list(tmp_path.iterdir()))}.log"
            return frontends.enter_context(running_frontend(port, log, **{"advertise": "127.0.0.1"} | flags))

        yield start


@pytest.fixture
def join() -> Iterator[Callable[..., RawContainer]]:
    """Connects hand-made containers."""
    made: list[RawContainer] = []

    def join(frontend: Frontend, name: str | None = None) -> RawContainer:
        made.append(RawContainer(frontend.rpc_port))
        made[-1].join(Metadata(MODEL, InputType.DOUBLES, 4 if name else 3, name))
        return made[-1]

    yield join
    for container in made:
        container.close()


def numbers(frontend: Frontend) -> list[int]:
    return [replica.replica_id for replica in frontend.replicas()]


def test_replicas_of_two_frontends_are_all_known_and_a_killed_frontends_expire(start: Start, join: Any) -> None:
    first, second = start(), start()
    join(first)
    first.wait_for_replicas(1)
    join(second)
    join(second, "both")
    second.wait_for_replicas(3)
    join(first, "both")
    wait_for(lambda: numbers(first) == [0, 1, 2], "the replica that both have is one")
    first.process.send_signal(signal.SIGKILL)
    wait_for(lambda: numbers(second) == [1, 2], "the replica that only the dead one had is gone")
    wait_for(lambda: {replica.replica_id for replica in second.replicas()} == {1, 2}, "the others stay")


def test_a_frontend_that_stops_leaves_the_others_their_replicas(start: Start, join: Any) -> None:
    first, second = start(), start()
    join(first)
    join(second)
    first.wait_for_replicas(2)
    assert first.stop() == 0
    assert len(second.replicas()) == 1


def test_a_frontend_that_starts_disturbs_nobodys_replicas(start: Start, join: Any) -> None:
    first = start()
    container = join(first, "only")
    first.serve("app", slo_ms=5000)
    first.wait_for_replicas(1)
    second = start()
    assert numbers(second) == [0]
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(first.predict, "app", input=[1.0])
        container.answer(container.receive_batch(), [b"1"], 4)
        assert reply.result()["output"] == 1


def test_a_change_is_in_effect_at_all_frontends_when_it_returns(start: Start) -> None:
    frontends = [start(), start()]
    for number in range(10):
        frontends[number % 2].serve(f"app{number}", slo_ms=1)
        for frontend in frontends:
            assert frontend.predict(f"app{number}", input=[1.0])["default"] is True


def test_redis_away_and_emptied(start: Start, join: Any, own_redis: OwnRedis) -> None:
    own_redis.start()
    first, second = start(own_redis.port), start(own_redis.port)
    join(first)
    first.wait_for_replicas(1)
    join(second, "both")
    second.wait_for_replicas(2)
    own_redis.kill()
    join(second)
    join(first, "both")
    own_redis.start()
    wait_for(lambda: numbers(first) == [0, 1, 2], "all replicas are known again, by their numbers")
