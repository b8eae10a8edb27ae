"""Several real query frontends on one real Redis."""

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT
from clipper_common.records import Application
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot
from clipper_common.wire import Metadata
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, RawContainer, running_container, running_frontend, wait_for

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


def test_one_that_starts_at_an_empty_redis_lets_others_write_back(start: Start, own_redis: OwnRedis) -> None:
    own_redis.start()

    async def write_back() -> None:  # as a frontend that knew an application does
        redis_client = RedisClient("127.0.0.1", own_redis.port)
        app = Application("app", InputType.DOUBLES, "default", 1000)
        await ConfigStore(redis_client)._begin_epoch(Snapshot(applications={"app": app}))
        await redis_client.close()

    with redis.Redis(port=own_redis.port) as client, ThreadPoolExecutor() as pool:
        starting = pool.submit(start, own_redis.port, restore_seconds=60)
        wait_for(
            lambda: client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"] >= 2, "it has looked twice"
        )
        assert not client.get(LAYOUT.epoch.key)
        asyncio.run(write_back())
        assert starting.result(10).predict("app", input=[1.0])["output"] == "default"


# --- containers with a connection to each frontend ---


class Clients:
    """Each asks one frontend one query after the other, with inputs of their own, until the test has seen enough."""

    def __init__(self, app: str, frontends: list[Frontend], of_each: int = 1) -> None:
        self._app = app
        self.stopped = threading.Event()
        self.answers: dict[Frontend, list[Any]] = {frontend: [] for frontend in frontends}
        self._inputs = itertools.count()
        self._threads = [threading.Thread(target=self._ask, args=(frontend,)) for frontend in frontends * of_each]

    def _ask(self, frontend: Frontend) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", frontend.port, timeout=20)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            while not self.stopped.is_set():
                number = next(self._inputs)
                connection.request("POST", f"/{self._app}/predict", json.dumps({"input": [float(number)]}))
                answer = json.loads(connection.getresponse().read())
                self.answers[frontend].append(answer)
                assert answer["default"] or answer["output"] == number

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, number: int, *frontends: Frontend) -> None:
        """That many more answers of each."""
        goals = {frontend: len(self.answers[frontend]) + number for frontend in frontends or self.answers}
        wait_for(lambda: all(len(self.answers[f]) >= goal for f, goal in goals.items()), "answers come", 30)

    def defaults(self, *frontends: Frontend) -> list[Any]:
        return [
            answer for frontend in frontends or self.answers for answer in self.answers[frontend] if answer["default"]
        ]


def is_served(frontend: Frontend, app: str = "app") -> bool:
    return frontend.predict(app, input=[random.random()])["default"] is False


def wait_until_served(*frontends: Frontend, seconds: float = 10.0) -> None:
    for frontend in frontends:
        wait_for(lambda frontend=frontend: is_served(frontend), "it is served", seconds)


def connections_of(frontend: Frontend) -> list[str]:
    """Return the report of the frontend about its containers."""
    return re.findall(r"replica \w+ of \S+ (?:connected|left)", frontend.log.read_text())


@pytest.mark.parametrize("number", [2, 3])
def test_a_container_serves_all_frontends(start: Start, number: int) -> None:
    frontends = [start() for _ in range(number)]
    frontends[0].serve("app", "sum:1")
    with running_container(frontends[0], "sum_container", "sum:1", "doubles"):
        wait_until_served(*frontends)
        wait_for(lambda: numbers(frontends[0]) == [0], "all have the same replica")
        with Clients("app", frontends) as clients:
            clients.wait_for(100)
        assert clients.defaults() == []


def test_a_killed_frontend_disturbs_no_other(start: Start) -> None:
    frontends = [start() for _ in range(3)]
    frontends[0].serve("app", "sum:1", slo_ms=3000)
    with ExitStack() as containers:
        for _ in range(2):
            containers.enter_context(running_container(frontends[0], "sum_container", "sum:1", "doubles"))
        wait_until_served(*frontends)
        first, *others = frontends  # it is the one that the containers were told
        wait_for(lambda: numbers(first) == [0, 1], "both have one number each")
        with Clients("app", frontends) as clients:
            clients.wait_for(50)
            first.process.kill()
            clients.wait_for(50, *others)
            began = time.monotonic()
            while time.monotonic() < began + 7:  # longer than its lease
                assert numbers(others[0]) == [0, 1]
                clients.wait_for(5, *others)
        assert clients.defaults(*others) == []
        with redis.Redis(port=first.redis_port) as client:
            assert len(client.keys(LAYOUT.frontends.prefix + "*")) == 2
        for frontend in others:
            assert not [line for line in connections_of(frontend) if "left" in line]


