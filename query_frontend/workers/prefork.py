"""Owns the HTTP port, forks the workers that answer on it, and replaces workers that die or hang.

The supervisor holds the listening sockets, so that no connection is refused while a worker is missing. It sleeps until
a worker sends a message or ends, a signal arrives, or a start or a check of the workers is due.
"""

import contextlib
import faulthandler
import logging
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from clipper_common import signals, webapp
from clipper_common.backoff import RestartBackoff
from clipper_common.constants import MAX_WORKERS
from clipper_common.signals import SignalWakeup
from query_frontend.config import Config
from query_frontend.workers.context import (
    MAX_SLOTS,
    RETIRE,
    SERVING,
    WANTED,
    Beats,
    ConnectionCounts,
    Handover,
    WorkerContext,
)
from query_frontend.workers.hang_detection import CHECK_SECONDS, Verdict, Watch, read_process

logger = logging.getLogger(__name__)

_MAX_ALONE_DELAY_SECONDS: Final = 1.0
"""The longest delay of a start while no other worker serves."""
_STACK_SIGNAL: Final = signal.SIGUSR1
"""The signal at which a worker writes the stacks of its threads to its log, whatever it is doing."""
_STOPPING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SIGNALS: Final = (*_STOPPING_SIGNALS, signal.SIGCHLD)
_OTHER_TEMPORARY_FOLDERS: Final = ("/tmp", "/dev/shm")
_LONGEST_FOLDER: Final = 94
"""A Unix socket's path has at most 103 bytes, on Linux a few more."""

Work = Callable[[Config, WorkerContext], None]
"""The main function of a worker."""


