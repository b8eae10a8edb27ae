"""The config store against a real Redis."""

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from clipper_common import changes, config_copy, redis_client
from clipper_common.config_copy import ConfigCopy
from clipper_common.config_store import ConfigStore
from clipper_common.layout import LAYOUT
from clipper_common.membership_store import MembershipStore
from clipper_common.records import FrontendReport
from clipper_common.redis_client import refusal_at
from clipper_common.snapshot import Snapshot
from tests.common.configurations import APP, FULL, MODEL, WRITES, Connect, Follow, RedisAt, in_database, spoilt

# --- read and commit ---


async def test_an_empty_redis_is_an_empty_configuration(store: ConfigStore) -> None:
    assert await store.read() == Snapshot()


async def test_what_is_committed_is_read(store: ConfigStore) -> None:
    assert await store.commit(Snapshot(), WRITES) == 1
    assert await store.read() == FULL


async def test_a_commit_leaves_a_schema_version_for_later(store: ConfigStore, client: redis.Redis) -> None:
    await store.commit(Snapshot(), WRITES)
    assert client.get(LAYOUT.schema_version.key) == "1"


async def test_each_commit_is_a_new_revision(store: ConfigStore) -> None:
    revisions = [await store.commit(await store.read(), [changes.put_link("a", str(number))]) for number in range(3)]
    assert revisions == [1, 2, 3]


async def test_a_commit_on_an_old_snapshot_writes_nothing(store: ConfigStore) -> None:
    old = await store.read()
    await store.commit(old, WRITES)
    assert await store.commit(old, changes.delete_application("app")) is None
    assert await store.read() == FULL


async def test_of_commits_at_once_one_wins(connect: Connect, redis_port: int) -> None:
    stores = [connect(redis_port) for _ in range(5)]
    commits = [store.commit(Snapshot(), [changes.put_link("app", str(n))]) for n, store in enumerate(stores)]
    results = await asyncio.gather(*commits)
    assert sorted(results, key=str) == [1, None, None, None, None]
    winner = str(results.index(1))
    assert (await stores[0].read()).links == {"app": (winner,)}


async def test_a_model_that_0_4_marked_as_deleted_is_removed(store: ConfigStore, client: redis.Redis) -> None:
    await store.commit(Snapshot(), WRITES)
    with in_database(client, LAYOUT.models.database) as models:
        models.hdel("m:1", "valid")
        assert (await store.read()).models == {}
        assert models.keys() == []


