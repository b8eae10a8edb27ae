"""The membership store against a real Redis."""

import asyncio
import contextlib
import logging
from dataclasses import replace

import pytest
import redis

from clipper_common import changes, membership_store, records
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.errors import ClipperException
from clipper_common.layout import LAYOUT
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Frontend, FrontendReport, Replica
from clipper_common.snapshot import Snapshot
from tests.common.configurations import WRITES, RedisAt, in_database, spoilt

# --- which replicas ---


def replica(name: str = "m", number: int = records.UNNUMBERED, connection: int = 0) -> Replica:
    return Replica(ModelId(name, "1"), number, connection, InputType.INTS)


def report(frontend: str, *names: str, number: int = records.UNNUMBERED) -> FrontendReport:
    """One of a frontend that has the replicas of these names."""
    return FrontendReport(frontend, 1, f"tcp://{frontend}:7000", [(name, replica(number=number)) for name in names])


async def test_replicas_are_numbered_per_model_and_read_in_order(store: ConfigStore, members: MembershipStore) -> None:
    replicas = [("x", replica("n")), ("y", replica("m", connection=1)), ("z", replica("m", connection=2))]
    numbers, _ = await members.report(FrontendReport("a", 1, "", replicas))
    assert numbers == [0, 0, 1]
    assert await members.read_replicas() == [replica("m", 0, 1), replica("m", 1, 2), replica("n", 0)]
    await members.report(FrontendReport("a", 1, "", [("z", replica("m", 1, 2))]))
    assert await members.read_replicas() == [replica("m", 1, 2)]
    await members.retire_frontend("a")
    assert await members.read_replicas() == []
    assert await store.read() == Snapshot(), "replicas are no configuration"


async def test_which_frontends_do_not_reach_a_model(members: MembershipStore, client: redis.Redis) -> None:
    model = ModelId("m", "1")
    await members.report(FrontendReport("reaches", 1, "tcp://a:1", reached=frozenset({model, ModelId("n", "1")})))
    assert await members.not_reaching(model) == []
    await members.report(FrontendReport("lacks", 1, "tcp://b:1", reached=frozenset({ModelId("m", "10")})))
    await members.report(FrontendReport("has no address", 1))
    client.hset(LAYOUT.frontends.prefix + "older", mapping={"revision": "1", "summary": "[]"})
    assert await members.not_reaching(model) == ["lacks"]
    await members.report(FrontendReport("reaches", 1, "tcp://a:1"))
    assert await members.not_reaching(model) == ["lacks", "reaches"]


async def test_changes_of_frontends_are_published(members: MembershipStore) -> None:
    changes = members.follow_frontends()
    await anext(changes)

    async def is_told(of: FrontendReport) -> bool:
        following = asyncio.ensure_future(anext(changes))
        await members.report(of)
        done, _ = await asyncio.wait([following], timeout=0.5)
        if not done:
            following.cancel()
            await asyncio.wait([following])
        return bool(done)

    assert await is_told(report("a", "x"))
    assert await is_told(report("a", "x", "y"))
    assert not await is_told(report("a", "x", "y")), "nothing changed"


async def test_a_replica_of_several_frontends_is_one_record(members: MembershipStore) -> None:
    assert (await members.report(report("a", "both", "only a")))[0] == [0, 1]
    assert (await members.report(report("b", "only b", "both")))[0] == [2, 0]
    assert [found.replica_id for found in await members.read_replicas()] == [0, 1, 2]
    await members.retire_frontend("a")
    assert [found.replica_id for found in await members.read_replicas()] == [0, 2]


async def test_a_replica_that_was_away_keeps_its_number(members: MembershipStore) -> None:
    assert (await members.report(report("a", "x", "y")))[0] == [0, 1]
    await members.report(report("a", "y"))
    assert (await members.report(report("a", "y", "z")))[0] == [1, 2]
    assert (await members.report(report("b", "x")))[0] == [0]


