"""Several workers behind one port: they come, go and die, and clients see one server that answers."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import redis
from aiohttp import web

from clipper_common import changes, constants
from clipper_common.backoff import RestartBackoff
from clipper_common.connections import Limits
from clipper_common.http_connection import HttpConnection
from clipper_common.http_framing import Heads
from clipper_common.http_server import Server
from clipper_common.layout import LAYOUT
from query_frontend.app import QueryFrontend
from query_frontend.config import Config
from query_frontend.http.connection_drain import ConnectionDrain
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.workers.acceptor import Acceptor
from query_frontend.workers.context import Beats, ConnectionCounts, Handover, WorkerContext
from query_frontend.workers.hang_detection import Watch
from query_frontend.workers.kept_configuration import KeptConfiguration
from query_frontend.workers.prefork import WorkerSupervisor, _Worker
from tests.conftest import OwnRedis, find_free_port
from tests.query_frontend.conftest import Frontend, http, running_frontend, wait_for

PREDICT = b'POST /app/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 15\r\n\r\n{"input":[1.0]}'
GENERAL = PREDICT.replace(b"Host", b"Expect: \r\nHost")
"""Not for the fast path."""
LONGEST_WAIT_SECONDS = 60.0
"""Until a hung worker is killed, or the next one answers, where few processors are shared by many processes."""


def workers(frontend: Frontend) -> list[psutil.Process]:
    return psutil.Process(frontend.process.pid).children()


def tcp(worker: psutil.Process) -> list[Any]:
    """Its connections; none when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(worker.net_connections("tcp"))
    return []


def connections(worker: psutil.Process, port: int) -> int:
    return sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in tcp(worker))


def spread(frontend: Frontend) -> list[int]:
    return sorted(connections(worker, frontend.port) for worker in workers(frontend))


def wait_until_serving(frontend: Frontend, number: int) -> None:
    """Until so many workers answer, which new connections show."""

    def serve() -> bool:
        clients = [Client(frontend.port) for _ in range(4 * number)]
        for client in clients:
            client.ask()
        is_spread = len([load for load in spread(frontend) if load]) == number
        for client in clients:
            client.close()
        return is_spread

    wait_for(serve, f"{number} workers serve, see {frontend.log}")


class Client:
    """A client that keeps its connection until it is told to close it, and knows no mercy."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), LONGEST_WAIT_SECONDS)
        self.connects = 1

    def ask(self, request: bytes = PREDICT) -> bytes:
        """An answer. Raises ConnectionError when the connection ends before it does."""
        self.socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while len(body) < length:
            body += self._read()
        assert head.startswith(b"HTTP/1.1 200"), answer
        if b"connection: close" in head.lower():
            assert self.socket.recv(1) == b""
            self.close()
            self.socket = socket.create_connection(("127.0.0.1", self.port), LONGEST_WAIT_SECONDS)
            self.connects += 1
        return head

    def _read(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed before the answer")
        return data

    def close(self) -> None:
        self.socket.close()


class Asking:
    """Clients in threads that ask without a break. They stop at the first error."""

    def __init__(self, port: int, clients: int, request: bytes = PREDICT) -> None:
        self.errors: list[str] = []
        self.answers = 0
        self.connects = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port, request)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, request: bytes) -> None:
        try:
            with closing(Client(port)) as client:
                while not self._stop.is_set():
                    client.ask(request)
                    self.answers += 1
                    time.sleep(0.002)
                self.connects += client.connects
        except (OSError, AssertionError) as error:
            self.errors.append(repr(error))

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def wait_for_more(self, answers: int = 200) -> None:
        goal = self.answers + answers
        wait_for(lambda: self.errors or self.answers > goal, "more queries are answered")


@contextmanager
def several(redis_port: int, folder: Path, number: int, **flags: object) -> Iterator[Frontend]:
    with running_frontend(redis_port, folder / "frontend.log", workers=number, **flags) as frontend:
        frontend.serve("app")
        wait_until_serving(frontend, number)
        yield frontend


@pytest.fixture
def two(redis_port: int, tmp_path: Path) -> Iterator[Frontend]:
    with several(redis_port, tmp_path, 2) as frontend:
        yield frontend


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the private folders of frontends, with a shorter path than those of pytest."""
    with TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


# --- sharing ---


