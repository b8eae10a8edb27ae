"""The config store against a real Redis."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from clipper_common import config_copy, records
from clipper_common import store as store_module
from clipper_common.config_copy import ConfigCopy
from clipper_common.datatypes import InputType, ModelId
from clipper_common.errors import ClipperException
from clipper_common.records import Application, Frontend, FrontendReport, Model, Replica, Snapshot
from clipper_common.store import ConfigStore, StoreError

Connect = Callable[[int], ConfigStore]

APP = Application("app", InputType.INTS, 'say "é"\U0001f600\x00\n', 20000)
MODEL = Model(ModelId("m", "1"), InputType.INTS, ("a", "b"), "image:1", "DEPRECATED", -1, "r")
WRITES = [
    *records.put_application(APP),
    records.put_model(MODEL),
    records.put_current_version(MODEL.id),
    records.put_link("app", "m"),
    records.put_workers(3),
]
FULL = Snapshot(1, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m",)}, workers=3)


Follow = Callable[[ConfigStore], Any]


@pytest.fixture
def client(redis_port: int) -> Iterator[redis.Redis]:
    """The same Redis, as Clipper 0.4 or an administrator sees it."""
    with redis.Redis(port=redis_port, decode_responses=True) as client:
        yield client


def in_database(client: redis.Redis, database: int) -> redis.Redis:
    pool = redis.ConnectionPool(**client.connection_pool.connection_kwargs | {"db": database})
    return redis.Redis.from_pool(pool)


# --- read and commit ---


async def test_an_empty_redis_is_an_empty_configuration(store: ConfigStore) -> None:
    assert await store.read() == Snapshot()


async def test_what_is_committed_is_read(store: ConfigStore) -> None:
    assert await store.commit(Snapshot(), WRITES) == 1
    assert await store.read() == FULL


async def test_a_commit_leaves_a_schema_version_for_later(store: ConfigStore, client: redis.Redis) -> None:
    await store.commit(Snapshot(), WRITES)
    assert client.get(records.SCHEMA_KEY) == "1"


async def test_each_commit_is_a_new_revision(store: ConfigStore) -> None:
    revisions = [await store.commit(await store.read(), [records.put_link("a", str(number))]) for number in range(3)]
    assert revisions == [1, 2, 3]


async def test_a_commit_on_an_old_snapshot_writes_nothing(store: ConfigStore) -> None:
    old = await store.read()
    await store.commit(old, WRITES)
    assert await store.commit(old, records.delete_application("app")) is None
    assert await store.read() == FULL


async def test_of_commits_at_once_one_wins(connect: Connect, redis_port: int) -> None:
    stores = [connect(redis_port) for _ in range(5)]
    commits = [store.commit(Snapshot(), [records.put_link("app", str(n))]) for n, store in enumerate(stores)]
    results = await asyncio.gather(*commits)
    assert sorted(results, key=str) == [1, None, None, None, None]
    winner = str(results.index(1))
    assert (await stores[0].read()).links == {"app": (winner,)}


async def test_a_model_that_0_4_marked_as_deleted_is_removed(store: ConfigStore, client: redis.Redis) -> None:
    await store.commit(Snapshot(), WRITES)
    with in_database(client, records.MODEL_DB) as models:
        models.hdel("m:1", "valid")
        assert (await store.read()).models == {}
        assert models.keys() == []


async def test_records_that_make_no_sense_are_ignored_and_named(
    store: ConfigStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await store.commit(Snapshot(), WRITES)
    for database, key in [
        (records.APPLICATION_DB, "bad app"),
        (records.MODEL_DB, "bad:1"),
        (records.REPLICA_DB, "bad,1,0"),
    ]:
        with in_database(client, database) as other:
            other.hset(key, mapping={"valid": "", "model_name": "bad", "model_version": "1", "model_id": "bad:1"})
            other.set("a key of another type", "x")
    assert await store.read() == FULL
    assert await store.read_replicas() == []
    for what in ("5: application 'bad app'", "2: model 'bad:1'", "3: container 'bad:1'"):
        assert f"in database {what} has no field" in caplog.text
    for database in (records.APPLICATION_DB, records.MODEL_DB, records.REPLICA_DB):
        assert f"'a key of another type' in database {database}: it is a string, and should be a hash" in caplog.text


# --- follow ---


async def test_changes_are_followed_within_100_ms(store: ConfigStore, connect: Connect, follow: Follow) -> None:
    writer = connect(int(store.address.rpartition(":")[2]))
    follower = follow(store)
    await follower.until(lambda _: True)
    for number in range(10):
        revision = await writer.commit(await writer.read(), [records.put_link("app", str(number))])
        begin = time.perf_counter()
        await follower.until(lambda snapshot, revision=revision: snapshot.revision == revision)
        assert time.perf_counter() - begin < 0.1


async def test_nothing_is_yielded_while_nothing_changes(
    store: ConfigStore, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CONFIG_POLL_SECONDS", 0.01)
    monkeypatch.setattr(config_copy, "CONFIG_REREAD_SECONDS", 0.01)
    reads = 0
    read = ConfigCopy.read_all

    async def counted(copy: ConfigCopy) -> Any:
        nonlocal reads
        reads += 1
        return await read(copy)

    monkeypatch.setattr(ConfigCopy, "read_all", counted)
    follower = follow(store)
    await follower.until(lambda _: True)
    async with asyncio.timeout(10):
        while reads < 5:
            await asyncio.sleep(0.01)
    assert follower.count == 1


async def test_a_missed_message_costs_a_poll_only(
    store: ConfigStore, client: redis.Redis, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CONFIG_POLL_SECONDS", 0.05)
    follower = follow(store)
    await follower.until(lambda _: True)
    with in_database(client, records.LINK_DB) as links:
        links.sadd("app", "m")
    client.incr(records.REVISION_KEY)  # as a commit does, and no message
    await follower.until(lambda snapshot: snapshot.links == {"app": ("m",)})


async def test_a_writer_that_knows_no_revision_is_noticed(
    store: ConfigStore, client: redis.Redis, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CONFIG_POLL_SECONDS", 0.02)
    monkeypatch.setattr(config_copy, "CONFIG_REREAD_SECONDS", 0.1)
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with in_database(client, records.APPLICATION_DB) as applications:
        applications.hset("other", mapping=APP.to_hash())
        await follower.until(lambda snapshot: set(snapshot.applications) == {"app", "other"})
        applications.delete("app")
        await follower.until(lambda snapshot: set(snapshot.applications) == {"other"})
    with in_database(client, records.MODEL_DB) as models:
        models.hdel("m:1", "valid")
        await follower.until(lambda snapshot: not snapshot.models)


async def test_a_follower_can_always_be_stopped(
    store: ConfigStore, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CONFIG_POLL_SECONDS", 0.001)
    for number in range(300):
        follower = follow(store)
        await asyncio.sleep(number % 20 / 5000)
        async with asyncio.timeout(2):
            await follower.stop()


async def test_the_first_follower_begins_an_epoch(
    store: ConfigStore, client: redis.Redis, connect: Connect, redis_port: int, follow: Follow
) -> None:
    await follow(store).until(lambda _: True)
    epoch = client.get(records.EPOCH_KEY)
    assert epoch
    await follow(connect(redis_port)).until(lambda _: True)
    assert client.get(records.EPOCH_KEY) == epoch


# --- a Redis that refuses, or goes away ---


async def test_the_follower_says_why_redis_refuses(
    refusing_redis: tuple[int, str], connect: Connect, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    port, said = refusing_redis
    follow(connect(port))
    async with asyncio.timeout(10):
        while said not in caplog.text:
            await asyncio.sleep(0.01)


def test_whoever_asks_first_is_told_why_redis_refuses(refusing_redis: tuple[int, str]) -> None:
    port, said = refusing_redis
    assert said in store_module.refusal_at("127.0.0.1", port)


def test_a_read_only_redis_refuses(own_redis: Any) -> None:
    own_redis.start("--replicaof", "127.0.0.1", "1")
    assert "read-only replica" in store_module.refusal_at("127.0.0.1", own_redis.port)


def test_asking_changes_nothing(redis_port: int, client: redis.Redis) -> None:
    client.set("clipper:revision", 1)
    assert store_module.refusal_at("127.0.0.1", redis_port) == ""
    assert client.info("keyspace").keys() == {"db0"} and client.keys() == ["clipper:revision"]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b", "x" * 70 + ".com"])
def test_a_redis_that_does_not_answer_refuses_nothing(host: str, free_port: int) -> None:
    assert store_module.refusal_at(host, free_port) == ""


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "cluster"), TimeoutError("protected mode"), redis.ConnectionError("reset"), OSError()],
)
def test_what_may_pass_is_no_refusal(error: Exception) -> None:
    assert not store_module.refusal(error) and store_module.explain(error)


async def test_protected_mode_is_a_refusal(  # which is seen from other machines only
    connect: Connect, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    async def deny(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-DENIED Redis is running in protected mode because ...\r\n")
        writer.close()

    async with await asyncio.start_server(deny, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "--protected-mode no" in await asyncio.to_thread(store_module.refusal_at, "127.0.0.1", port)
        follow(connect(port))
        async with asyncio.timeout(10):  # now and then the answer is lost in a reset, and only the next is read
            while "--protected-mode no" not in caplog.text:
                await asyncio.sleep(0.01)


async def test_while_redis_is_away_the_follower_waits(
    own_redis: Any, connect: Connect, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    follower = follow(connect(own_redis.port))
    async with asyncio.timeout(10):
        while "does not answer" not in caplog.text:
            await asyncio.sleep(0.01)
    assert follower.count == 0
    await asyncio.to_thread(own_redis.start)
    await follower.until(Snapshot().same_configuration)


async def test_a_redis_that_comes_back_empty_gets_the_last_snapshot_once(
    own_redis: Any, connect: Connect, follow: Follow
) -> None:
    await asyncio.to_thread(own_redis.start)
    stores = [connect(own_redis.port) for _ in range(3)]
    followers = [follow(store) for store in stores]
    for follower in followers:
        await follower.until(lambda _: True)
    revision = await stores[0].commit(await stores[0].read(), WRITES)
    assert revision is not None
    for follower in followers:
        await follower.until(lambda snapshot: snapshot.revision == revision)
    await asyncio.to_thread(own_redis.kill)
    await asyncio.to_thread(own_redis.start)
    for follower in followers:
        restored = await follower.until(lambda snapshot: snapshot.revision > revision)
        assert restored.same_configuration(FULL)
    # One winner: each restoration is one revision more.
    last = await stores[0].read()
    assert last == replace(FULL, revision=revision + 1, epoch=last.epoch)


async def test_who_knows_nothing_lets_others_write_back(
    store: ConfigStore, client: redis.Redis, connect: Connect, redis_port: int
) -> None:
    client.config_resetstat()
    async with contextlib.aclosing(connect(redis_port).follow(patience_seconds=60.0)) as following:
        first = asyncio.ensure_future(anext(following))
        async with asyncio.timeout(10):
            while client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"] < 2:
                await asyncio.sleep(0.01)
        assert not client.get(records.EPOCH_KEY)
        await store._begin_epoch(FULL)
        async with asyncio.timeout(10):
            assert (await first).snapshot.same_configuration(FULL)


async def test_patience_begins_when_redis_answers(
    own_redis: Any, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.aclosing(connect(own_redis.port).follow(patience_seconds=1.5)) as following:
        first = asyncio.ensure_future(anext(following))
        async with asyncio.timeout(10):
            while "does not answer" not in caplog.text:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)  # what it must not count
        started = time.monotonic()
        await asyncio.to_thread(own_redis.start)
        async with asyncio.timeout(10):
            await first
        assert time.monotonic() - started >= 1.5


async def test_who_knows_nothing_takes_the_configuration_from_nobody(
    store: ConfigStore,
    client: redis.Redis,
    connect: Connect,
    redis_port: int,
    follow: Follow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "CONFIG_POLL_SECONDS", 60.0)
    others = [follow(connect(redis_port)) for _ in range(2)]
    for other in others:
        await other.until(lambda _: True)
    await store.commit(await store.read(), WRITES)
    for other in others:
        await other.until(FULL.same_configuration)
    first = (await store.read()).epoch
    client.flushall()
    await store._begin_epoch(None)  # as by one that was started meanwhile, and finds Redis first
    for other in others:
        restored = await other.until(lambda snapshot: not snapshot.epoch.startswith((first, "unknowing-")))
        assert restored.same_configuration(FULL)


async def test_what_was_written_since_redis_came_back_empty_stays(store: ConfigStore) -> None:
    other = replace(APP, default_output="new")
    await store.commit(Snapshot(), [*records.put_application(other), records.put_link("app", "new")])
    await store._begin_epoch(replace(FULL, revision=7, current_versions={"m": "1"}))
    merged = await store.read()
    assert merged.applications == {"app": other}
    assert merged.links == {"app": ("new",)}
    assert (merged.models, merged.current_versions) == (FULL.models, FULL.current_versions)
    assert merged.revision > 7


async def test_several_links_of_one_application_are_all_written_back(store: ConfigStore) -> None:
    snapshot = replace(FULL, links={"app": ("m", "n"), "b": ("m",)})
    await store._begin_epoch(snapshot)
    assert (await store.read()).links == snapshot.links


async def test_what_was_decided_on_a_lost_configuration_is_not_written(store: ConfigStore, client: redis.Redis) -> None:
    await store._begin_epoch(None)
    before = await store.read()
    assert before.epoch
    client.flushall()
    client.set(records.REVISION_KEY, before.revision)
    assert await store.commit(before, WRITES) is None


async def test_another_redis_is_adopted(store: ConfigStore, client: redis.Redis, follow: Follow) -> None:
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with client.pipeline() as pipeline:  # as a fail-over to a Redis with a history of its own
        pipeline.flushall()
        pipeline.set(records.EPOCH_KEY, "another")
        pipeline.execute()
    await follower.until(lambda snapshot: snapshot == Snapshot(epoch="another"))
    assert client.get(records.EPOCH_KEY) == "another"


async def test_calls_fail_within_seconds_when_redis_is_away(free_port: int, connect: Connect) -> None:
    store = connect(free_port)
    async with asyncio.timeout(10):
        for call in (store.read(), store.commit(Snapshot(), WRITES), store.claim("c/1"), store.read_replicas()):
            with pytest.raises(StoreError):
                await call


async def test_a_redis_that_is_stuck_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    monkeypatch.setattr(store_module, "_CALL_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as stuck:  # connects, and never answers
        store = connect(stuck.getsockname()[1])
        async with asyncio.timeout(5):
            with pytest.raises(StoreError):
                await store.read()


async def test_a_store_works_again_after_redis_restarted(own_redis: Any, connect: Connect) -> None:
    await asyncio.to_thread(own_redis.start)
    store = connect(own_redis.port)
    await store.commit(Snapshot(), WRITES)
    await asyncio.to_thread(own_redis.kill)
    with pytest.raises(StoreError):
        await store.read()
    await asyncio.to_thread(own_redis.start)
    assert await store.read() == Snapshot()


async def test_scripts_are_sent_once_to_each_redis(store: ConfigStore, client: redis.Redis) -> None:
    await store.read()
    client.script_flush()
    client.config_resetstat()
    for _ in range(10):
        await store.read()
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}
    assert calls["evalsha"] > 10 and "eval" not in calls
    assert calls["script|load"] < 10


async def test_a_redis_that_forbids_config_is_enough(own_redis: Any, connect: Connect, follow: Follow) -> None:
    await asyncio.to_thread(own_redis.start, "--rename-command", "CONFIG", "")
    with redis.Redis(port=own_redis.port) as client, pytest.raises(redis.ResponseError, match="unknown command"):
        client.config_get("save")
    store = connect(own_redis.port)
    follower = follow(store)
    await follower.until(lambda _: True)
    revision = await store.commit(await store.read(), WRITES)
    begin = time.perf_counter()
    followed = await follower.until(lambda snapshot: snapshot.revision == revision)
    assert time.perf_counter() - begin < 0.1
    assert followed.same_configuration(FULL)
    await store.claim("c/1")


# --- replicas ---


def replica(name: str = "m", number: int = records.UNNUMBERED, connection: int = 0) -> Replica:
    return Replica(ModelId(name, "1"), number, connection, InputType.INTS)


def report(frontend: str, *names: str, number: int = records.UNNUMBERED) -> FrontendReport:
    """One of a frontend that has the replicas of these names."""
    return FrontendReport(frontend, 1, f"tcp://{frontend}:7000", [(name, replica(number=number)) for name in names])


async def test_replicas_are_numbered_per_model_and_read_in_order(store: ConfigStore) -> None:
    replicas = [("x", replica("n")), ("y", replica("m", connection=1)), ("z", replica("m", connection=2))]
    numbers, _ = await store.report(FrontendReport("a", 1, "", replicas))
    assert numbers == [0, 0, 1]
    assert await store.read_replicas() == [replica("m", 0, 1), replica("m", 1, 2), replica("n", 0)]
    await store.report(FrontendReport("a", 1, "", [("z", replica("m", 1, 2))]))
    assert await store.read_replicas() == [replica("m", 1, 2)]
    await store.retire_frontend("a")
    assert await store.read_replicas() == []
    assert await store.read() == Snapshot(), "replicas are no configuration"


async def test_which_frontends_do_not_reach_a_model(store: ConfigStore) -> None:
    model = ModelId("m", "1")
    await store.report(FrontendReport("reaches", 1, "tcp://a:1", reached=frozenset({model, ModelId("n", "1")})))
    assert await store.not_reaching(model) == []
    await store.report(FrontendReport("lacks", 1, "tcp://b:1", reached=frozenset({ModelId("m", "10")})))
    await store.report(FrontendReport("has no address", 1))
    await store._redis.hset(records.FRONTEND_PREFIX + "older", mapping={"revision": "1", "summary": "[]"})
    assert await store.not_reaching(model) == ["lacks"]
    await store.report(FrontendReport("reaches", 1, "tcp://a:1"))
    assert await store.not_reaching(model) == ["lacks", "reaches"]


async def test_changes_of_frontends_are_published(store: ConfigStore) -> None:
    changes = store.follow_frontends()
    await anext(changes)

    async def is_told(of: FrontendReport) -> bool:
        following = asyncio.ensure_future(anext(changes))
        await store.report(of)
        done, _ = await asyncio.wait([following], timeout=0.5)
        if not done:
            following.cancel()
            await asyncio.wait([following])
        return bool(done)

    assert await is_told(report("a", "x"))
    assert await is_told(report("a", "x", "y"))
    assert not await is_told(report("a", "x", "y")), "nothing changed"


async def test_a_replica_of_several_frontends_is_one_record(store: ConfigStore) -> None:
    assert (await store.report(report("a", "both", "only a")))[0] == [0, 1]
    assert (await store.report(report("b", "only b", "both")))[0] == [2, 0]
    assert [found.replica_id for found in await store.read_replicas()] == [0, 1, 2]
    await store.retire_frontend("a")
    assert [found.replica_id for found in await store.read_replicas()] == [0, 2]


async def test_a_replica_that_was_away_keeps_its_number(store: ConfigStore) -> None:
    assert (await store.report(report("a", "x", "y")))[0] == [0, 1]
    await store.report(report("a", "y"))
    assert (await store.report(report("a", "y", "z")))[0] == [1, 2]
    assert (await store.report(report("b", "x")))[0] == [0]


async def test_a_replica_gets_no_number_of_another_model_version(store: ConfigStore) -> None:
    name, version = ("x/y", "1"), ("y", "1/x")
    replicas = [(id_, replace(report("a", id_).replicas[0][1], model=ModelId("m", v))) for id_, v in (name, version)]
    other = (replicas[1][0] + "-other", replicas[1][1])
    both = replace(report("a"), replicas=[other, *replicas])
    assert (await store.report(both))[0] == [0, 0, 1]
    await store.report(replace(both, replicas=[other]))
    assert (await store.report(both))[0] == [0, 0, 1]


async def test_numbers_are_remembered_for_long_after_a_replica_was_last_seen(
    store: ConfigStore, client: redis.Redis
) -> None:
    key = f"{records.REPLICA_NUMBER_PREFIX}m:1,x"
    await store.report(report("a", "x"))
    assert client.pttl(key) > 3_500_000
    client.pexpire(key, 1000)
    await store.report(report("a", "x"))
    assert client.pttl(key) > 3_500_000


async def test_what_numbers_are_counted_by_goes_with_the_last_of_them(store: ConfigStore, client: redis.Redis) -> None:
    count, number = f"{records.REPLICA_COUNT_PREFIX}m:1", f"{records.REPLICA_NUMBER_PREFIX}m:1,x"
    await store.report(report("a", "x"))
    assert client.pttl(count) >= client.pttl(number) > 3_500_000
    for key in (count, number):
        client.pexpire(key, 1000)
    await store.report(report("a", "x"))
    assert client.pttl(count) >= client.pttl(number) > 3_500_000
    client.delete(count)
    assert (await store.report(report("b", "y")))[0] == [1], "not that of one that lives"


async def test_a_record_that_somebody_took_away_comes_back(store: ConfigStore, client: redis.Redis) -> None:
    await store.report(report("a", "x"))
    with in_database(client, records.REPLICA_DB) as replicas:
        replicas.flushdb()
    await store.report(report("a", "x"))
    assert await store.read_replicas() == [replica(number=0)]


async def test_a_report_says_who_lives_and_which_models_they_have(store: ConfigStore) -> None:
    await store.report(
        FrontendReport("a", 1, "tcp://a:7000", [("x", replica("n")), ("y", replica()), ("z", replica())])
    )
    _, frontends = await store.report(FrontendReport("b", 1))
    both = frozenset({ModelId("m", "1"), ModelId("n", "1")})
    assert frontends == [Frontend("a", "tcp://a:7000", both), Frontend("b", "", frozenset())]


async def test_a_frontend_that_fell_silent_expires_with_its_replicas(
    store: ConfigStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FRONTEND_LEASE_SECONDS", 0.05)
    await store.report(report("dead", "x", "y"))
    monkeypatch.setattr(store_module, "FRONTEND_LEASE_SECONDS", 60)
    async with asyncio.timeout(5):
        while len((await store.report(report("alive", "y")))[1]) > 1:
            await asyncio.sleep(0.01)
    assert [found.replica_id for found in await store.read_replicas()] == [1]
    assert await store.wait_until_applied(1, 1)


async def test_the_replicas_of_the_last_frontend_expire_too(
    store: ConfigStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FRONTEND_LEASE_SECONDS", 0.05)
    await store.report(report("dead", "x"))
    async with asyncio.timeout(5):
        while await store.read_replicas():
            await asyncio.sleep(0.01)


async def test_who_starts_in_a_place_ends_the_earlier_life_there(store: ConfigStore) -> None:
    await store.report(report("host:7000:first", "x"))
    await store.report(report("host:7001:other", "y"))
    _, frontends = await store.report(report("host:7000:second"), place="host:7000:")
    assert [frontend.id for frontend in frontends] == ["host:7000:second", "host:7001:other"]
    assert [found.replica_id for found in await store.read_replicas()] == [1]


async def test_numbers_survive_a_redis_that_lost_all(store: ConfigStore, client: redis.Redis) -> None:
    await store.report(report("a", "x", "y", "z"))
    client.flushall()
    known = FrontendReport("a", 1, "", [("new", replica()), ("z", replica(number=2)), ("y", replica(number=0))])
    assert (await store.report(known))[0] == [1, 2, 0]
    # Another that was quicker took the number: the later one gets a new one.
    assert (await store.report(report("b", "w", number=2)))[0] == [3]
    assert [found.replica_id for found in await store.read_replicas()] == [0, 1, 2, 3]


async def test_a_dead_replica_leaves_its_number_to_nobody(store: ConfigStore) -> None:
    await store.report(report("a", "x"))
    await store.report(report("a"))
    assert (await store.report(report("a", "y")))[0] == [1]


def spoilt(client: redis.Redis, key: str, value: str | dict[str, str] | None) -> None:
    """Write a record as somebody who knows nothing of Clipper; None is one of a type that nothing has."""
    if value is None:
        client.delete(key)
        client.rpush(key, "x")
    elif isinstance(value, dict):
        client.hset(key, mapping=value)  # type: ignore[arg-type]
    else:
        client.delete(key)
        client.set(key, value)


OWN, OTHER = records.FRONTEND_PREFIX + "a", records.FRONTEND_PREFIX + "b"
GARBAGE = ["", "x", "[", "7", "null", "[7]", "[[]]", '[["x",{}]]', '[["x",{"model_name":7}]]', "{}", "[" * 2000]


@pytest.mark.parametrize("value", ["x", None], ids=["text", "list"])
@pytest.mark.parametrize(
    "key",
    [
        *(
            OWN,
            OTHER,
            records.LIVING_KEY,
            f"{records.REPLICA_NUMBER_PREFIX}m:1,x",
            f"{records.REPLICA_COUNT_PREFIX}m:1",
        ),
        *(records.CLUSTER_KEY, records.LAST_CLUSTER_KEY, records.FRONTEND_PREFIX, records.FRONTEND_PREFIX + "\n"),
    ],
)
async def test_what_frontends_write_is_written_anew(
    store: ConfigStore, client: redis.Redis, key: str, value: str | None
) -> None:
    await lose(store, client, key, value)


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("name", ["said", "keys", "numbers", "memory", "replicas", "summary", "address", "revision"])
@pytest.mark.parametrize("key", [OWN, OTHER])
async def test_a_field_of_a_frontend_is_written_anew(
    store: ConfigStore, client: redis.Redis, key: str, name: str, value: str
) -> None:
    await lose(store, client, key, {name: value})


async def lose(store: ConfigStore, client: redis.Redis, key: str, value: str | dict[str, str] | None) -> None:
    """Two frontends report on, whatever becomes of a record of theirs."""
    for frontend, name in (("a", "x"), ("b", "y")):
        await store.report(report(frontend, name))
    spoilt(client, key, value)
    for _ in range(2):
        for frontend, name in (("a", "w"), ("b", "z"), ("a", "x"), ("b", "y")):  # changes, so that all is looked at
            numbers, frontends = await store.report(report(frontend, name))
            assert len(numbers) == 1 and numbers[0] in range(100)
    assert [frontend.id for frontend in frontends] == ["a", "b"]
    assert {found.zmq_connection_id for found in await store.read_replicas()} == {0}
    assert len(await store.read_replicas()) == 2
    assert await store.wait_until_applied(1, 1)
    assert await store.not_reaching(ModelId("n", "1")) == ["a", "b"]
    if key not in (records.CLUSTER_KEY, records.LAST_CLUSTER_KEY) or value is None:
        await store.claim("c/1")


@pytest.mark.parametrize("fields", [{"revision": "0"}, {"summary": "[]"}, {"replicas": "[]", "summary": '["c","",[]]'}])
async def test_a_frontend_that_nobody_renews_is_gone_in_time(
    store: ConfigStore, client: redis.Redis, fields: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it came: it has no lease of its own, and is not to be waited for with each change."""
    await store.report(report("a", "x"))
    client.hset(records.FRONTEND_PREFIX + "c", mapping=fields)  # type: ignore[arg-type]
    monkeypatch.setattr(store_module, "FRONTEND_LEASE_SECONDS", 0.2)
    async with asyncio.timeout(5):
        await store.report(report("a", "x"))
        while client.exists(records.FRONTEND_PREFIX + "c"):
            await asyncio.sleep(0.01)
    await store.report(report("a", "x"))
    version = store._frontends[0]
    _, frontends = await store.report(report("a", "x"))
    assert [frontend.id for frontend in frontends] == ["a"]
    assert store._frontends[0] == version, "frontends have been told that something changed, for nothing"