async def test_a_replica_gets_no_number_of_another_model_version(members: MembershipStore) -> None:
    name, version = ("x/y", "1"), ("y", "1/x")
    replicas = [(id_, replace(report("a", id_).replicas[0][1], model_id=ModelId("m", v))) for id_, v in (name, version)]
    other = (replicas[1][0] + "-other", replicas[1][1])
    both = replace(report("a"), replicas=[other, *replicas])
    assert (await members.report(both))[0] == [0, 0, 1]
    await members.report(replace(both, replicas=[other]))
    assert (await members.report(both))[0] == [0, 0, 1]


async def test_numbers_are_remembered_for_long_after_a_replica_was_last_seen(
    members: MembershipStore, client: redis.Redis
) -> None:
    key = f"{LAYOUT.replica_numbers.prefix}m:1,x"
    await members.report(report("a", "x"))
    assert client.pttl(key) > 3_500_000
    client.pexpire(key, 1000)
    await members.report(report("a", "x"))
    assert client.pttl(key) > 3_500_000


async def test_what_numbers_are_counted_by_goes_with_the_last_of_them(
    members: MembershipStore, client: redis.Redis
) -> None:
    count, number = f"{LAYOUT.replica_counts.prefix}m:1", f"{LAYOUT.replica_numbers.prefix}m:1,x"
    await members.report(report("a", "x"))
    assert client.pttl(count) >= client.pttl(number) > 3_500_000
    for key in (count, number):
        client.pexpire(key, 1000)
    await members.report(report("a", "x"))
    assert client.pttl(count) >= client.pttl(number) > 3_500_000
    client.delete(count)
    assert (await members.report(report("b", "y")))[0] == [1], "not that of one that lives"


async def test_the_numbers_that_are_remembered_are_limited(members: MembershipStore, client: redis.Redis) -> None:
    """Anybody may connect under names that nobody has registered, and under others a moment later."""
    await members.report(report("a", "x"))
    for begin in range(0, records.MAX_REMEMBERED, 1024):
        names = [f"{begin + number}" for number in range(1024)]
        assert len(set((await members.report(report("a", "x", *names)))[0])) == 1025
    size = client.dbsize()
    assert records.MAX_REMEMBERED <= size < records.MAX_REMEMBERED + 1024
    new = ModelId("new", "1")
    others = [(name, replace(report("a", name).replicas[0][1], model=new)) for name in ("y", "z")]
    both = replace(report("a", "x"), replicas=[*report("a", "x").replicas, *others])
    assert (await members.report(both))[0] == [0, 0, 1]
    version = client.hget(LAYOUT.living_frontends.key, "version")
    assert (await members.report(both))[0] == [0, 0, 1]
    assert client.hget(LAYOUT.living_frontends.key, "version") == version, "nothing has changed"
    assert client.dbsize() == size
    await members.report(report("a"))
    assert (await members.report(report("a", "x")))[0] == [0], "it is remembered"


async def test_a_record_that_somebody_took_away_comes_back(members: MembershipStore, client: redis.Redis) -> None:
    await members.report(report("a", "x"))
    with in_database(client, LAYOUT.replicas.database) as replicas:
        replicas.flushdb()
    await members.report(report("a", "x"))
    assert await members.read_replicas() == [replica(number=0)]


async def test_a_report_says_who_lives_and_which_models_they_have(members: MembershipStore) -> None:
    await members.report(
        FrontendReport("a", 1, "tcp://a:7000", [("x", replica("n")), ("y", replica()), ("z", replica())])
    )
    _, frontends = await members.report(FrontendReport("b", 1))
    both = frozenset({ModelId("m", "1"), ModelId("n", "1")})
    assert frontends == [Frontend("a", "tcp://a:7000", both), Frontend("b", "", frozenset())]