@pytest.mark.parametrize("ask_each", [True, False])
def test_connections_are_spread(ask_each: bool, two: Frontend) -> None:
    clients = []
    for _ in range(64):
        clients.append(Client(two.port))
        if ask_each:
            clients[-1].ask()
    found = wait_for(lambda: (now := spread(two)) and sum(now) == 64 and now, "all connections are accepted")
    for client in clients:
        client.close()
    assert found[0] >= 16, found  # left to themselves, one would have nearly all


def test_short_connections_are_spread(two: Frontend) -> None:
    for _ in range(200):
        with closing(Client(two.port)) as client:
            client.ask()
    seconds = [sum(worker.cpu_times()[:2]) for worker in workers(two)]
    assert all(seconds)
    assert len({worker.pid for worker in workers(two)}) == 2


def test_a_worker_that_hangs_keeps_no_connection_from_the_other(two: Frontend) -> None:
    first, second = workers(two)
    first.suspend()
    try:
        for _ in range(40):
            with closing(Client(two.port)) as client:
                client.ask()
    finally:
        first.resume()


def test_a_new_worker_gets_its_share_of_old_connections(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 1) as frontend, Asking(frontend.port, 16) as asking:
        frontend.configure(changes.put_workers(2))
        wait_for(lambda: spread(frontend)[0] >= 5, "the new worker has connections")
        asking.wait_for_more()
    assert not asking.errors
    assert asking.connects < 16 * 3


# --- death ---


def test_a_killed_worker_is_replaced(two: Frontend) -> None:
    """The other goes on, and nobody is refused."""
    old = workers(two)
    safe = [client for client in (Client(two.port) for _ in range(16)) if client.ask()]
    mine = {c.laddr.port for c in tcp(old[1]) if c.status == psutil.CONN_ESTABLISHED}
    assert mine
    of_other = {c.raddr.port for c in tcp(old[0]) if c.laddr.port == two.port and c.raddr}
    with two_errors_at_most(two.port):
        old[1].kill()
        wait_for(lambda: len(workers(two)) == 2 and old[1] not in workers(two), "a new worker is there")
        wait_until_serving(two, 2)
    assert old[0] in workers(two)
    for client in safe:
        if client.socket.getsockname()[1] in of_other:
            client.ask()
        client.close()


@contextmanager
def two_errors_at_most(port: int) -> Iterator[None]:
    """New connections are accepted and answered all the time, but for those that the dying worker held."""
    failed: Counter[str] = Counter()
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            try:
                with closing(Client(port)) as client:
                    client.ask()
            except ConnectionRefusedError:
                failed["refused"] += 1
            except ConnectionError:
                failed["lost"] += 1

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
    assert not failed["refused"]
    assert failed["lost"] <= 2


def test_the_only_worker_is_replaced_while_connections_wait(frontend: Frontend) -> None:
    frontend.serve("app")
    (worker,) = workers(frontend)
    worker.kill()
    worker.wait(10)
    with closing(Client(frontend.port)) as client:
        client.ask()


@pytest.mark.parametrize("number", [1, 2])
def test_the_configuration_outlives_redis_and_all_workers(
    number: int, redis_port: int, tmp_path: Path, folder: Path
) -> None:
    with several(redis_port, tmp_path, number) as frontend:
        known = frontend.snapshot()

        def is_kept() -> bool:
            return any(KeptConfiguration(own, 0).load() == known for own in folder.iterdir())

        wait_for(is_kept, "the configuration is kept")
        old = workers(frontend)
        for worker in old:
            worker.suspend()
        with redis.Redis(port=redis_port) as client:
            client.flushall()
        for worker in old:
            worker.kill()
        wait_for(lambda: frontend.snapshot().same_configuration(known), "the configuration is back in Redis")
        wait_until_serving(frontend, number)


def test_worker_0_is_replaced_with_its_rpc_port(two: Frontend) -> None:
    def rpc_owner() -> int | None:
        for worker in workers(two):
            if any(one.laddr.port == two.rpc_port for one in tcp(worker)):
                return int(worker.pid)
        return None

    old = wait_for(rpc_owner, "a worker has the RPC port")
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: rpc_owner() not in (None, old), "another worker has the RPC port")


def test_workers_end_with_their_owner(redis_port: int, tmp_path: Path, folder: Path) -> None:
    """And leave nothing of it behind."""
    with several(redis_port, tmp_path, 2) as frontend:
        old = workers(frontend)
        frontend.process.kill()
        frontend.process.wait(10)
        _, alive = psutil.wait_procs(old, 10)
        assert not alive
        assert not list(folder.iterdir())
        frontend.start()


