"""However many applications and models are registered, a change or a scrape makes no query of another one late."""

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from managers import MANAGERS
from open_loop import NEEDS_GENERATOR, OpenLoop, check_harms_nobody

from clipper_admin import ClipperConnection, ProcessContainerManager
from clipper_admin.deployers.python import create_endpoint
from clipper_common import changes
from clipper_common.changes import Write
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Application, Model
from clipper_common.redis_client import RedisClient

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(180), NEEDS_GENERATOR]

RATE = 200.0
SLO_MICROS = 500_000
APPLICATIONS = 2000
AT_ONCE = 20


@pytest.fixture(scope="module")
def conn(clipper_home: Path) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(MANAGERS["process"]("many"))
    conn.start_clipper()
    try:
        create_endpoint(conn, "neighbour", "doubles", sums, slo_micros=SLO_MICROS)
        asyncio.run(fill(redis_port(conn)))
        yield conn
    finally:
        conn.stop_all()


def sums(inputs: Any) -> Any:
    return [float(sum(each)) for each in inputs]


def redis_port(conn: ClipperConnection) -> int:
    manager = conn.cm
    assert isinstance(manager, ProcessContainerManager)
    return int(manager.redis_port)


def registered(number: int) -> list[Write]:
    model = ModelId(f"m{number}", "1")
    return [
        *changes.put_application(Application(f"a{number}", InputType.DOUBLES, "-1", 100_000)),
        changes.put_model(Model(model, InputType.DOUBLES)),
        changes.put_current_version(model),
        changes.put_link(f"a{number}", model.name),
    ]


async def fill(port: int) -> None:
    redis_client = RedisClient("127.0.0.1", port)
    store, members = ConfigStore(redis_client), MembershipStore(redis_client)
    try:
        for begin in range(0, APPLICATIONS, AT_ONCE):
            some = [write for number in range(begin, begin + AT_ONCE) for write in registered(number)]
            revision = await store.commit(await store.read_latest(), some)
            assert revision is not None and await members.wait_until_applied(revision, 30.0)
    finally:
        await redis_client.close()


@pytest.fixture(scope="module")
def load(conn: ClipperConnection) -> Iterator[OpenLoop]:
    with OpenLoop(f"http://{conn.get_query_addr()}/neighbour/predict", RATE).running() as load:
        yield load


def register(conn: ClipperConnection) -> None:
    for number in range(20):
        conn.register_application(f"new{number}", "doubles", "-1", 100_000)
    for number in range(20):
        conn.delete_application(f"new{number}")


def scrape(conn: ClipperConnection) -> None:
    for _ in range(2):
        counters = get(conn.get_query_addr(), "/metrics")["counters"]
        assert len(counters) > 2 * APPLICATIONS


def change_by_hand(conn: ClipperConnection) -> None:
    """Everything is read again, and half of it has changed."""
    with redis.Redis(port=redis_port(conn)) as client:
        client.select(LAYOUT.applications.database)
        with client.pipeline() as pipeline:
            for number in range(APPLICATIONS // 2):
                pipeline.hset(f"a{number}", "default_output", "changed")
            pipeline.execute()
        client.select(LAYOUT.home)
        client.incr(LAYOUT.revision.key)
        client.publish(LAYOUT.changes_channel, "")
    conn.register_application("last", "doubles", "-1", 100_000)  # it is in effect when what was before it is
    assert post(conn.get_query_addr(), "a0")["output"] == "changed"
    conn.delete_application("last")


def get(address: str, path: str) -> Any:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def post(address: str, app: str) -> Any:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", f"/{app}/predict", json.dumps({"input": [1.0]}))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.mark.parametrize("change", [register, scrape, change_by_hand])
def test_a_change_or_a_scrape_harms_nobody(
    change: Callable[[ClipperConnection], None], conn: ClipperConnection, load: OpenLoop
) -> None:
    check_harms_nobody(load, change.__name__, SLO_MICROS / 1e6, lambda: change(conn))
