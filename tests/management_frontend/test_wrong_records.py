"""Requests beside records in Redis that are wrong, and requests that need one of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from aiohttp.test_utils import TestClient

from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT, Place
from clipper_common.membership_store import MembershipStore
from clipper_common.records import FrontendReport, Replica
from tests.management_frontend.test_routes import (
    MODEL_OBJECT,
    Post,
    add_app,
    add_model,
    arrange,
    link,
    unlink,
    versioned,
)
from tests.management_frontend.test_routes import container as container_of

APP = LAYOUT.application_place("app")
LINKS = LAYOUT.links_place("app")
VERSION = Place(LAYOUT.models.database, "m:1")
CURRENT = LAYOUT.current_version_place("m")
REPLICA = Place(LAYOUT.replicas.database, "m,1,0")
WORKERS = LAYOUT.workers

GOOD: list[Post] = [
    add_app(),
    add_model(),
    link("m"),
    add_app(name="good"),
    add_model(model_name="n"),
    link("n", app="good"),
]


class Redis:
    """Writes as somebody who knows nothing of Clipper."""

    def __init__(self, port: int) -> None:
        self._port = port

    def spoil(self, place: Place, **fields: str | bytes) -> None:
        """Set `fields` of a hash, or make it a list: no record is one."""
        with redis.Redis(port=self._port, db=place.database) as client:
            if fields:
                client.hset(place.key, mapping=fields)  # type: ignore[arg-type]
            else:
                client.delete(place.key)
                client.rpush(place.key, "x")

    def keys(self, place: Place) -> list[bytes]:
        with redis.Redis(port=self._port, db=place.database) as client:
            found: list[bytes] = client.keys()
            return found


@pytest.fixture
def somebody(redis_port: int) -> Iterator[Redis]:
    yield Redis(redis_port)


NEEDING: list[tuple[Place, Post]] = [
    (APP, ("get_application", {"name": "app"})),
    (APP, ("get_linked_models", {"app_name": "app"})),
    (APP, ("get_state", {"app_name": "app", "uid": 0})),
    (APP, add_app()),
    (APP, link("m")),
    (APP, unlink("m")),
    (LINKS, ("get_application", {"name": "app"})),
    (LINKS, ("get_linked_models", {"app_name": "app"})),
    (LINKS, link("n")),
    (LINKS, unlink("m")),
    (VERSION, versioned("get_model")),
    (VERSION, add_model()),
    (VERSION, versioned("set_model_version")),
    (VERSION, ("set_batching", {"model_name": "m", "model_version": "1", "batch_size": 3})),
    (VERSION, link("m", app="lonely")),
    (CURRENT, versioned("get_model")),
    (CURRENT, link("m", app="lonely")),
    (WORKERS, ("get_query_frontend_workers", {})),
    (REPLICA, container_of(0)),
]


@pytest.mark.parametrize(("place", "post"), NEEDING, ids=lambda value: str(value)[:60])
async def test_a_request_that_needs_it_is_told_which_record_is_wrong(
    client: TestClient, store: ConfigStore, somebody: Redis, place: Place, post: Post
) -> None:
    await arrange(client, [*GOOD, add_app(name="lonely")])
    somebody.spoil(place)
    before = await store.read()
    answer = await client.post(f"/admin/{post[0]}", json=post[1])
    assert (answer.status, answer.content_type) == (409, "application/json")
    wanted = "hash" if place.database in (2, 3, 5) else "set" if place == LINKS else "string"
    cause = f"What Redis has as {place} cannot be used: it is a list, and should be a {wanted}. Mend it or delete it."
    assert await answer.json() == {"error": "Wrong record in Redis", "cause": cause}
    assert await store.read() == before


@pytest.mark.parametrize("place", [APP, LINKS, VERSION, CURRENT, WORKERS, REPLICA, LAYOUT.revision], ids=str)
async def test_all_other_requests_are_served(client: TestClient, somebody: Redis, place: Place) -> None:
    async def ask(route: str, **body: Any) -> Any:
        answer = await client.post(f"/admin/{route}", json=body)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    await arrange(client, GOOD)
    somebody.spoil(place)
    apps, models = await ask("get_all_applications", verbose=False), await ask("get_all_models", verbose=False)
    assert apps == ["good"] if place == APP else sorted(apps) == ["app", "good"]
    assert models == ["n:1"] if place == VERSION else sorted(models) == ["m:1", "n:1"]
    assert {app["name"] for app in await ask("get_all_applications", verbose=True)} == set(apps)
    assert {f"{model['model_name']}:1" for model in await ask("get_all_models", verbose=True)} == set(models)
    assert await ask("get_all_containers", verbose=True) == []
    assert (await ask("get_application", name="good"))["linked_models"] == ["n"]
    assert await ask("get_model", model_name="n", model_version="1") == MODEL_OBJECT | {"model_name": "n"}
    await arrange(client, [add_app(name="new"), add_model(model_name="new"), link("new", app="new")])
    assert (await ask("get_application", name="new"))["linked_models"] == ["new"]


async def test_a_replica_that_is_wrong_is_not_listed(
    client: TestClient, members: MembershipStore, somebody: Redis
) -> None:
    replica = Replica(ModelId("m", "1"), 0, 7, InputType.INTS)
    await members.report(FrontendReport("frontend", 1, "", [("x", replica), ("y", replica)]))
    somebody.spoil(REPLICA, zmq_connection_id="abc")
    answer = await client.post("/admin/get_all_containers", json={"verbose": False})
    assert await answer.json() == ["m:1:1"]


MENDING: list[tuple[Place, list[Post]]] = [
    (APP, [("delete_app", {"name": "app"}), add_app(), link("m")]),
    (LINKS, [("delete_app", {"name": "app"}), add_app(), link("m")]),
    (VERSION, [versioned("delete_versioned_model"), add_model()]),
    (CURRENT, [versioned("set_model_version")]),
    (WORKERS, [("set_query_frontend_workers", {"workers": 2})]),
    (LAYOUT.revision, [add_app(name="third")]),
]


@pytest.mark.parametrize(("place", "posts"), MENDING, ids=lambda value: str(value)[:40])
async def test_requests_that_mend(
    client: TestClient, store: ConfigStore, somebody: Redis, place: Place, posts: list[Post]
) -> None:
    await arrange(client, GOOD)
    good = await store.read()
    somebody.spoil(place)
    assert list((await store.read()).faults) == [place]
    await arrange(client, posts)
    mended = await store.read()
    assert mended.faults == {}
    assert set(mended.applications) >= set(good.applications) and set(mended.models) == set(good.models)
    assert (mended.links, mended.current_versions) == (good.links, good.current_versions)


async def test_the_reason_is_one_line(client: TestClient, somebody: Redis) -> None:
    await arrange(client, GOOD)
    somebody.spoil(APP, latency_slo_micros="1\n\x1b[31m" + "9" * 400)
    cause = (await (await client.post("/admin/get_application", json={"name": "app"})).json())["cause"]
    assert cause.isprintable() and len(cause) < 400
    assert r"has latency_slo_micros='1\n\x1b[31m9999" in cause and "which is no whole number" in cause