async def test_an_owner_that_died_before_it_read_all(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with theirs, closing(Handover()) as handover:
        context = WorkerContext(1, [], theirs, ConnectionCounts(), tmp_path, True, handover, Beats())
        context.tell_serving()
        orphaned = asyncio.Event()
        context.listen_to_supervisor(lambda: None, orphaned.set)
        ours.close()
        async with asyncio.timeout(10):
            await orphaned.wait()
        asyncio.get_running_loop().remove_reader(theirs)
    assert not errors, "uvloop would not call again"


def test_a_worker_that_dies_again_and_again_is_put_off(two: Frontend) -> None:
    starts: list[float] = []
    for _ in range(4):
        last = next(worker for worker in reversed(workers(two)))
        before = set(workers(two))
        last.kill()
        began = time.monotonic()
        wait_for(lambda before=before: set(workers(two)) - before, "a new worker")
        starts.append(time.monotonic() - began)
    assert starts[-1] > 0.3, starts


# --- workers that hang ---

REPLACED_SECONDS = 5.0
SPINNING = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
"""Has a frontend that runs `SPINS` keep its event loop for ever."""
SPINS = """
from query_frontend import app
from query_frontend.workers import prefork
from query_frontend.config import Config
from query_frontend.http.handlers import Handlers

async def spin_for_ever(self, request):
    while True:
        pass

Handlers.live = spin_for_ever
prefork.run(Config.parse(), app.run)
"""
LOADS_SLOWLY = """
import time
from query_frontend import app
from query_frontend.workers import prefork
from query_frontend.workers import hang_detection
from query_frontend.config import Config

def work(config, context):
    time.sleep(6 * hang_detection._HUNG_SECONDS)
    app.run(config, context)

hang_detection._HUNG_SECONDS = 0.2
prefork.run(Config.parse(), work)
"""


@contextmanager
def running(program: str, redis_port: int, folder: Path, number: int) -> Iterator[Frontend]:
    """A frontend whose main module is this one."""
    frontend = Frontend(redis_port, folder / "frontend.log", workers=number)
    frontend.run_instead(program)
    try:
        frontend.start()
        frontend.serve("app")
        yield frontend
    finally:
        frontend.end()


def cpu_seconds(worker: psutil.Process) -> float:
    return sum(worker.cpu_times()[:2])


def wait_until_replaced(frontend: Frontend, hung: psutil.Process, number: int, seconds: float) -> None:
    def is_replaced() -> bool:
        now = workers(frontend)
        return len(now) == number and hung not in now

    wait_for(is_replaced, f"another worker was started, see {frontend.log}", seconds)


@pytest.mark.alone
def test_a_stopped_worker_is_replaced(two: Frontend) -> None:
    """And the other answers meanwhile."""
    hung, other = workers(two)
    hung.suspend()
    with two_errors_at_most(two.port):
        wait_until_replaced(two, hung, 2, REPLACED_SECONDS)
    assert other in workers(two)
    wait_until_serving(two, 2)


def test_the_only_worker_is_replaced_when_it_is_stopped(frontend: Frontend) -> None:
    frontend.serve("app")
    (hung,) = workers(frontend)
    hung.suspend()
    with closing(Client(frontend.port)) as client:
        client.ask()
    assert hung not in workers(frontend)


@pytest.mark.alone
@pytest.mark.parametrize("number", [1, 2])
def test_a_worker_in_an_endless_loop_is_replaced(number: int, redis_port: int, tmp_path: Path) -> None:
    with running(SPINS, redis_port, tmp_path, number) as frontend:
        wait_until_serving(frontend, number)
        before = workers(frontend)
        with closing(Client(frontend.port)) as victim:
            used = [cpu_seconds(worker) for worker in before]
            victim.socket.sendall(SPINNING)
            # Whoever connects before is a client of the worker that is killed.
            wait_for(
                lambda: any(cpu_seconds(each) > spent + 0.2 for each, spent in zip(before, used, strict=True)),
                "it hangs",
            )
            with closing(Client(frontend.port)) as client:  # of the other worker, or after the hung one
                client.ask()
            # It is given as much CPU time as it would have had alone, which takes long on a busy machine.
            wait_for(lambda: set(before) - set(workers(frontend)), "the hung one is killed", LONGEST_WAIT_SECONDS)
            wait_for(lambda: len(workers(frontend)) == number, "another is started")
        log = frontend.log.read_text()
        assert "stands still" in log
        assert "in spin_for_ever" in log
        assert frontend.stop() == 0


def test_a_worker_that_loads_slowly_does_not_hang(redis_port: int, tmp_path: Path) -> None:
    with running(LOADS_SLOWLY, redis_port, tmp_path, 1) as frontend:
        assert "stands still" not in frontend.log.read_text()


def test_a_stopped_frontend_goes_on_with_the_same_workers(two: Frontend) -> None:
    """As when the machine sleeps: here only for so long that its workers would be taken for hung otherwise."""
    before = workers(two)
    processes = [psutil.Process(two.process.pid), *before]
    for process in processes:
        process.suspend()
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > REPLACED_SECONDS - 1, "time passes")
    for process in processes:
        process.resume()
    wait_until_serving(two, 2)
    assert workers(two) == before
    assert "stands still" not in two.log.read_text()


