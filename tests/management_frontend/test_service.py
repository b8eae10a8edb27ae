"""Tests of changes beside concurrent changes, and with a Redis that does not answer."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
import redis
from aiohttp.test_utils import TestClient, TestServer

from clipper_common import changes
from clipper_common.changes import Write
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.errors import QueryError
from clipper_common.layout import Place
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Application, FrontendReport, Model
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot
from management_frontend import app, link_rules, rules, service
from management_frontend.config import Config
from management_frontend.rules import Change
from management_frontend.schemas import AddApplication, AddModel, ModelLinks, SetBatching, VersionedModel
from management_frontend.service import BusyError, ChangeService, LostConfigurationError

WANTED = AddApplication("app", InputType.INTS, "-1", 20000)
APP = Application("app", InputType.INTS, "-1", 20000)


def add_application(snapshot: Snapshot) -> Change:
    return rules.add_application(snapshot, WANTED)


class ContestedStore:
    """A store whose next `conflicts` commits come too late."""

    def __init__(self, conflicts: int) -> None:
        self.conflicts = conflicts
        self.reads = 0

    async def read_latest(self, *places: Place) -> Snapshot:
        self.reads += 1
        return Snapshot(revision=self.reads)

    async def commit(self, based_on: Snapshot, writes: Iterable[Write]) -> int | None:
        assert based_on.revision == self.reads, "the rules must look at what was read last"
        self.conflicts -= 1
        return None if self.conflicts >= 0 else based_on.revision + 1

    async def wait_until_applied(self, revision: int, seconds: float) -> bool:
        assert revision == self.reads + 1
        return True


async def test_a_conflict_is_tried_again_on_what_is_new() -> None:
    store = ContestedStore(conflicts=3)
    text = await ChangeService(store, store).change(add_application)
    assert (text, store.reads) == ("Successfully added application with name 'app'", 4)


async def test_a_change_waits_until_a_lost_configuration_is_back(
    store: ConfigStore, members: MembershipStore, redis_port: int
) -> None:
    changes = ChangeService(store, members)
    await store._begin_epoch(None)
    await changes.change(add_application)
    last = await store.read()
    with redis.Redis(port=redis_port) as client:
        client.flushall()
    again = asyncio.create_task(changes.change(add_application))
    await asyncio.sleep(0.05)  # it is to meet the empty Redis
    assert not again.done()
    await store._begin_epoch(last)  # as a query frontend does
    with pytest.raises(QueryError, match="already exists"):
        await again


async def test_a_lost_configuration_that_does_not_come_back_is_said(
    store: ConfigStore, members: MembershipStore, redis_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RESTORE_SECONDS", 0.1)
    changes = ChangeService(store, members)
    await store._begin_epoch(None)
    await changes.change(add_application)
    with redis.Redis(port=redis_port) as client:
        client.flushall()
    with pytest.raises(LostConfigurationError, match="no query frontend"):
        await changes.change(add_application)


async def test_conflicts_without_end_are_given_up() -> None:
    store = ContestedStore(conflicts=1000)
    with pytest.raises(BusyError, match="changed by other programs"):
        await ChangeService(store, store).change(add_application)


async def test_two_frontends_on_one_redis_add_a_name_once(redis_port: int) -> None:
    clients = [RedisClient("127.0.0.1", redis_port) for _ in range(2)]
    services = [ChangeService(ConfigStore(client), MembershipStore(client)) for client in clients]
    try:
        changes = [services[number % 2].change(add_application) for number in range(20)]
        results = await asyncio.gather(*changes, return_exceptions=True)
    finally:
        for client in clients:
            await client.close()
    assert sum(isinstance(result, str) for result in results) == 1
    refusals = {str(result) for result in results if not isinstance(result, str)}
    assert refusals == {"application 'app' already exists"}


async def test_a_change_returns_when_the_query_frontends_follow(
    client: TestClient, store: ConfigStore, members: MembershipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "APPLY_SECONDS", 30)
    await members.report(FrontendReport("query frontend", 0))
    body = {"name": "app", "input_type": "ints", "default_output": "", "latency_slo_micros": 1}
    adding = asyncio.create_task(client.post("/admin/add_app", json=body))
    async with asyncio.timeout(10):
        while not (snapshot := await store.read()).applications:
            await asyncio.sleep(0.005)
        assert not (await asyncio.wait([adding], timeout=0.1))[0], "answered before the query frontend followed"
        await members.report(FrontendReport("query frontend", snapshot.revision))
        assert (await adding).status == 200


async def test_a_query_frontend_that_does_not_follow_is_not_waited_for(
    store: ConfigStore, members: MembershipStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "APPLY_SECONDS", 0.05)
    await members.report(FrontendReport("query frontend", 0))
    async with asyncio.timeout(5):
        await ChangeService(store, members).change(add_application)
    assert "did not follow revision 1" in caplog.text


async def test_redis_that_does_not_answer_is_named(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_at_all(_: ConfigStore) -> None: ...

    monkeypatch.setattr(app, "_wait_for_redis", not_at_all)
    server = TestServer(app.create_app(Config(redis_ip="127.0.0.1", redis_port=free_port)))
    async with TestClient(server) as client:
        for route in ("get_application", "delete_app"):
            answer = await client.post(f"/admin/{route}", json={"name": "app"})
            assert (answer.status, answer.content_type) == (503, "text/plain")
            assert f"Redis at 127.0.0.1:{free_port} does not answer" in await answer.text()
        assert (await client.get("/admin/ping")).status == 200


# --- rules on configurations that the routes alone do not lead to ---


def model(version: str, kind: InputType) -> Model:
    return Model(ModelId("m", version), kind)


def with_models(*models: Model, current: str | None = None) -> Snapshot:
    return Snapshot(
        applications={"app": APP},
        models={model.id: model for model in models},
        current_versions={} if current is None else {"m": current},
    )


def test_without_a_current_version_all_versions_must_fit_the_application() -> None:
    versions = model("1", InputType.INTS), model("2", InputType.BYTES)
    with pytest.raises(QueryError, match="incompatible input_type 'bytes'"):
        link_rules.add_model_links(with_models(*versions), ModelLinks("app", ("m",)))


@pytest.mark.parametrize("current", [None, "1", "gone"])
def test_a_model_can_be_linked_whatever_its_current_version(current: str | None) -> None:
    snapshot = with_models(model("1", InputType.INTS), current=current)
    change = link_rules.add_model_links(snapshot, ModelLinks("app", ("m",)))
    assert change.writes == [changes.put_link("app", "m")]


def test_only_the_current_version_must_fit_the_application() -> None:
    snapshot = with_models(model("1", InputType.BYTES), model("2", InputType.INTS), current="2")
    assert link_rules.add_model_links(snapshot, ModelLinks("app", ("m",))).writes


async def test_links_that_clipper_0_4_left_behind_do_not_come_back(
    store: ConfigStore, members: MembershipStore
) -> None:
    await store.commit(Snapshot(), [changes.put_link("app", "old")])
    await ChangeService(store, members).change(add_application)
    assert (await store.read()).links == {}


# --- what may be registered from now on, and what was registered before ---


OLD_NAME = "team/a\n\u202eb"
ADD = AddModel(OLD_NAME, "2", (), InputType.INTS, "image", "", -1)


def models(*ids: ModelId) -> Snapshot:
    return Snapshot(models={id_: Model(id_, InputType.INTS) for id_ in ids}, applications={"app": APP})


def test_a_name_that_was_accepted_once_stays_good_for_everything() -> None:
    before = models(ModelId(OLD_NAME, "1"))
    assert rules.add_model(before, ADD, "r").writes
    assert link_rules.add_model_links(before, ModelLinks("app", (OLD_NAME,))).writes
    assert rules.set_batching(before, SetBatching(OLD_NAME, "1", batch_size=2)).writes
    assert rules.set_model_version(before, VersionedModel(OLD_NAME, "1")).writes
    assert rules.delete_versioned_model(before, VersionedModel(OLD_NAME, "1")).writes
    with pytest.raises(QueryError, match="Invalid model name supplied"):
        rules.add_model(models(), ADD, "r")
    with pytest.raises(QueryError, match="Invalid model version supplied"):
        rules.add_model(before, replace(ADD, model_version="1/2"), "r")


def test_there_is_a_limit_for_new_model_versions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_MODEL_VERSIONS", 2)
    wanted = replace(ADD, model_name="m")
    assert rules.add_model(models(ModelId("m", "1")), wanted, "r").writes
    full = models(ModelId("m", "1"), ModelId("n", "1"), ModelId("o", "1"))
    with pytest.raises(QueryError, match="There are 3 model versions, and no more can be added"):
        rules.add_model(full, wanted, "r")
    assert rules.set_batching(full, SetBatching("m", "1", batch_size=2)).writes


def test_there_is_a_limit_for_new_applications_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_APPLICATIONS", 1)
    assert rules.add_application(Snapshot(), WANTED).writes
    with pytest.raises(QueryError, match="There are 1 applications, and no more can be added"):
        rules.add_application(models(), replace(WANTED, name="other"))
    with pytest.raises(QueryError, match="already exists"):
        rules.add_application(models(), WANTED)
