"""Tests of the configuration that outlives a worker: which records are kept, and how they are used."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipper_common import changes
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import BatchPolicy, InputType, ModelId
from clipper_common.records import Application, Model
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot
from query_frontend.workers import kept_configuration
from query_frontend.workers.kept_configuration import KeptConfiguration

MODEL = Model(ModelId("m", "1"), InputType.DOUBLES, ("label",), "image", learning_policy=BatchPolicy.AIMD)


def configuration(revision: int, applications: int = 1) -> Snapshot:
    names = [f"app-{number}" for number in range(applications)]
    return Snapshot(
        revision,
        {name: Application(name, InputType.DOUBLES, "default", 1000) for name in names},
        {MODEL.id: MODEL},
        {"m": "1"},
        {name: ("m",) for name in names},
        workers=2,
        epoch="an-epoch",
    )


@contextlib.asynccontextmanager
async def writing(*keepers: KeptConfiguration) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(keeper.keep_writing()) for keeper in keepers]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def wait_until_kept(folder: Path, snapshot: Snapshot) -> None:
    async with asyncio.timeout(10):
        while KeptConfiguration(folder, 0).load() != snapshot:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("applications", [0, 1, kept_configuration._PIECE, 3 * kept_configuration._PIECE + 1])
async def test_what_is_kept_is_read_again(tmp_path: Path, applications: int) -> None:
    keeper = KeptConfiguration(tmp_path, 0)
    assert keeper.load() is None
    async with writing(keeper):
        keeper.keep(configuration(7, applications))
        await wait_until_kept(tmp_path, configuration(7, applications))
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_changes_is_kept_after_a_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_configuration, "_REST_SECONDS", 0.05)
    keeper = KeptConfiguration(tmp_path, 0)
    async with writing(keeper):
        for revision in range(5):
            keeper.keep(configuration(revision))
        await wait_until_kept(tmp_path, configuration(4))
        keeper.keep(configuration(5))
        await wait_until_kept(tmp_path, configuration(5))


async def test_one_worker_writes_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_configuration, "_REST_SECONDS", 0.05)
    first, other = KeptConfiguration(tmp_path, 0), KeptConfiguration(tmp_path, 3)
    async with writing(first, other):
        first.keep(configuration(1))
        other.keep(configuration(1))
        await wait_until_kept(tmp_path, configuration(1))
        written = os.stat(tmp_path / "configuration").st_ino
        await asyncio.sleep(0.2)
        assert os.stat(tmp_path / "configuration").st_ino == written
        other.keep(configuration(2))  # while the first is just being replaced
        await wait_until_kept(tmp_path, configuration(2))


@pytest.mark.parametrize("damaged", [b"", b"no pickle", b"\x80\x04K\x01."])
def test_what_is_damaged_is_not_used(tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "configuration").write_bytes(damaged)
    assert KeptConfiguration(tmp_path, 0).load() is None
    assert "cannot be read" in caplog.text


async def test_a_folder_that_is_full_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = KeptConfiguration(tmp_path / "missing", 0)
    async with writing(keeper):
        keeper.keep(configuration(1))
        async with asyncio.timeout(10):
            while "cannot be kept" not in caplog.text:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def connected(redis_port: int) -> AsyncIterator[ConfigStore]:
    redis_client = RedisClient("127.0.0.1", redis_port)
    yield ConfigStore(redis_client)
    await redis_client.close()


@pytest.mark.integration
async def test_an_empty_redis_gets_what_was_kept(redis_port: int) -> None:
    async with connected(redis_port) as store, asyncio.timeout(10):
        async for update in store.follow(kept=configuration(7)):
            assert update.snapshot.same_configuration(configuration(7))
            assert update.snapshot.revision > 7
            assert update.changed == set(configuration(7).places()), "nobody serves by what was kept"
            break


@pytest.mark.integration
async def test_others_that_live_write_back_before_what_was_kept_is(redis_port: int) -> None:
    async with connected(redis_port) as store, connected(redis_port) as alive, asyncio.timeout(10):
        follower = store.follow(patience_seconds=60, kept=configuration(7))
        first = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0.1)
        assert not first.done()
        async for _ in alive.follow(kept=configuration(8, 2)):
            break
        assert (await first).snapshot.same_configuration(configuration(8, 2))


@pytest.mark.integration
@pytest.mark.parametrize("applications", [1, 2])
async def test_what_was_kept_never_replaces_what_redis_has(redis_port: int, applications: int) -> None:
    async with connected(redis_port) as store, asyncio.timeout(10):
        async for _ in store.follow():  # an epoch begins
            break
        await store.commit(await store.read(), changes.put_snapshot(configuration(0, applications)))
        there = await store.read()
        old = replace(configuration(0), revision=0, epoch=there.epoch)
        async for update in store.follow(kept=old):
            assert update.snapshot == there
            break
        assert await store.read() == there