@dataclass(eq=False)
class _Worker:
    """A worker process."""

    number: int
    pid: int
    channel: socket.socket
    backoff: RestartBackoff
    """Delays the start of its successor."""
    started: float = field(default_factory=time.monotonic)
    unread: bytes = b""
    watch: Watch | None = None
    """Detects hangs. It is None until the worker serves, since starting may take long."""
    retires: bool = False

    @property
    def serves(self) -> bool:
        return self.watch is not None and not self.retires

    def begin_watch(self, beats: int) -> None:
        """Watch the worker, which serves from now on and has counted `beats` heartbeats."""
        self.watch = Watch(time.monotonic(), beats)

    def complete_lines(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes."""
        *lines, self.unread = (self.unread + data).split(b"\n")
        return [line + b"\n" for line in lines]

    def retire(self) -> None:
        """Tell the worker to end once its clients are gone. It no longer counts as one of the workers."""
        self.retires = True
        self.tell_to_retire()

    def tell_to_retire(self) -> None:
        with contextlib.suppress(OSError):  # the worker has just ended
            self.channel.sendall(RETIRE)


@dataclass(frozen=True)
class _Start:
    due: float = 0.0
    due_alone: float = 0.0
    """The longest delay of a start while no worker serves."""
    backoff: RestartBackoff = field(default_factory=lambda: RestartBackoff(first_seconds=0.0))
    """Delays the starts of the worker and of its successors."""


class WorkerSupervisor:
    """The parent process of the workers: it starts, watches, replaces and stops them.

    It owns the listening sockets of the query port, the folder of the workers, and the shared memory with their numbers
    of connections and heartbeats. The function `run` makes one in the main thread of the process, which has no event
    loop: its method `run` sleeps in `select` until a signal, a message of a worker or the next check.
    """

    def __init__(self, config: Config, work: Work) -> None:
        self._config = config
        self._work = work
        self._counts = ConnectionCounts()
        self._beats = Beats()
        self._next_check = 0.0
        self._handover = Handover()
        self._listeners = _bind(config.host, config.port)
        self._folder = _private_folder()
        self._wakeup = SignalWakeup()
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._starts = [_Start() for _ in range(config.workers)]
        self._has_served = False
        self._stops = False
        self._exit_code = 0

    def run(self) -> int:
        """Run workers until SIGTERM or SIGINT, and return the exit code.

        If a worker ends before any has served, all end with its exit code, since the others would fail too.
        """
        self._wakeup.listen_to(_SIGNALS)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_signals)
        try:
            while self._workers or not self._stops:
                self._start_what_is_due()
                for key, _ in self._selector.select(self._seconds_to_sleep()):
                    key.data()
                self._check_those_that_serve()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._exit_code

    # --- signals ---

    def _on_signals(self) -> None:
        if not self._wakeup.read().isdisjoint(_STOPPING_SIGNALS):
            self._stop()
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # in a container, orphans of other processes too
                self._on_end(*ended)

    def _stop(self) -> None:
        self._stops = True
        self._starts.clear()
        for listener in self._listeners:  # when the workers have closed the sockets too, new connections are refused
            listener.close()
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGTERM)
            if worker.retires:
                worker.tell_to_retire()

    # --- starting ---

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for start in [start for start in self._starts if self._due(start) <= now]:
            number = self._free_number()
            if number is None:
                return
            self._starts.remove(start)
            self._start(number, start.backoff)

    def _seconds_to_next_start(self) -> float | None:
        if not self._starts or self._free_number() is None:
            return None
        return max(0.0, min(map(self._due, self._starts)) - time.monotonic())

    def _due(self, start: _Start) -> float:
        return start.due if any(worker.serves for worker in self._workers) else min(start.due, start.due_alone)

    def _free_number(self) -> int | None:
        taken = {worker.number for worker in self._workers}
        return next((number for number in range(MAX_SLOTS) if number not in taken), None)

    def _start(self, number: int, backoff: RestartBackoff) -> None:
        ours, theirs = socket.socketpair()
        is_needed = number == 0 and not any(worker.serves for worker in self._workers)
        context = WorkerContext(
            number, self._listeners, theirs, self._counts, self._folder, is_needed, self._handover, self._beats
        )
        # Between the fork and the worker's own handlers a signal would be written to our socket.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING_SIGNALS)
        pid = os.fork()
        if not pid:
            ours.close()
            self._become_worker(context)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING_SIGNALS)
        theirs.close()
        worker = _Worker(number, pid, ours, backoff)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_message(worker))

    def _become_worker(self, context: WorkerContext) -> NoReturn:
        code = 1
        try:
            self._close_inherited_descriptors()
            if sys.stderr is not None:
                faulthandler.register(_STACK_SIGNAL)
            self._work(self._config, context)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            logger.critical("a worker failed", exc_info=True)
        finally:
            logging.shutdown()
            os._exit(code)

    def _close_inherited_descriptors(self) -> None:
        signals.forget(_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING_SIGNALS)
        self._selector.close()
        self._wakeup.close()
        for worker in self._workers:
            worker.channel.close()

    # --- messages and ends of workers ---

    def _on_message(self, worker: _Worker) -> None:
        if worker not in self._workers:  # a signal has just reported its end
            return
        try:
            data = worker.channel.recv(4096)
        except ConnectionResetError:
            data = b""
        if not data:  # a signal will report its end
            self._selector.unregister(worker.channel)
            return
        for line in worker.complete_lines(data):
            if line == SERVING:
                self._has_served = True
                worker.begin_watch(self._beats.of(worker.number))
            else:
                self._set_wanted(int(line.removeprefix(WANTED.partition(b"%")[0])))

    def _on_end(self, pid: int, status: int) -> None:
        worker = next((worker for worker in self._workers if worker.pid == pid), None)
        if worker is None:
            return
        self._workers.remove(worker)
        self._counts.close(worker.number)
        if worker.channel in self._selector.get_map():
            self._selector.unregister(worker.channel)
        worker.channel.close()
        code = os.waitstatus_to_exitcode(status)
        if self._stops or worker.retires:
            return
        if not self._has_served:
            self._exit_code = code if code >= 0 else 128 - code
            self._stop()
            return
        lived = time.monotonic() - worker.started
        delay = worker.backoff.delay_after(lived)
        logger.error("worker %d ended with %d after %.0f s, and is started again", worker.number, code, lived)
        now = time.monotonic()
        self._starts.append(_Start(now + delay, now + min(delay, _MAX_ALONE_DELAY_SECONDS), worker.backoff))

    # --- hang detection ---

    def _seconds_to_sleep(self) -> float | None:
        start = self._seconds_to_next_start()
        if not any(worker.watch for worker in self._workers):
            return start
        check = max(0.0, self._next_check - time.monotonic())
        return check if start is None else min(start, check)

    def _check_those_that_serve(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        for worker in self._workers:
            if worker.watch is not None:
                verdict = worker.watch.check(now, self._beats.of(worker.number), read_process(worker.pid))
                if verdict is Verdict.HANGS:
                    logger.error("the event loop of worker %d stands still. If it can, it writes why:", worker.number)
                    os.kill(worker.pid, _STACK_SIGNAL)
                elif verdict is Verdict.STILL_HANGS:
                    logger.error("worker %d hangs and is killed", worker.number)
                    os.kill(worker.pid, signal.SIGKILL)

    # --- the number of workers ---

    def _set_wanted(self, wanted: int) -> None:
        if self._stops:
            return
        wanted = min(max(wanted, 1), MAX_WORKERS)
        staying = sorted((w for w in self._workers if not w.retires), key=lambda worker: worker.number)
        surplus = len(staying) + len(self._starts) - wanted
        self._starts += [_Start() for _ in range(-surplus)]
        # If number 0 is missing, one start is kept for it, because all containers know its port.
        kept = int(all(worker.number for worker in staying))
        while surplus > 0 and len(self._starts) > kept:
            self._starts.pop()
            surplus -= 1
        for worker in staying[len(staying) - max(surplus, 0) :]:
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        self._counts.close(worker.number)
        worker.retire()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets for all addresses of `host`. They listen when the first worker starts."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_bound(family, address) for family, _, _, _, address in dict.fromkeys(found)]
    except OSError as error:
        sys.exit(webapp.address_in_use(f"{host}:{port}", error))


def _bound(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)  # type: ignore[arg-type]
    return listener


def _private_folder() -> Path:
    """Return a new folder by a short path, which may be relative, since the working directory never changes.

    It is in memory if no other file system is writable, as in a read-only container.
    """
    for parent in (None, *_OTHER_TEMPORARY_FOLDERS):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="clipper-", dir=parent))
            for named in (os.fspath, os.path.relpath):  # the working directory may be gone, and not be needed
                if len(os.fsencode(name := named(folder))) <= _LONGEST_FOLDER:
                    return Path(name)
            folder.rmdir()
    places = ", ".join(("TMPDIR", *_OTHER_TEMPORARY_FOLDERS))
    logger.critical("no folder for sockets: none of %s can be written to and has a short path", places)
    sys.exit(1)


def run(config: Config, work: Work) -> NoReturn:
    """Run `config.workers` workers, each of which does `work`, and exit."""
    webapp.configure_logging()
    sys.exit(WorkerSupervisor(config, work).run())
