"""Records in Redis that are wrong: each is named once and left out, and harms nobody."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from clipper_common import changes
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT, Place
from clipper_common.records import Application, Model
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, running_container, running_frontend, wait_for

pytestmark = pytest.mark.integration

Value = str | bytes | int
VICTIM = Application("victim", InputType.DOUBLES, "victim default", 2_000_000)
MODEL = Model(ModelId("v", "1"), InputType.DOUBLES)
CURRENT = LAYOUT.current_versions.prefix + "v"
HUGE = b"x" * (3 * 1024 * 1024)


class Wrong(NamedTuple):
    """A record, and what makes it wrong."""

    database: int
    key: bytes
    spoil: Callable[[redis.Redis, bytes], object]

    @property
    def place(self) -> str:
        return str(Place(self.database, self.key.decode(errors="backslashreplace")))


def field(name: str | bytes, value: Value) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: client.hset(key, name, value)  # type: ignore[arg-type]


def without(name: str) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: client.hdel(key, name)


def text(value: Value) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: (client.delete(key), client.set(key, value))


def member(value: Value) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: client.sadd(key, value)


def hash_(**fields: Value) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: (client.delete(key), client.hset(key, mapping={"valid": "", **fields}))


def members(*values: Value) -> Callable[[redis.Redis, bytes], object]:
    return lambda client, key: (client.delete(key), client.sadd(key, *values))


def list_(client: redis.Redis, key: bytes) -> None:
    client.delete(key)
    client.rpush(key, "x")


def many_fields(client: redis.Redis, key: bytes) -> None:
    client.hset(key, mapping={str(number): "" for number in range(2000)})


NUMBERS: list[Value] = [
    "",
    "abc",
    "-5",
    "nan",
    "inf",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "1_0",
    " 1",
    "1.5",
    "\u00b2",
    b"\xff",
]
NAMES: list[Value] = ["", "a\nb", "\x1b[31m", "x" * 300, "a,b", "a:b", b"\xff\xfe", "\x7f"]

APP = (LAYOUT.applications.database, b"victim")
VERSION = (LAYOUT.models.database, b"v:1")
CURRENT_VERSION = (LAYOUT.current_versions.database, CURRENT.encode())
LINKS = (LAYOUT.links.database, b"victim")
WORKERS = (LAYOUT.home, LAYOUT.workers.key.encode())
REVISION = (LAYOUT.home, LAYOUT.revision.key.encode())

WRONG = [
    # --- applications
    *(Wrong(*APP, field("latency_slo_micros", number)) for number in [*NUMBERS, "0"]),
    *(Wrong(*APP, field("input_type", word)) for word in ("", "complex", b"\xff", HUGE)),
    *(Wrong(*APP, without(name)) for name in ("input_type", "default_output", "latency_slo_micros")),
    *(Wrong(*APP, field("default_output", value)) for value in (b"\xff", "x" * (1024 * 1024 + 1), HUGE)),
    Wrong(*APP, field(b"\xff", "x")),
    Wrong(*APP, field("policy", b"\xff")),
    Wrong(*APP, many_fields),
    *(Wrong(*APP, spoil) for spoil in (text("x"), members("x"), list_, hash_())),
    *(
        Wrong(LAYOUT.applications.database, key, hash_(**VICTIM.to_hash()))
        for key in (b"", b"\xff", b"a\nb", b"x" * 300, b"y" * 5000)
    ),
    # --- model versions
    *(Wrong(*VERSION, field("batch_size", number)) for number in [*NUMBERS, "0"]),
    *(Wrong(*VERSION, field("batch_delay_micros", number)) for number in NUMBERS),
    *(Wrong(*VERSION, field("batch_policy", word)) for word in ("", "fixed", "tuesday", b"\xff")),
    *(Wrong(*VERSION, field("input_type", word)) for word in ("", "complex", b"\xff")),
    *(Wrong(*VERSION, field("model_name", name)) for name in [*NAMES, "w"]),
    *(Wrong(*VERSION, field("model_version", name)) for name in [*NAMES, "2"]),
    *(Wrong(*VERSION, without(name)) for name in ("model_name", "labels", "batch_size", "container_name")),
    Wrong(*VERSION, field("labels", b"\xff")),
    Wrong(*VERSION, field("model_data_path", HUGE)),
    *(Wrong(*VERSION, spoil) for spoil in (text("x"), members("x"), list_, hash_())),
    *(Wrong(LAYOUT.models.database, key, hash_(**MODEL.to_hash())) for key in (b"", b"\xff", b"v:2", b"v")),
    # --- current versions
    *(Wrong(*CURRENT_VERSION, text(name)) for name in [*NAMES, HUGE]),
    *(Wrong(*CURRENT_VERSION, spoil) for spoil in (hash_(), members("x"), list_)),
    Wrong(LAYOUT.current_versions.database, b"CURENT_MODEL_VERSION:v", text("1")),
    Wrong(LAYOUT.current_versions.database, CURRENT.encode() + b"\n", text("1")),
    Wrong(LAYOUT.current_versions.database, CURRENT.encode() + b"\xff", text("1")),
    # --- links
    *(Wrong(*LINKS, member(name)) for name in [*NAMES, HUGE]),
    *(Wrong(*LINKS, spoil) for spoil in (text("x"), hash_(), list_, members(*range(1001)))),
    Wrong(LAYOUT.links.database, b"\xff", members("v")),
    # --- the number of workers, and the revision
    *(Wrong(*WORKERS, text(number)) for number in [*NUMBERS, "0", "65", str(10**21)]),
    *(Wrong(*WORKERS, spoil) for spoil in (hash_(), members("x"), list_)),
    *(Wrong(*REVISION, text(number)) for number in [*NUMBERS, str(2**63 - 1), str(10**15)]),
    *(Wrong(*REVISION, spoil) for spoil in (hash_(), members("x"), list_)),
]


def database(port: int, number: int) -> redis.Redis:
    return redis.Redis(port=port, db=number)


def spoil(port: int, wrong: Wrong) -> None:
    """Make the record wrong, as somebody who does not ask Clipper, and have it looked at."""
    with database(port, wrong.database) as client:
        if wrong.key in (REVISION[1], WORKERS[1]):
            client.delete(wrong.key)
        wrong.spoil(client, wrong.key)
        client.publish(LAYOUT.changes_channel, "")
    if wrong.key != REVISION[1]:
        have_all_read(port)


def unspoil(port: int, wrong: Wrong) -> None:
    with database(port, wrong.database) as client:
        client.delete(wrong.key)


def have_all_read(port: int) -> None:
    """As a program does that changed something, and says neither what nor where."""
    with database(port, 0) as client:
        client.incr(LAYOUT.revision.key)
        client.publish(LAYOUT.changes_channel, "")


@pytest.fixture(scope="module")
def served(redis_port_of_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """A frontend with a container of `v:1`, by which `good` and `victim` are answered."""
    log = tmp_path_factory.mktemp("wrong") / "frontend.log"
    with ExitStack() as stack:
        frontend = stack.enter_context(running_frontend(redis_port_of_module, log))
        arrange(frontend)
        stack.enter_context(running_container(frontend, "noop_container", "v:1", "doubles"))
        stack.enter_context(running_container(frontend, "noop_container", "g:1", "doubles"))
        frontend.wait_for_replicas(2)
        yield frontend


def arrange(frontend: Frontend) -> None:
    frontend.configure(
        *changes.put_application(Application("good", InputType.DOUBLES, "good default", 2_000_000)),
        changes.put_model(Model(ModelId("g", "1"), InputType.DOUBLES)),
        changes.put_current_version(ModelId("g", "1")),
        changes.put_link("good", "g"),
        *changes.put_application(VICTIM),
        changes.put_model(MODEL),
        changes.put_current_version(MODEL.id),
        changes.put_link("victim", "v"),
    )


def assert_both_are_answered(frontend: Frontend) -> None:
    for app in ("good", "victim"):
        assert not frontend.predict(app, input=[1.0])["default"]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong.key[:20]))
def test_what_gets_wrong_is_named_once_and_the_last_good_one_serves(served: Frontend, wrong: Wrong) -> None:
    assert_both_are_answered(served)
    begin = len(served.log.read_bytes())

    def log() -> str:
        return served.log.read_bytes()[begin:].decode()

    complaint = f"ignored what is wrong in Redis: {wrong.place}".partition("... (")[0]
    try:
        spoil(served.redis_port, wrong)
        wait_for(lambda: complaint in log(), f"{complaint!r} is logged, see {served.log}")
        assert_both_are_answered(served)
        served.configure(changes.put_link("other", "other"))  # others can change what they like
        assert_both_are_answered(served)
        assert log().count(complaint) == 1
        assert all(len(line) < 1000 for line in log().splitlines())
    finally:
        unspoil(served.redis_port, wrong)
        arrange(served)
        have_all_read(served.redis_port)
    wait_for(lambda: "no longer wrong in Redis: " in log(), "the record is good again")
    assert_both_are_answered(served)
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def test_a_record_serves_as_it_is_mended_until_it_is_deleted(served: Frontend) -> None:
    spoil(served.redis_port, Wrong(*APP, field("latency_slo_micros", "abc")))
    served.configure(changes.put_link("other", "other"))  # once this is applied, what was before it is, too
    assert_both_are_answered(served)
    mended = Application("victim", InputType.INTS, "mended", 1000)
    served.configure(*changes.put_application(mended))
    assert served.predict("victim", input=[1])["output"] == "mended"
    spoil(served.redis_port, Wrong(*APP, field("latency_slo_micros", "abc")))
    served.configure(changes.put_link("other", "other"))
    assert served.predict("victim", input=[1])["output"] == "mended"
    unspoil(served.redis_port, Wrong(*APP, list_))
    have_all_read(served.redis_port)
    wait_for(lambda: served.post("/victim/predict", {"input": [1]}).status == 404, "the application is gone")
    arrange(served)
    assert_both_are_answered(served)


@pytest.mark.parametrize("spoil", [text("x y"), text(b"\xff"), text("x" * 1000), hash_(), members("x"), list_])
def test_an_epoch_that_is_wrong_is_begun_anew(served: Frontend, spoil: Callable[[redis.Redis, bytes], object]) -> None:
    key = LAYOUT.epoch.key.encode()
    with database(served.redis_port, 0) as client:
        client.delete(key)
        spoil(client, key)
        wait_for(lambda: client.type(key) == b"string" and len(client.get(key) or b"") == 32, "there is an epoch again")
    arrange(served)
    assert_both_are_answered(served)


@pytest.mark.parametrize(
    "spoil", [text("x"), text(b"\xff"), hash_(summary="[", replicas="7", said="x"), members("x"), list_]
)
def test_what_frontends_write_themselves_may_get_wrong(
    served: Frontend, spoil: Callable[[redis.Redis, bytes], object]
) -> None:
    with database(served.redis_port, 0) as client, database(served.redis_port, LAYOUT.replicas.database) as replicas:
        written = [
            key for key in client.keys("*") if key.startswith((b"clipper:frontend", b"clipper:replica", b"clipper:l"))
        ]
        assert len(written) >= 6
        for key in (*written, b"clipper:frontend:", b"clipper:frontend:\xff\n"):
            spoil(client, key)
        for key in replicas.keys("*"):
            spoil(replicas, key)
        wait_for(lambda: len(served.replicas()) == 2, "both replicas are written anew")
        wait_for(lambda: client.type(b"clipper:frontend:\xff\n") == b"none", "what is no frontend's is removed")
        wait_for(lambda: len(client.keys("clipper:frontend:*")) == 1, "one frontend lives")
    arrange(served)
    assert_both_are_answered(served)
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def test_a_frontend_starts_beside_all_that_is_wrong(own_redis: OwnRedis, tmp_path: Path) -> None:
    """Two workers, so that one that ends again and again would be noticed; and what never was good is not there."""
    own_redis.start()
    log = tmp_path / "frontend.log"
    for number, wrong in enumerate(WRONG):
        with database(own_redis.port, wrong.database) as client:
            key = wrong.key if wrong.key in (WORKERS[1], REVISION[1]) else wrong.key + b"-%d" % number
            client.delete(key)
            if wrong.database == LAYOUT.applications.database:
                client.hset(key, mapping=VICTIM.to_hash())  # type: ignore[arg-type]
            wrong.spoil(client, key)
    with database(own_redis.port, LAYOUT.links.database) as client:
        for number in range(100):
            client.set(f"{number}", "")
    for app in ("good", "victim"):
        with database(own_redis.port, LAYOUT.applications.database) as client:
            client.hset(app, mapping=VICTIM.to_hash())  # type: ignore[arg-type]
    with database(own_redis.port, LAYOUT.applications.database) as client:
        client.hset("victim", "latency_slo_micros", "9" * 400)
    with running_frontend(own_redis.port, log, workers=2) as frontend:
        for _ in range(5):
            assert frontend.predict("good", input=[1.0])["output"] == "victim default"
            assert frontend.post("/victim/predict", {"input": [1.0]}).status == 404
        frontend.configure(*changes.put_application(VICTIM))
        assert frontend.predict("victim", input=[1.0])["output"] == "victim default"
        found = log.read_text()
        assert "ended with" not in found and "Traceback" not in found
        assert "more records that are wrong in Redis" in found, "not all are named, since there may be any number"