def test_a_hung_worker_does_not_hold_up_the_end(two: Frontend) -> None:
    hung, _ = workers(two)
    hung.suspend()
    assert two.stop() == 0


# --- exit codes ---


def test_a_taken_port_ends_all(redis_port: int, tmp_path: Path) -> None:
    port = find_free_port()
    with closing(socket.create_server(("127.0.0.1", port))):
        for flags in ({"port": port}, {"rpc_service_port": port}):
            frontend = Frontend(redis_port, tmp_path / "frontend.log", workers=2, **flags)
            with pytest.raises(AssertionError, match="cannot listen"):
                frontend.start()
            assert frontend.process.wait(10) == constants.EXIT_ADDRESS_IN_USE


@pytest.mark.parametrize("number", [0, 65])
def test_a_wrong_number_of_workers(number: int, redis_port: int, tmp_path: Path) -> None:
    frontend = Frontend(redis_port, tmp_path / "frontend.log", workers=number)
    with pytest.raises(AssertionError, match="--workers"):
        frontend.start()
    assert frontend.process.wait(10) == constants.EXIT_USAGE


def test_the_folder_is_removed(redis_port: int, tmp_path: Path, folder: Path) -> None:
    with several(redis_port, tmp_path, 2) as frontend:
        (private,) = folder.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert frontend.stop() == 0
    assert not list(folder.iterdir())