async def test_a_frontend_that_fell_silent_expires_with_its_replicas(
    members: MembershipStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_store, "FRONTEND_LEASE_SECONDS", 0.05)
    await members.report(report("dead", "x", "y"))
    monkeypatch.setattr(membership_store, "FRONTEND_LEASE_SECONDS", 60)
    async with asyncio.timeout(5):
        while len((await members.report(report("alive", "y")))[1]) > 1:
            await asyncio.sleep(0.01)
    assert [found.replica_id for found in await members.read_replicas()] == [1]
    assert await members.wait_until_applied(1, 1)


async def test_the_replicas_of_the_last_frontend_expire_too(
    members: MembershipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_store, "FRONTEND_LEASE_SECONDS", 0.05)
    await members.report(report("dead", "x"))
    async with asyncio.timeout(5):
        while await members.read_replicas():
            await asyncio.sleep(0.01)


async def test_who_starts_in_a_place_ends_the_earlier_life_there(members: MembershipStore) -> None:
    await members.report(report("host:7000:first", "x"))
    await members.report(report("host:7001:other", "y"))
    _, frontends = await members.report(report("host:7000:second"), place="host:7000:")
    assert [frontend.id for frontend in frontends] == ["host:7000:second", "host:7001:other"]
    assert [found.replica_id for found in await members.read_replicas()] == [1]


async def test_numbers_survive_a_redis_that_lost_all(members: MembershipStore, client: redis.Redis) -> None:
    await members.report(report("a", "x", "y", "z"))
    client.flushall()
    known = FrontendReport("a", 1, "", [("new", replica()), ("z", replica(number=2)), ("y", replica(number=0))])
    assert (await members.report(known))[0] == [1, 2, 0]
    # Another that was quicker took the number: the later one gets a new one.
    assert (await members.report(report("b", "w", number=2)))[0] == [3]
    assert [found.replica_id for found in await members.read_replicas()] == [0, 1, 2, 3]


async def test_a_dead_replica_leaves_its_number_to_nobody(members: MembershipStore) -> None:
    await members.report(report("a", "x"))
    await members.report(report("a"))
    assert (await members.report(report("a", "y")))[0] == [1]


OWN, OTHER = LAYOUT.frontends.prefix + "a", LAYOUT.frontends.prefix + "b"


GARBAGE = ["", "x", "[", "7", "null", "[7]", "[[]]", '[["x",{}]]', '[["x",{"model_name":7}]]', "{}", "[" * 2000]


@pytest.mark.parametrize("value", ["x", None], ids=["text", "list"])
@pytest.mark.parametrize(
    "key",
    [
        *(
            OWN,
            OTHER,
            LAYOUT.living_frontends.key,
            f"{LAYOUT.replica_numbers.prefix}m:1,x",
            f"{LAYOUT.replica_counts.prefix}m:1",
        ),
        *(LAYOUT.cluster.key, LAYOUT.last_cluster.key, LAYOUT.frontends.prefix, LAYOUT.frontends.prefix + "\n"),
    ],
)
async def test_what_frontends_write_is_written_anew(
    members: MembershipStore, client: redis.Redis, key: str, value: str | None
) -> None:
    await lose(members, client, key, value)


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("name", ["said", "keys", "numbers", "memory", "replicas", "summary", "address", "revision"])
@pytest.mark.parametrize("key", [OWN, OTHER])
async def test_a_field_of_a_frontend_is_written_anew(
    members: MembershipStore, client: redis.Redis, key: str, name: str, value: str
) -> None:
    await lose(members, client, key, {name: value})


async def lose(members: MembershipStore, client: redis.Redis, key: str, value: str | dict[str, str] | None) -> None:
    """Two frontends report on, whatever becomes of a record of theirs."""
    for frontend, name in (("a", "x"), ("b", "y")):
        await members.report(report(frontend, name))
    spoilt(client, key, value)
    for _ in range(2):
        for frontend, name in (("a", "w"), ("b", "z"), ("a", "x"), ("b", "y")):  # changes, so that all is looked at
            numbers, frontends = await members.report(report(frontend, name))
            assert len(numbers) == 1 and numbers[0] in range(100)
    assert [frontend.id for frontend in frontends] == ["a", "b"]
    assert {found.zmq_connection_id for found in await members.read_replicas()} == {0}
    assert len(await members.read_replicas()) == 2
    assert await members.wait_until_applied(1, 1)
    assert await members.not_reaching(ModelId("n", "1")) == ["a", "b"]
    if key not in (LAYOUT.cluster.key, LAYOUT.last_cluster.key) or value is None:
        await members.claim("c/1")


