"""Tests of the copy of the configuration with a real Redis: which records it reads, and which it need not read."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import redis

from clipper_common import changes, scripts
from clipper_common.changes import Write
from clipper_common.config_copy import ConfigCopy
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT
from clipper_common.records import Application, Model
from clipper_common.redis_client import RedisClient
from clipper_common.scripts import Script
from clipper_common.snapshot import Snapshot
from tests.common.configurations import RedisAt

APP = Application("app", InputType.INTS, "-1", 20000)
MODEL = Model(ModelId("m", "1"), InputType.INTS)
WRITES = [*changes.put_application(APP), changes.put_model(MODEL), changes.put_current_version(MODEL.id)]


class Watched:
    """Runs scripts, and remembers which; `before` is called before each."""

    def __init__(self, redis: RedisClient) -> None:
        self.ran: list[Script] = []
        self.before: Callable[[Script], None] = lambda _: None
        self._run = redis.run

    async def __call__(self, script: Script, *arguments: str | bytes, keys: Iterable[str] = ()) -> Any:
        self.before(script)
        self.ran.append(script)
        return await self._run(script, *arguments, keys=keys)

    def pages(self) -> int:
        """Return the number of pages that were read since the last call."""
        found, self.ran = self.ran.count(scripts.READ_PAGE), []
        return found


@pytest.fixture
def watched(redis_at: RedisAt, redis_port: int) -> Watched:
    return Watched(redis_at(redis_port))


@pytest.fixture
def copy(watched: Watched) -> ConfigCopy:
    return ConfigCopy(watched, keeps_good=True)


async def commit(store: ConfigStore, *writes: Write) -> None:
    assert await store.commit(await store.read(), writes) is not None


async def is_all_there(store: ConfigStore, copy: ConfigCopy) -> bool:
    found = await store.read()
    return copy.snapshot == found and copy.head == (found.revision, found.epoch)


async def test_a_change_is_read_alone(store: ConfigStore, copy: ConfigCopy, watched: Watched) -> None:
    await commit(store, *WRITES)
    changed = await copy.update()
    assert changed == {
        LAYOUT.application_place("app"),
        *map(LAYOUT.model_place, [MODEL.id]),
        *([LAYOUT.current_version_place("m")]),
    }
    assert watched.pages() == 4
    await commit(store, changes.put_link("app", "m"), changes.put_workers(2))
    assert await copy.update() == {LAYOUT.links_place("app"), LAYOUT.workers}
    await commit(store, *changes.delete_application("app"), changes.delete_model(MODEL.id))
    await commit(store, changes.put_model(MODEL))
    assert await copy.update() == {LAYOUT.application_place("app"), LAYOUT.links_place("app")}
    assert await copy.update() == set()
    assert watched.pages() == 0
    assert await is_all_there(store, copy)


async def test_a_commit_of_an_older_program_has_all_read(
    store: ConfigStore, copy: ConfigCopy, watched: Watched, client: redis.Redis
) -> None:
    await copy.update()
    await commit(store, *WRITES)
    client.rpop(LAYOUT.journal.key)  # 0.4's successors before the journal leave nothing there
    await commit(store, changes.put_workers(2))
    watched.pages()
    await copy.update()
    assert watched.pages() == 4 and await is_all_there(store, copy)
    await commit(store, changes.put_workers(3))
    await copy.update()
    assert watched.pages() == 0 and await is_all_there(store, copy)


ENTRIES = [
    "",
    "x",
    "[",
    "{}",
    "[]",
    "7",
    '["2"]',
    '["2", 5]',
    '["2", [[5]]]',
    '["2", [["5", "app"]]]',
    "[2, []]",
    "[" * 2000,
]


@pytest.mark.parametrize("entry", [*ENTRIES, None])
async def test_a_journal_that_is_wrong_has_all_read(
    store: ConfigStore, copy: ConfigCopy, watched: Watched, client: redis.Redis, entry: str | None
) -> None:
    await commit(store, *WRITES)
    await copy.update()
    await commit(store, changes.put_link("app", "m"))
    if entry is None:
        client.delete(LAYOUT.journal.key)
        client.set(LAYOUT.journal.key, "x")
    else:
        client.lset(LAYOUT.journal.key, -1, entry)
    watched.pages()
    assert await copy.update() == {LAYOUT.links_place("app")}
    assert watched.pages() == 4
    await commit(store, changes.put_workers(2))
    await copy.update()
    await commit(store, changes.put_workers(3))
    watched.pages()
    await copy.update()
    assert watched.pages() == 0 and copy.snapshot.workers == 3, "the next commits are in the journal"


async def test_a_journal_that_does_not_reach_back_has_all_read(
    store: ConfigStore, copy: ConfigCopy, watched: Watched, client: redis.Redis
) -> None:
    await copy.update()
    for number in range(3):
        await commit(store, changes.put_link("app", str(number)))
    client.ltrim(LAYOUT.journal.key, -2, -1)
    watched.pages()
    await copy.update()
    assert watched.pages() == 4 and await is_all_there(store, copy)


async def test_the_journal_is_bounded(store: ConfigStore, client: redis.Redis, copy: ConfigCopy) -> None:
    await copy.update()
    many = [changes.put_link("a" * 200 + str(number), "m") for number in range(200)]
    await commit(store, *many)
    assert client.llen(LAYOUT.journal.key) == 0, "an entry of 40 KB is none"
    for number in range(1100):
        client.rpush(LAYOUT.journal.key, number)
    await commit(store, changes.put_workers(2))
    assert client.llen(LAYOUT.journal.key) == 1000
    await copy.update()
    assert await is_all_there(store, copy)


async def test_many_changes_are_read_in_parts(store: ConfigStore, copy: ConfigCopy, watched: Watched) -> None:
    await copy.update()
    for number in range(8):
        await commit(store, *(changes.put_link(f"{number}-{which}", "m") for which in range(50)))
    watched.pages()
    assert len(await copy.update()) == 400
    assert watched.ran == [scripts.READ_CHANGES] * 4
    assert await is_all_there(store, copy)


async def test_many_records_are_read_in_pages(store: ConfigStore, copy: ConfigCopy, watched: Watched) -> None:
    for number in range(10):
        await commit(store, *(changes.put_link(f"{number}-{which}", "m") for which in range(100)))
    await copy.update()
    assert watched.pages() > 10 and await is_all_there(store, copy)
    await commit(store, *(changes.put_link(f"{number}-0", "n") for number in range(10)))
    assert len(await copy.read_all()) == 10


async def test_what_is_committed_while_pages_are_read_is_there(
    redis_port: int, store: ConfigStore, copy: ConfigCopy, watched: Watched
) -> None:
    """Each page is of another moment; all of them together are as of the last."""
    await commit(store, *WRITES, changes.put_link("app", "m"))
    with redis.Redis(port=redis_port) as client:

        def change(script: Script) -> None:
            if script == scripts.READ_CHANGES:  # after the last page
                watched.before = lambda _: None
                revision, epoch = (
                    text.decode() if text else "" for text in client.mget("clipper:revision", "clipper:epoch")
                )
                writes = [*changes.delete_application("app"), *changes.put_application(replace(APP, name="new"))]
                keys = [*scripts.COMMIT.keys, *(write.key for write in writes)]
                without_keys = json.dumps([(database, (name, *rest)) for database, (name, _, *rest) in writes])
                assert client.eval(scripts.COMMIT.text, len(keys), *keys, revision, epoch, without_keys) > 0

        watched.before = change
        changed = await copy.update()
    assert set(copy.snapshot.applications) == {"new"} and not copy.snapshot.links
    assert LAYOUT.application_place("new") in changed and watched.pages() == 4
    assert await is_all_there(store, copy)


async def test_a_program_without_a_journal_does_not_have_all_read_for_ever(
    store: ConfigStore, copy: ConfigCopy, watched: Watched, client: redis.Redis
) -> None:
    await commit(store, *WRITES)

    def change(script: Script) -> None:
        if script == scripts.READ_CHANGES:
            client.incr(LAYOUT.revision.key)

    watched.before = change
    await copy.update()
    assert watched.pages() == 12
    watched.before = lambda _: None
    assert set(copy.snapshot.applications) == {"app"}
    await copy.update()
    assert watched.pages() == 4 and await is_all_there(store, copy)


async def test_places_are_read_whoever_wrote_there(
    store: ConfigStore, copy: ConfigCopy, watched: Watched, client: redis.Redis
) -> None:
    await commit(store, *WRITES)
    await copy.update()
    client.select(LAYOUT.applications.database)
    client.hset("app", "latency_slo_micros", "30000")
    client.hset("other", mapping=APP.to_hash())
    watched.pages()
    places = [LAYOUT.application_place("app"), LAYOUT.application_place("none"), LAYOUT.links_place("none")]
    assert await copy.update() == set()
    assert await copy.update(places) == {LAYOUT.application_place("app")}
    assert copy.snapshot.applications["app"].latency_slo_micros == 30000
    assert set(copy.snapshot.applications) == {"app"} and watched.pages() == 0
    client.select(LAYOUT.models.database)
    client.hdel("m:1", "valid")  # 0.4's mark of a deleted model
    assert await copy.update([LAYOUT.model_place(MODEL.id)]) == {LAYOUT.model_place(MODEL.id)}
    assert not client.exists("m:1")


async def test_a_redis_that_lost_all_is_read_anew(store: ConfigStore, copy: ConfigCopy, client: redis.Redis) -> None:
    await store._begin_epoch(None)
    await commit(store, *WRITES)
    await copy.update()
    client.flushall()
    await store._begin_epoch(None)
    await commit(store, changes.put_link("app", "n"))
    await copy.update()
    assert await is_all_there(store, copy) and not copy.snapshot.applications


async def test_what_was_kept_stands_for_what_is_wrong_at_first(
    store: ConfigStore, watched: Watched, client: redis.Redis
) -> None:
    await commit(store, *WRITES)
    kept = Snapshot(applications={"app": APP, "gone": APP}, links={"app": ("m",)})
    client.select(LAYOUT.applications.database)
    client.hset("app", "latency_slo_micros", "x")
    copy = ConfigCopy(watched, keeps_good=True, kept=kept)
    assert await copy.update() == {
        LAYOUT.application_place("app"),
        LAYOUT.model_place(MODEL.id),
        LAYOUT.current_version_place("m"),
    }
    assert copy.snapshot.applications == {"app": APP} and not copy.snapshot.links


@pytest.mark.parametrize("seed", range(5))
async def test_changes_add_up_to_what_is_there(
    store: ConfigStore, copy: ConfigCopy, client: redis.Redis, seed: int
) -> None:
    rng = random.Random(seed)
    await copy.update()
    for _ in range(60):
        app, model = f"app{rng.randrange(4)}", ModelId(f"m{rng.randrange(3)}", str(rng.randrange(2)))
        write = rng.choice(
            [
                changes.put_application(replace(APP, name=app, latency_slo_micros=rng.randrange(1, 9))),
                changes.delete_application(app),
                [changes.put_model(replace(MODEL, id=model, batch_delay_micros=rng.randrange(9)))],
                [changes.delete_model(model)],
                [changes.put_current_version(model)],
                [changes.put_link(app, model.name)],
                [changes.delete_link(app, model.name)],
            ]
        )
        before = copy.snapshot
        await commit(store, *write)
        if rng.random() < 0.5:
            changed = await copy.update()
            assert (not changed) == copy.snapshot.same_configuration(before)
            assert copy.snapshot == await store.read()
        if rng.random() < 0.05:
            client.delete(LAYOUT.journal.key)
    await copy.update()
    assert await is_all_there(store, copy)
    assert Snapshot() != copy.snapshot