def test_a_temporary_folder_with_a_long_name(redis_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with several(redis_port, tmp_path, 2) as frontend:
        assert http("GET", frontend.url + "/metrics").status == 200
        assert frontend.stop() == 0
    assert not list(folder.iterdir())


def test_metrics_without_the_folder(redis_port: int, tmp_path: Path, folder: Path) -> None:
    """Something cleans up in /tmp."""
    with several(redis_port, tmp_path, 2) as frontend:
        shutil.rmtree(*folder.iterdir())
        assert http("GET", frontend.url + "/metrics").status == 200
        assert frontend.stop() == 0
        assert "Traceback" not in frontend.log.read_text()


# --- a changing number ---


@pytest.mark.parametrize("request_", [PREDICT, GENERAL], ids=["fast_path", "general path"])
def test_the_number_changes_under_load(request_: bytes, redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 1) as frontend, Asking(frontend.port, 12, request_) as asking:
        for number in (3, 2, 1, 2):
            frontend.configure(changes.put_workers(number))
            wait_for(lambda number=number: len(spread(frontend)) == number, f"{number} workers run", 45)
            wait_for(lambda: all(spread(frontend)) or asking.errors, "all of them have connections", 45)
            asking.wait_for_more()
        assert not asking.errors
        assert frontend.stop() == 0


def test_the_number_outlives_redis(own_redis: OwnRedis, tmp_path: Path) -> None:
    own_redis.start()
    with several(own_redis.port, tmp_path, 1) as frontend:
        frontend.configure(changes.put_workers(2))
        wait_for(lambda: len(workers(frontend)) == 2, "2 workers run")
        own_redis.kill()
        own_redis.start()
        wait_for(lambda: frontend.snapshot().workers == 2, "the number is back in Redis")
        assert len(workers(frontend)) == 2


def test_the_number_in_redis_counts_after_a_restart(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 1) as frontend:
        frontend.configure(changes.put_workers(2))
        wait_for(lambda: len(workers(frontend)) == 2, "2 workers run")
        assert frontend.stop() == 0
        frontend.start()
        wait_for(lambda: len(workers(frontend)) == 2, "2 workers run again")


def test_the_number_in_redis_is_not_for_all(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 2, follow_workers=False) as frontend:
        frontend.configure(changes.put_workers(1))
        assert frontend.stop() == 0
        frontend.start()
        wait_until_serving(frontend, 2)


# --- draining ---


@pytest.mark.parametrize("request_", [PREDICT, GENERAL], ids=["fast_path", "general"])
def test_idle_connections_of_a_retiring_worker_go_to_the_others(
    redis_port: int, tmp_path: Path, request_: bytes
) -> None:
    with several(redis_port, tmp_path, 3) as frontend:
        clients = [Client(frontend.port) for _ in range(12)]
        for client in clients:
            client.ask(request_)
        frontend.configure(changes.put_workers(1))
        wait_for(lambda: len(workers(frontend)) == 1, "the others are gone at once", 3)
        for client in clients:
            client.ask(request_)
            assert client.connects == 1
            client.close()


def test_an_idle_connection_ends_without_a_reset(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 1, timeout_request=1) as frontend, closing(Client(frontend.port)) as client:
        client.ask()
        assert client.socket.recv(1) == b"", "it was idle for too long"
        client.socket.sendall(PREDICT)  # as if it had been on its way
        client.socket.sendall(PREDICT)
        assert client.socket.recv(1) == b""


def test_a_pooled_connection_lives_for_longer_than_5_s() -> None:
    assert Config().timeout_request == constants.IDLE_CONNECTION_SECONDS > 60


def test_a_retiring_worker_does_not_hold_up_the_end(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 2, timeout_request=60) as frontend:
        clients: list[Client] = []
        while not clients or min(spread(frontend)) == 0:  # it is for the kernel to say which worker accepts one
            assert len(clients) < 100
            clients.append(Client(frontend.port))
            clients[-1].socket.sendall(PREDICT[:20])  # who does not say what it wants cannot be handed over
            wait_for(lambda: sum(spread(frontend)) == len(clients), "all are connected")
        frontend.configure(changes.put_workers(1))
        wait_for(lambda: frontend.metric("gauges", "internal:workers") == {"serving": "1"}, "one retires")
        assert len(workers(frontend)) == 2, "it waits for its clients"
        assert frontend.stop() == 0
        for client in clients:
            client.close()


def test_draining(redis_port: int, tmp_path: Path) -> None:
    """For some seconds all are answered, and each answer closes its connection."""
    with several(redis_port, tmp_path, 2, drain_seconds=2) as frontend:
        clients = [Client(frontend.port) for _ in range(8)]
        for client in clients:
            client.ask()
        frontend.process.terminate()
        wait_for(lambda: http("GET", frontend.url + "/readyz").status == 503, "it says that it is about to go")
        for client, request in zip(clients, itertools.cycle([PREDICT, GENERAL]), strict=False):
            # The other worker may be told a moment later than the one that said so.
            wait_for(lambda c=client, r=request: b"connection: close" in c.ask(r).lower(), "it closes")
            assert client.connects == 2
            client.close()
        assert frontend.process.wait(10) == 0


def test_a_query_under_way_is_answered_before_a_worker_goes(redis_port: int, tmp_path: Path) -> None:
    with several(redis_port, tmp_path, 1, drain_seconds=1) as frontend, closing(Client(frontend.port)) as client:
        head, _, body = PREDICT.partition(b"\r\n\r\n")
        client.socket.sendall(head + b"\r\n\r\n" + body[:5])
        frontend.process.terminate()
        client.socket.sendall(body[5:])
        assert client.socket.recv(65536).startswith(b"HTTP/1.1 200")
        assert frontend.process.wait(10) == 0


# --- metrics ---


def test_metrics_are_of_all_workers(two: Frontend) -> None:
    def answered() -> int:
        return int((two.metric("counters", "app:app:num_predictions") or {"count": 0})["count"])

    before = answered()
    clients = [Client(two.port) for _ in range(20)]
    for client in clients:
        client.ask()
        client.close()
    assert {answered() for _ in range(10)} == {before + 20}
    two.configure(changes.put_workers(1))
    wait_for(lambda: len(workers(two)) == 1, "one worker is left")
    assert answered() == before + 20


def test_metrics_without_a_worker_that_hangs(two: Frontend) -> None:
    first, second = workers(two)
    with closing(Client(two.port)) as client:
        client.ask()
        hung = next(worker for worker in (first, second) if not connections(worker, two.port))
        hung.suspend()
        try:
            assert b"200" in client.ask(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        finally:
            hung.resume()


# --- parts ---

_LIMIT = 10_000
"""The most connections of a worker."""


@pytest.mark.parametrize(
    ("mine", "others", "accepted"),
    [
        (0, 1000, [32, 8, 0]),
        (0, 0, [2, 1, 1]),
        (80, 80, [13, 1, 1]),
        (_LIMIT, _LIMIT - 1, [0, 0, 0]),
        (_LIMIT, _LIMIT, [32, 8, 0]),
    ],
    ids=["far behind", "few", "many", "full", "all are full"],
)
async def test_how_many_are_accepted_in_a_turn_of_the_loop(
    tmp_path: Path, mine: int, others: int, accepted: list[int]
) -> None:
    """Forty connections wait.

    A worker that is ahead gives the other time, once: a connection that still waits then was not wanted by the other.
    A worker that would have to refuse it leaves it for as long as the other has room.
    """
    connections = [object()] * mine
    waiting = iter(range(40))

    def accept(_: socket.socket) -> bool:
        came = next(waiting, None) is not None
        connections.extend([object()] * came)
        return came

    listener = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Handover()) as handover:
        context = WorkerContext(0, [listener], theirs, ConnectionCounts(), tmp_path, True, handover, Beats())
        context.counts.set(1, others)
        server: Any = SimpleNamespace(open_connections=connections)
        acceptor = Acceptor(context, server, ConnectionDrain(), _LIMIT)
        for expected in accepted:
            before = len(connections)
            acceptor._on_connection(listener, accept)
            assert len(connections) - before == expected
        acceptor.close()


async def test_a_door_that_is_closed_while_it_opens(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Handover()) as handover:
        context = WorkerContext(0, [listener], theirs, ConnectionCounts(), tmp_path, True, handover, Beats())

        async def handle(_: web.BaseRequest) -> web.Response:
            return web.Response()

        server = Server(web.Server(handle), HttpConnection, Limits(), 1.0, Heads())
        acceptor = Acceptor(context, server, ConnectionDrain(), _LIMIT)
        opening = asyncio.create_task(acceptor.open(shared=False))
        await asyncio.sleep(0)  # as far as the first wait
        assert not opening.done()
        acceptor.close()
        await opening
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 30)