@pytest.mark.parametrize("fields", [{"revision": "0"}, {"summary": "[]"}, {"replicas": "[]", "summary": '["c","",[]]'}])
async def test_a_frontend_that_nobody_renews_is_gone_in_time(
    members: MembershipStore, client: redis.Redis, fields: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it came: it has no lease of its own, and is not to be waited for with each change."""
    await members.report(report("a", "x"))
    client.hset(LAYOUT.frontends.prefix + "c", mapping=fields)  # type: ignore[arg-type]
    monkeypatch.setattr(membership_store, "FRONTEND_LEASE_SECONDS", 0.2)
    async with asyncio.timeout(5):
        await members.report(report("a", "x"))
        while client.exists(LAYOUT.frontends.prefix + "c"):
            await asyncio.sleep(0.01)
    await members.report(report("a", "x"))
    version = members._frontends[0]
    _, frontends = await members.report(report("a", "x"))
    assert [frontend.id for frontend in frontends] == ["a"]
    assert members._frontends[0] == version, "frontends have been told that something changed, for nothing"


@pytest.mark.parametrize("number", ["", "x", "-1", "-5000000000", "1e9", "9" * 400, "1.5"])
@pytest.mark.parametrize("key", [f"{LAYOUT.replica_numbers.prefix}m:1,y", f"{LAYOUT.replica_counts.prefix}m:1"])
async def test_numbers_that_are_none_number_nothing(
    members: MembershipStore, client: redis.Redis, key: str, number: str
) -> None:
    await members.report(report("a", "x"))
    client.set(key, number)
    assert (await members.report(report("a", "x", "y")))[0] == [0, 1]
    assert (await members.report(report("a", "x", "y")))[0] == [0, 1]


@pytest.mark.parametrize("value", ["x", None, {"zmq_connection_id": "x"}, {"model_name": "\n"}, {"model_name": "n"}])
async def test_a_replica_that_is_wrong_is_left_out_until_it_is_written_anew(
    members: MembershipStore, client: redis.Redis, value: str | dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await members.report(report("a", "x", "y"))
    with in_database(client, LAYOUT.replicas.database) as replicas:
        spoilt(replicas, "m,1,0", value)
    assert await members.read_replicas() == [replica(number=1)]
    assert await members.read_replicas() == [replica(number=1)]
    assert caplog.text.count("ignored what is wrong in Redis: 'm,1,0' in database 3: ") == 1
    await members.report(report("b"))
    assert await members.read_replicas() == [replica(number=0), replica(number=1)]
    assert "no longer wrong in Redis: 'm,1,0' in database 3" in caplog.text


async def test_a_replica_whose_record_is_of_another_type_is_written_anew_within_a_report(
    members: MembershipStore, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await members.report(report("a", "x"))
    with in_database(client, LAYOUT.replicas.database) as replicas:
        spoilt(replicas, "m,1,0", "x")
    await members.report(report("a", "x"))
    assert await members.read_replicas() == [replica(number=0)]
    assert "removed what was wrong in Redis: 'm,1,0' in database 3" in caplog.text


async def test_numbers_begin_anew_after_the_last_one(members: MembershipStore, client: redis.Redis) -> None:
    await members.report(report("a", "x"))
    client.set(f"{LAYOUT.replica_counts.prefix}m:1", "999999998")
    assert (await members.report(report("a", "x", "y", "z")))[0] == [0, 999999998, 999999999]
    assert (await members.report(report("a", "x", "y", "z", "w")))[0] == [0, 999999998, 999999999, 1]
    assert [found.replica_id for found in await members.read_replicas()] == [0, 1, 999999998, 999999999]


async def test_replicas_of_two_models_may_have_one_name(members: MembershipStore) -> None:
    both = FrontendReport("a", 1, "", [("same", replica("m")), ("same", replica("n", connection=1))])
    for _ in range(2):
        assert (await members.report(both))[0] == [0, 0]
    assert await members.read_replicas() == [replica("m", 0), replica("n", 0, 1)]


@pytest.mark.parametrize("name", ["", "é\U0001f600", 'a"\\/b', "x" * 1024, "\x00"])
async def test_any_name_of_a_replica_will_do(members: MembershipStore, name: str) -> None:
    for _ in range(2):
        assert (await members.report(report("a", name)))[0] == [0]


# --- which cluster ---


async def test_a_redis_belongs_to_one_cluster(redis_at: RedisAt, redis_port: int) -> None:
    first, second = MembershipStore(redis_at(redis_port)), MembershipStore(redis_at(redis_port))
    await first.claim("first/123")
    await first.claim("first/123")
    with pytest.raises(ClipperException, match=f"Redis at 127.0.0.1:{redis_port} is used by .* 'first'"):
        await second.claim("second/456")
    with pytest.raises(ClipperException):
        await second.claim("first/456")  # the same name, and yet another cluster
    await first.release("first/123")
    await second.claim("second/456")


async def test_another_cluster_begins_with_its_own_number_of_workers(
    store: ConfigStore, members: MembershipStore
) -> None:
    await members.claim("first/123")
    assert await store.commit(await store.read(), [changes.put_workers(3), *WRITES]) is not None
    before = await store.read()
    await members.release("first/123")
    await members.claim("first/123")
    assert await store.read() == before, "a restart"
    await members.release("first/123")
    await members.claim("second/456")
    after = await store.read()
    assert after.workers is None
    assert after.revision > before.revision
    assert after.applications == before.applications, "the rest is taken over"


@pytest.mark.parametrize("value", ["", "a\nb", "\x1b[31m", "x" * 2000, None])
async def test_what_is_no_cluster_owns_nothing(
    members: MembershipStore, client: redis.Redis, value: str | None
) -> None:
    spoilt(client, LAYOUT.cluster.key, value)
    await members.claim("c/1")
    assert client.get(LAYOUT.cluster.key) == "c/1"


async def test_only_the_owner_can_release(members: MembershipStore) -> None:
    await members.claim("first/123")
    await members.release("second/456")
    with pytest.raises(ClipperException):
        await members.claim("second/456")


async def test_a_claim_ends_by_itself(members: MembershipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership_store, "CLUSTER_LEASE_SECONDS", 0.1)
    await members.claim("first/123")
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(ClipperException):
                await members.claim("second/456")
                break
            await asyncio.sleep(0.01)


# --- which query frontends follow ---


async def test_without_query_frontends_all_is_applied(members: MembershipStore) -> None:
    assert await members.wait_until_applied(1, 1)


async def test_every_query_frontend_is_waited_for(members: MembershipStore) -> None:
    await members.report(FrontendReport("a", 2))
    await members.report(FrontendReport("b", 1))
    assert not await members.wait_until_applied(2, 0.05)
    waiting = asyncio.create_task(members.wait_until_applied(2, 10))
    await members.report(FrontendReport("b", 3))
    async with asyncio.timeout(5):
        assert await waiting


async def test_a_query_frontend_that_left_is_not_waited_for(members: MembershipStore) -> None:
    await members.report(FrontendReport("a", 1))
    await members.retire_frontend("a")
    assert await members.wait_until_applied(2, 1)


async def test_a_query_frontend_that_fell_silent_is_not_waited_for(
    members: MembershipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_store, "FRONTEND_LEASE_SECONDS", 0.05)
    await members.report(FrontendReport("a", 1))
    assert await members.wait_until_applied(2, 5)