@pytest.mark.parametrize("number", ["", "x", "-1", "-5000000000", "1e9", "9" * 400, "1.5"])
@pytest.mark.parametrize("key", [f"{records.REPLICA_NUMBER_PREFIX}m:1,y", f"{records.REPLICA_COUNT_PREFIX}m:1"])
async def test_numbers_that_are_none_number_nothing(
    store: ConfigStore, client: redis.Redis, key: str, number: str
) -> None:
    await store.report(report("a", "x"))
    client.set(key, number)
    assert (await store.report(report("a", "x", "y")))[0] == [0, 1]
    assert (await store.report(report("a", "x", "y")))[0] == [0, 1]


@pytest.mark.parametrize("value", ["x", None, {"zmq_connection_id": "x"}, {"model_name": "\n"}, {"model_name": "n"}])
async def test_a_replica_that_is_wrong_is_left_out_until_it_is_written_anew(
    store: ConfigStore, client: redis.Redis, value: str | dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await store.report(report("a", "x", "y"))
    with in_database(client, records.REPLICA_DB) as replicas:
        spoilt(replicas, "m,1,0", value)
    assert await store.read_replicas() == [replica(number=1)]
    assert await store.read_replicas() == [replica(number=1)]
    assert caplog.text.count("ignored what is wrong in Redis: 'm,1,0' in database 3: ") == 1
    await store.report(report("b"))
    assert await store.read_replicas() == [replica(number=0), replica(number=1)]
    assert "no longer wrong in Redis: 'm,1,0' in database 3" in caplog.text


async def test_a_replica_whose_record_is_of_another_type_is_written_anew_within_a_report(
    store: ConfigStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await store.report(report("a", "x"))
    with in_database(client, records.REPLICA_DB) as replicas:
        spoilt(replicas, "m,1,0", "x")
    await store.report(report("a", "x"))
    assert await store.read_replicas() == [replica(number=0)]
    assert "removed what was wrong in Redis: 'm,1,0' in database 3" in caplog.text


async def test_numbers_begin_anew_after_the_last_one(store: ConfigStore, client: redis.Redis) -> None:
    await store.report(report("a", "x"))
    client.set(f"{records.REPLICA_COUNT_PREFIX}m:1", "999999998")
    assert (await store.report(report("a", "x", "y", "z")))[0] == [0, 999999998, 999999999]
    assert (await store.report(report("a", "x", "y", "z", "w")))[0] == [0, 999999998, 999999999, 1]
    assert [found.replica_id for found in await store.read_replicas()] == [0, 1, 999999998, 999999999]


async def test_replicas_of_two_models_may_have_one_name(store: ConfigStore) -> None:
    both = FrontendReport("a", 1, "", [("same", replica("m")), ("same", replica("n", connection=1))])
    for _ in range(2):
        assert (await store.report(both))[0] == [0, 0]
    assert await store.read_replicas() == [replica("m", 0), replica("n", 0, 1)]


# --- records that are wrong ---

NO_REVISIONS = ["", "x", "-1", "1e999", "9" * 400, str(2**63 - 1), " 1", "01"]


@pytest.mark.parametrize("revision", [*NO_REVISIONS, None])
async def test_a_change_mends_the_revision(
    store: ConfigStore, client: redis.Redis, follow: Follow, revision: str | None
) -> None:
    await store.commit(Snapshot(), WRITES)
    await store.report(FrontendReport("a", 41))
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    spoilt(client, records.REVISION_KEY, revision)
    found = await store.read()
    assert (found.revision, list(found.faults)) == (0, [records.REVISION_PLACE])
    assert found.same_configuration(FULL)
    assert await store.commit(found, [records.put_workers(5)]) == 42, "above all that frontends serve by"
    assert (await follower.until(lambda snapshot: snapshot.workers == 5)).revision == 42
    assert (await store.read()).faults == {}


@pytest.mark.parametrize("value", ["x y", "", "\n", None, "é", "x" * 65], ids=repr)
async def test_an_epoch_that_is_wrong_counts_as_none(
    store: ConfigStore, client: redis.Redis, follow: Follow, value: str | None
) -> None:
    await store.commit(Snapshot(), WRITES)
    spoilt(client, records.EPOCH_KEY, value)
    found = await store.read()
    assert (found.epoch, list(found.faults)) == ("", [records.EPOCH_PLACE])
    assert await store.commit(found, [records.put_workers(5)]) == 2
    await follow(store).until(lambda snapshot: snapshot.workers == 5)
    assert (await store.read()).faults == {}


@pytest.mark.parametrize("write", [records.put_model(MODEL), records.put_link("app", "m"), *WRITES], ids=str)
async def test_a_write_replaces_what_is_of_another_type(
    store: ConfigStore, client: redis.Redis, write: records.Write
) -> None:
    with in_database(client, write.database) as other:
        spoilt(other, write.command[1], None)
    assert await store.commit(await store.read(), [write, records.put_workers(7)]) == 1
    assert (await store.read()).faults == {}
    assert (await store.read()).workers == 7


async def test_a_restored_configuration_is_that_of_the_last_good_records(
    store: ConfigStore, client: redis.Redis, follow: Follow
) -> None:
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with in_database(client, records.APPLICATION_DB) as apps:
        apps.hset("app", "latency_slo_micros", "x")
    await store.commit(await store.read(), [records.put_workers(4)])
    await follower.until(lambda snapshot: snapshot.workers == 4)
    client.flushall()
    restored = await follower.until(lambda snapshot: snapshot.revision > 3)
    assert restored.applications == {"app": APP}
    assert (await store.read()).applications == {"app": APP}


@pytest.mark.parametrize("arguments", [(), ("--rename-command", "MEMORY", "")], ids=["measured", "read"])
async def test_a_huge_value_is_not_sent(
    own_redis: Any, connect: Connect, arguments: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Measured by Redis, or where it may not, read by it all the same, but not by us."""
    own_redis.start(*arguments)
    store = connect(own_redis.port)
    await store.commit(Snapshot(), WRITES)
    with redis.Redis(port=own_redis.port) as client, in_database(client, records.APPLICATION_DB) as apps:
        apps.hset("app", "default_output", b"x" * (50 << 20))
        apps.hset("good", mapping=APP.to_hash())  # type: ignore[arg-type]
        apps.config_resetstat()
        assert list((await store.read()).applications) == ["good"]
        assert apps.info("stats")["total_net_output_bytes"] < 100_000
    assert "ignored what is wrong in Redis: 'app' in database 5: it " in caplog.text


async def test_keys_that_are_wrong_are_named_on_one_line_each_and_not_all(
    store: ConfigStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with in_database(client, records.APPLICATION_DB) as apps:
        for number in range(150):
            apps.set(f"\x1b[31m{number}\n", "x")
        apps.set("\n" + "k" * 100_000, "x")
    await store.read()
    await store.read()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 101
    assert messages[-1] == "ignored 51 more records that are wrong in Redis"
    assert all(message.isprintable() and len(message) < 1200 for message in messages)


@pytest.mark.parametrize("name", ["", "é\U0001f600", 'a"\\/b', "x" * 1024, "\x00"])
async def test_any_name_of_a_replica_will_do(store: ConfigStore, name: str) -> None:
    for _ in range(2):
        assert (await store.report(report("a", name)))[0] == [0]


# --- which cluster ---


async def test_a_redis_belongs_to_one_cluster(connect: Connect, redis_port: int) -> None:
    first, second = connect(redis_port), connect(redis_port)
    await first.claim("first/123")
    await first.claim("first/123")
    with pytest.raises(ClipperException, match=f"Redis at 127.0.0.1:{redis_port} is used by .* 'first'"):
        await second.claim("second/456")
    with pytest.raises(ClipperException):
        await second.claim("first/456")  # the same name, and yet another cluster
    await first.release("first/123")
    await second.claim("second/456")


async def test_another_cluster_begins_with_its_own_number_of_workers(connect: Connect, redis_port: int) -> None:
    store = connect(redis_port)
    await store.claim("first/123")
    assert await store.commit(await store.read(), [records.put_workers(3), *WRITES]) is not None
    before = await store.read()
    await store.release("first/123")
    await store.claim("first/123")
    assert await store.read() == before, "a restart"
    await store.release("first/123")
    await store.claim("second/456")
    after = await store.read()
    assert after.workers is None
    assert after.revision > before.revision
    assert after.applications == before.applications, "the rest is taken over"


@pytest.mark.parametrize("value", ["", "a\nb", "\x1b[31m", "x" * 2000, None])
async def test_what_is_no_cluster_owns_nothing(store: ConfigStore, client: redis.Redis, value: str | None) -> None:
    spoilt(client, records.CLUSTER_KEY, value)
    await store.claim("c/1")
    assert client.get(records.CLUSTER_KEY) == "c/1"


async def test_only_the_owner_can_release(store: ConfigStore) -> None:
    await store.claim("first/123")
    await store.release("second/456")
    with pytest.raises(ClipperException):
        await store.claim("second/456")


async def test_a_claim_ends_by_itself(store: ConfigStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CLUSTER_LEASE_SECONDS", 0.1)
    await store.claim("first/123")
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(ClipperException):
                await store.claim("second/456")
                break
            await asyncio.sleep(0.01)


# --- which query frontends follow ---


async def test_without_query_frontends_all_is_applied(store: ConfigStore) -> None:
    assert await store.wait_until_applied(1, 1)


async def test_every_query_frontend_is_waited_for(store: ConfigStore) -> None:
    await store.report(FrontendReport("a", 2))
    await store.report(FrontendReport("b", 1))
    assert not await store.wait_until_applied(2, 0.05)
    waiting = asyncio.create_task(store.wait_until_applied(2, 10))
    await store.report(FrontendReport("b", 3))
    async with asyncio.timeout(5):
        assert await waiting


async def test_a_query_frontend_that_left_is_not_waited_for(store: ConfigStore) -> None:
    await store.report(FrontendReport("a", 1))
    await store.retire_frontend("a")
    assert await store.wait_until_applied(2, 1)


async def test_a_query_frontend_that_fell_silent_is_not_waited_for(
    store: ConfigStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FRONTEND_LEASE_SECONDS", 0.05)
    await store.report(FrontendReport("a", 1))
    assert await store.wait_until_applied(2, 5)