def test_an_owner_whose_seats_are_all_taken_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = WorkerSupervisor(Config(host="127.0.0.1", port=0), lambda config, context: None)
    supervisor._folder.rmdir()
    for end in (
        *supervisor._listeners,
        supervisor._wakeup,
        supervisor._selector,
        supervisor._handover,
    ):
        end.close()
    assert supervisor._seconds_to_next_start() == 0.0
    monkeypatch.setattr(supervisor, "_free_number", lambda: None)
    assert supervisor._seconds_to_next_start() is None


def test_a_start_is_put_off_for_a_second_at_most_while_no_worker_serves() -> None:
    supervisor = WorkerSupervisor(Config(host="127.0.0.1", port=0), lambda config, context: None)
    supervisor._folder.rmdir()
    here, there = socket.socketpair()
    keeps_ending = RestartBackoff(first_seconds=10.0)
    supervisor._workers = [_Worker(0, 1, here, keeps_ending, started=time.monotonic(), watch=Watch(0.0, 0))]
    other = _Worker(1, 2, here, RestartBackoff(), watch=Watch(0.0, 0))
    supervisor._workers.append(other)
    supervisor._has_served = True
    supervisor._starts = []
    supervisor._on_end(1, 9)
    assert 9.0 < (supervisor._seconds_to_next_start() or 0.0) <= 10.0
    other.retires = True
    assert 0.0 < (supervisor._seconds_to_next_start() or 0.0) <= 1.0
    for end in (
        *supervisor._listeners,
        supervisor._wakeup,
        supervisor._selector,
        supervisor._handover,
        there,
    ):
        end.close()


async def test_a_frontend_that_is_stopped_while_it_starts_says_goodbye(
    redis_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(redis_ip="127.0.0.1", redis_port=redis_port, host="127.0.0.1", rpc_service_port=find_free_port())
    parts = QueryFrontend(config, asyncio.get_running_loop(), SystemMetrics())
    waits = asyncio.Event()

    async def wait_until_loaded(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(parts.registry, "wait_until_loaded", wait_until_loaded)
    starting = asyncio.ensure_future(anext(aiter(parts.run(web.Application()))))
    await asyncio.wait_for(waits.wait(), 10)
    with redis.Redis(port=redis_port) as client:
        assert client.keys(LAYOUT.frontends.prefix + "*")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not client.keys(LAYOUT.frontends.prefix + "*")
