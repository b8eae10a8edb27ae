"""A configuration for tests, and access to Redis without Clipper's stores."""

from collections.abc import Callable
from typing import Any

import redis

from clipper_common import changes
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, Link, ModelId
from clipper_common.records import Application, Model, Selection
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot

RedisAt = Callable[[int], RedisClient]
Connect = Callable[[int], ConfigStore]
Follow = Callable[[ConfigStore], Any]

SELECTION = Selection("split", {"weights": {"m": 9.0, "m:1": 1.0}, "sticky_key": "uid"}, 3, (Link("m"), Link("m", "1")))
APP = Application("app", InputType.INTS, 'say "é"\U0001f600\x00\n', 20000, selection=SELECTION)
MODEL = Model(ModelId("m", "1"), InputType.INTS, ("a", "b"), "image:1", "DEPRECATED", -1, "r")
WRITES = [
    *changes.put_application(APP),
    changes.put_model(MODEL),
    changes.put_current_version(MODEL.id),
    changes.put_link("app", "m"),
    changes.put_workers(3),
]
FULL = Snapshot(1, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m",)}, workers=3)


def in_database(client: redis.Redis, database: int) -> redis.Redis:
    pool = redis.ConnectionPool(**client.connection_pool.connection_kwargs | {"db": database})
    return redis.Redis.from_pool(pool)


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