def test_a_frontend_that_is_added_gets_the_containers_within_seconds(start: Start) -> None:
    first = start()
    first.serve("app", "sum:1")
    with running_container(first, "sum_container", "sum:1", "doubles"):
        wait_until_served(first)
        with Clients("app", [first]) as clients:
            second = start()
            wait_until_served(second, seconds=2.5)
            clients.wait_for(20)
        assert clients.defaults() == []
        assert first.stop() == 0
        wait_for(lambda: numbers(second) == [0], "it still has it")
        assert is_served(second)


def test_when_all_frontends_are_gone_a_fresh_one_at_the_first_address_is_found(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", "sum:1")
    with running_container(first, "sum_container", "sum:1", "doubles"):
        wait_until_served(first, second)
        for frontend in (second, first):
            frontend.process.kill()
            frontend.process.wait(10)
        third = start(rpc_service_port=first.rpc_port)
        wait_until_served(third)
        fourth = start()
        wait_until_served(fourth)


def test_a_frontend_that_cannot_be_reached_where_it_says_is_reached_where_the_container_was_told(start: Start) -> None:
    first = start(advertise="192.0.2.1")  # a documentation address: nobody answers
    first.serve("app", "sum:1")
    with running_container(first, "sum_container", "sum:1", "doubles"):
        wait_until_served(first, seconds=15)


def test_containers_link_and_serve_while_redis_is_away(start: Start, own_redis: OwnRedis) -> None:
    own_redis.start()
    first, second = start(own_redis.port), start(own_redis.port)
    first.serve("app", "sum:1")
    with running_container(first, "sum_container", "sum:1", "doubles"):
        wait_until_served(first, second)
        with Clients("app", [second]) as clients:
            own_redis.kill()
            first.process.kill()
            first.process.wait(10)
            clients.wait_for(50)
            own_redis.start()
            third = start(own_redis.port)
            wait_until_served(third)
            clients.wait_for(50)
        assert clients.defaults() == []
        wait_for(lambda: numbers(third) == [0], "the replica is one")


def test_draining_under_load_loses_no_query(start: Start) -> None:
    frontends = [start() for _ in range(3)]
    frontends[0].serve("app", "sum:1", slo_ms=5000)
    with (
        running_container(frontends[0], "sum_container", "sum:1", "doubles"),
        running_container(frontends[0], "sum_container", "sum:1", "doubles") as leaving,
    ):
        wait_until_served(*frontends)
        wait_for(lambda: all(len(connections_of(frontend)) == 2 for frontend in frontends), "both serve all")
        with Clients("app", frontends) as clients:
            clients.wait_for(50)
            leaving.terminate()
            assert leaving.wait(5) == 0
            clients.wait_for(50)
        assert clients.defaults() == []
        wait_for(lambda: len(numbers(frontends[0])) == 1, "it is gone")


def test_replicas_get_even_shares(start: Start, tmp_path: Path) -> None:
    """Each replica counts its batches, as its model sees them."""
    frontends = [start(), start()]
    frontends[0].serve("app", "m:1", slo_ms=5000, batch_size=1)
    model = tmp_path / "counting.py"
    model.write_text(COUNTING_MODEL)
    with ExitStack() as containers:
        for _ in range(4):
            containers.enter_context(running_container(frontends[0], model, "m:1", "doubles"))
        wait_for(lambda: all(len(connections_of(frontend)) == 4 for frontend in frontends), "all serve both", 30)
        with Clients("app", frontends, of_each=6) as clients:
            clients.wait_for(2400)
        counts = [len(file.read_text()) for file in tmp_path.glob("count-*")]
    assert len(counts) == 4
    even = sum(counts) / 4
    assert all(abs(count - even) < even / 4 for count in counts), counts


COUNTING_MODEL = """
import os, time, rpc

class Counting(rpc.ModelContainerBase):
    def predict_doubles(self, inputs):
        time.sleep(0.002)
        with open(os.path.join(os.path.dirname(__file__), f"count-{os.getpid()}"), "a") as file:
            file.write("x")
        return [str(x.sum()) for x in inputs]

rpc.RPCService().start(Counting())
"""