async def test_records_that_make_no_sense_are_ignored_and_named(
    store: ConfigStore, members: MembershipStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await store.commit(Snapshot(), WRITES)
    for database, key in [
        (LAYOUT.applications.database, "bad app"),
        (LAYOUT.models.database, "bad:1"),
        (LAYOUT.replicas.database, "bad,1,0"),
    ]:
        with in_database(client, database) as other:
            other.hset(key, mapping={"valid": "", "model_name": "bad", "model_version": "1", "model_id": "bad:1"})
            other.set("a key of another type", "x")
    assert await store.read() == FULL
    assert await members.read_replicas() == []
    for what in ("5: application 'bad app'", "2: model 'bad:1'", "3: container 'bad:1'"):
        assert f"in database {what} has no field" in caplog.text
    for database in (LAYOUT.applications.database, LAYOUT.models.database, LAYOUT.replicas.database):
        assert f"'a key of another type' in database {database}: it is a string, and should be a hash" in caplog.text


# --- follow ---


async def test_changes_are_followed_within_100_ms(store: ConfigStore, connect: Connect, follow: Follow) -> None:
    writer = connect(int(store.address.rpartition(":")[2]))
    follower = follow(store)
    await follower.until(lambda _: True)
    for number in range(10):
        revision = await writer.commit(await writer.read(), [changes.put_link("app", str(number))])
        begin = time.perf_counter()
        await follower.until(lambda snapshot, revision=revision: snapshot.revision == revision)
        assert time.perf_counter() - begin < 0.1


async def test_nothing_is_yielded_while_nothing_changes(
    store: ConfigStore, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "CONFIG_POLL_SECONDS", 0.01)
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
    monkeypatch.setattr(redis_client, "CONFIG_POLL_SECONDS", 0.05)
    follower = follow(store)
    await follower.until(lambda _: True)
    with in_database(client, LAYOUT.links.database) as links:
        links.sadd("app", "m")
    client.incr(LAYOUT.revision.key)  # as a commit does, and no message
    await follower.until(lambda snapshot: snapshot.links == {"app": ("m",)})


async def test_a_writer_that_knows_no_revision_is_noticed(
    store: ConfigStore, client: redis.Redis, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "CONFIG_POLL_SECONDS", 0.02)
    monkeypatch.setattr(config_copy, "CONFIG_REREAD_SECONDS", 0.1)
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with in_database(client, LAYOUT.applications.database) as applications:
        applications.hset("other", mapping=APP.to_hash())
        await follower.until(lambda snapshot: set(snapshot.applications) == {"app", "other"})
        applications.delete("app")
        await follower.until(lambda snapshot: set(snapshot.applications) == {"other"})
    with in_database(client, LAYOUT.models.database) as models:
        models.hdel("m:1", "valid")
        await follower.until(lambda snapshot: not snapshot.models)


async def test_a_follower_can_always_be_stopped(
    store: ConfigStore, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "CONFIG_POLL_SECONDS", 0.001)
    for number in range(300):
        follower = follow(store)
        await asyncio.sleep(number % 20 / 5000)
        async with asyncio.timeout(2):
            await follower.stop()


async def test_the_first_follower_begins_an_epoch(
    store: ConfigStore, client: redis.Redis, connect: Connect, redis_port: int, follow: Follow
) -> None:
    await follow(store).until(lambda _: True)
    epoch = client.get(LAYOUT.epoch.key)
    assert epoch
    await follow(connect(redis_port)).until(lambda _: True)
    assert client.get(LAYOUT.epoch.key) == epoch


# --- a Redis that refuses, or goes away ---


async def test_the_follower_says_why_redis_refuses(
    refusing_redis: tuple[int, str], connect: Connect, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    port, said = refusing_redis
    follow(connect(port))
    async with asyncio.timeout(10):
        while said not in caplog.text:
            await asyncio.sleep(0.01)


async def test_protected_mode_is_a_refusal(  # which is seen from other machines only
    connect: Connect, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    async def deny(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-DENIED Redis is running in protected mode because ...\r\n")
        writer.close()

    async with await asyncio.start_server(deny, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "--protected-mode no" in await asyncio.to_thread(refusal_at, "127.0.0.1", port)
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
        assert not client.get(LAYOUT.epoch.key)
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
    monkeypatch.setattr(redis_client, "CONFIG_POLL_SECONDS", 60.0)
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
    await store.commit(Snapshot(), [*changes.put_application(other), changes.put_link("app", "new")])
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
    client.set(LAYOUT.revision.key, before.revision)
    assert await store.commit(before, WRITES) is None


async def test_another_redis_is_adopted(store: ConfigStore, client: redis.Redis, follow: Follow) -> None:
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with client.pipeline() as pipeline:  # as a fail-over to a Redis with a history of its own
        pipeline.flushall()
        pipeline.set(LAYOUT.epoch.key, "another")
        pipeline.execute()
    await follower.until(lambda snapshot: snapshot == Snapshot(epoch="another"))
    assert client.get(LAYOUT.epoch.key) == "another"


async def test_a_redis_that_forbids_config_is_enough(
    own_redis: Any, redis_at: RedisAt, connect: Connect, follow: Follow
) -> None:
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
    await MembershipStore(redis_at(own_redis.port)).claim("c/1")


# --- records that are wrong ---


NO_REVISIONS = ["", "x", "-1", "1e999", "9" * 400, str(2**63 - 1), " 1", "01"]


@pytest.mark.parametrize("revision", [*NO_REVISIONS, None])
async def test_a_change_mends_the_revision(
    store: ConfigStore, members: MembershipStore, client: redis.Redis, follow: Follow, revision: str | None
) -> None:
    await store.commit(Snapshot(), WRITES)
    await members.report(FrontendReport("a", 41))
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    spoilt(client, LAYOUT.revision.key, revision)
    found = await store.read()
    assert (found.revision, list(found.faults)) == (0, [LAYOUT.revision])
    assert found.same_configuration(FULL)
    assert await store.commit(found, [changes.put_workers(5)]) == 42, "above all that frontends serve by"
    assert (await follower.until(lambda snapshot: snapshot.workers == 5)).revision == 42
    assert (await store.read()).faults == {}


@pytest.mark.parametrize("value", ["x y", "", "\n", None, "é", "x" * 65], ids=repr)
async def test_an_epoch_that_is_wrong_counts_as_none(
    store: ConfigStore, client: redis.Redis, follow: Follow, value: str | None
) -> None:
    await store.commit(Snapshot(), WRITES)
    spoilt(client, LAYOUT.epoch.key, value)
    found = await store.read()
    assert (found.epoch, list(found.faults)) == ("", [LAYOUT.epoch])
    assert await store.commit(found, [changes.put_workers(5)]) == 2
    await follow(store).until(lambda snapshot: snapshot.workers == 5)
    assert (await store.read()).faults == {}


@pytest.mark.parametrize("write", [changes.put_model(MODEL), changes.put_link("app", "m"), *WRITES], ids=str)
async def test_a_write_replaces_what_is_of_another_type(
    store: ConfigStore, client: redis.Redis, write: changes.Write
) -> None:
    with in_database(client, write.database) as other:
        spoilt(other, write.command[1], None)
    assert await store.commit(await store.read(), [write, changes.put_workers(7)]) == 1
    assert (await store.read()).faults == {}
    assert (await store.read()).workers == 7


async def test_a_restored_configuration_is_that_of_the_last_good_records(
    store: ConfigStore, client: redis.Redis, follow: Follow
) -> None:
    await store.commit(Snapshot(), WRITES)
    follower = follow(store)
    await follower.until(FULL.same_configuration)
    with in_database(client, LAYOUT.applications.database) as apps:
        apps.hset("app", "latency_slo_micros", "x")
    await store.commit(await store.read(), [changes.put_workers(4)])
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
    with redis.Redis(port=own_redis.port) as client, in_database(client, LAYOUT.applications.database) as apps:
        apps.hset("app", "default_output", b"x" * (50 << 20))
        apps.hset("good", mapping=APP.to_hash())  # type: ignore[arg-type]
        apps.config_resetstat()
        assert list((await store.read()).applications) == ["good"]
        assert apps.info("stats")["total_net_output_bytes"] < 100_000
    assert "ignored what is wrong in Redis: 'app' in database 5: it " in caplog.text


async def test_keys_that_are_wrong_are_named_on_one_line_each_and_not_all(
    store: ConfigStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with in_database(client, LAYOUT.applications.database) as apps:
        for number in range(150):
            apps.set(f"\x1b[31m{number}\n", "x")
        apps.set("\n" + "k" * 100_000, "x")
    await store.read()
    await store.read()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 101
    assert messages[-1] == "ignored 51 more records that are wrong in Redis"
    assert all(message.isprintable() and len(message) < 1200 for message in messages)
