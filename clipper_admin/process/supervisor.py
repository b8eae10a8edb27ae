"""Keeps the programs of one cluster running: ``python -m clipper_admin.process.supervisor <directory> [--stop]``.

It sleeps until a signal or a due time wakes it. SIGHUP: read again which programs are to run. SIGTERM: stop everything
in order and exit. Killed, it leaves the programs running, and its successor adopts them.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from clipper_admin.process import locks, processes
from clipper_admin.process.processes import ENV_PROGRAM_ID, Identity
from clipper_admin.process.state import ClusterFiles, Kind, Program, State, Status
from clipper_common import logs
from clipper_common.backoff import RestartBackoff
from clipper_common.constants import DRAIN_SECONDS
from clipper_common.signals import SignalWakeup

logger = logging.getLogger(__name__)

STOP_SECONDS = DRAIN_SECONDS + 2.0
"""Seconds from the request to stop until the kill."""
SERVED_SECONDS = 5.0
MAX_DELAY_OF_SERVING_SECONDS = 1.0
"""The longest delay of the restart of a program that once ran for `SERVED_SECONDS`, since it will probably serve
again."""
ADOPTED_POLL_SECONDS = 0.5
"""Seconds between checks whether processes have ended that are not our children: their end is not reported to us."""
CHECK_SECONDS = 20.0
"""Seconds between two checks for logs that are too large, and for replicas that are stopped by a signal."""

_LOCK_SECONDS: Final = 1.0  # somebody may just be looking whether it is locked


class Child:
    """A program that runs, waits for its next start, or is being stopped."""

    def __init__(self, program: Program, files: ClusterFiles, marks: dict[str, str]) -> None:
        self.program = program
        self.files = files
        self.marks = marks
        """The environment variables by which processes of the cluster are recognised."""
        self.own_marks = marks | {ENV_PROGRAM_ID: program.id}
        """The environment variables by which whatever this program starts is recognised, in any session."""
        self.was_stopped = False
        """At the last check, by a signal."""
        self.identity: Identity | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.due: float | None = None
        """When it is started, or killed if it is stopping."""
        self.starts = 0
        self.started = 0.0
        self.backoff = RestartBackoff()
        self.last_exit = ""

    def adopt(self, status: Status, now: float) -> None:
        """Go on with what an earlier supervisor started."""
        self.starts, self.last_exit = status.starts, status.last_exit
        if status.identity.is_alive():
            self.identity = status.identity
            self.started = now - (time.time() - status.start_time)
            self._save()
        elif status.pid:
            self._ended(status.pid, "ended while no supervisor was there", now)
        else:
            self.due = now

    def start(self, now: float) -> None:
        self.starts += 1
        self.started, self.due = now, None
        self.was_stopped = False
        try:
            self.process = self._run()
        except (OSError, ValueError, IndexError) as error:  # a null byte in an argument, or no argument at all
            self._retry_later(f"could not be started: {error}", now)
            return
        # Only macOS hides the start time of a process that has ended already.
        self.identity = Identity.of(self.process.pid) or Identity(self.process.pid, time.time())
        self._save()

    def _run(self) -> subprocess.Popen[bytes]:
        path = self.files.log(self.program.id)
        path.parent.mkdir(exist_ok=True)
        with open(path, "ab") as log:
            if self.starts > 1:
                log.write(f"--- start {self.starts}: the program {self.last_exit} ---\n".encode())
                log.flush()
            return subprocess.Popen(
                self.program.argv,
                cwd=self.program.working_directory,
                env=os.environ | self.program.environment | self.own_marks,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def reap(self, now: float) -> None:
        """Notice its end."""
        if self.process:
            code = self.process.poll()
            if code is not None:
                self._ended(self.process.pid, _describe(code), now)
        elif self.identity and not self.identity.is_alive():
            self._ended(self.identity.pid, "ended", now)

    def _ended(self, pid: int, how: str, now: float) -> None:
        self.process = self.identity = None
        processes.kill_group(pid, self.marks)  # what an earlier supervisor started may have no marks of its own
        processes.kill_marked(self.own_marks)
        if now - self.started > SERVED_SECONDS:
            self.backoff.longest_seconds = MAX_DELAY_OF_SERVING_SECONDS
        self._retry_later(how, now)

    def _retry_later(self, how: str, now: float) -> None:
        logger.info("%s %s", self.program.id, how)
        self.last_exit = how
        delay = self.backoff.delay_after(now - self.started)
        self.due = None if self.stopping else now + delay
        self._save()

    def stop(self, now: float) -> None:
        """Ask it to end. Idempotent."""
        if self.stopping:
            return
        self.stopping, self.due = True, None
        if self.identity:
            self.identity.send(signal.SIGTERM)
            self.due = now + STOP_SECONDS
        self._save()

    def check(self) -> None:
        """Kill a replica that has been stopped since the last check: query frontends let go of it long ago."""
        is_stopped = self.program.kind == Kind.MODEL and self.identity is not None and self.identity.is_stopped()
        if is_stopped and self.was_stopped and self.identity:
            logger.warning("%s was stopped by a signal, and not continued: it is killed", self.program.id)
            self.identity.send(signal.SIGKILL)
        self.was_stopped = is_stopped

    @property
    def is_gone(self) -> bool:
        return self.stopping and self.identity is None

    def act(self, now: float) -> None:
        """Do what is due."""
        if self.due is None or self.due > now:
            return
        if self.stopping:
            self._kill(now)
        else:
            self.start(now)

    def _kill(self, now: float) -> None:
        if self.identity:
            logger.warning("%s did not stop in time and is killed", self.program.id)
            self.identity.send(signal.SIGKILL)
            processes.kill_group(self.identity.pid, self.marks)
        self.due = now + STOP_SECONDS

    def _save(self) -> None:
        state = State.STOPPING if self.stopping else State.RUNNING if self.identity else State.WAITING
        identity = self.identity or Identity(0, 0.0)
        status = Status(state, self.starts, identity.pid, identity.start_time, self.last_exit)
        try:
            self.files.write_status(self.program.id, status)
        except OSError as error:  # a full disk is no reason to leave the programs alone
            logger.error("cannot write the status of %s: %s", self.program.id, error)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class Supervisor:
    """Starts and stops programs until those run that are to run."""

    def __init__(self, files: ClusterFiles, stopping: bool = False) -> None:
        self.files = files
        self.stopping = stopping
        self.marks = files.marks()
        self.children: dict[str, Child] = {}
        self.check_due = 0.0
        self._adopt(time.monotonic())

    def _adopt(self, now: float) -> None:
        programs = self.files.programs()
        for id_, status in self.files.statuses().items():
            # Without a program it was just being stopped: reconcile() will find that.
            program = programs.get(id_) or Program(id_, Kind.MODEL, [], "")
            self.children[id_] = child = Child(program, self.files, self.marks)
            child.adopt(status, now)

    def run(self, wakeup: SignalWakeup) -> None:
        signals: set[int] = {signal.SIGHUP}
        while True:
            timeout = self.step(signals, time.monotonic())
            if self.stopping and not self.children:
                return
            select.select([wakeup], [], [], CHECK_SECONDS if timeout is None else min(timeout, CHECK_SECONDS))
            signals = wakeup.read()
            self._check(time.monotonic())

    def _check(self, now: float) -> None:
        if now < self.check_due:
            return
        self.check_due = now + CHECK_SECONDS
        for child in self.children.values():
            child.check()
        try:
            self.files.bound_logs()
        except OSError as error:
            logger.error("cannot cut the logs: %s", error)

    def step(self, signals: Collection[int], now: float) -> float | None:
        """React to what happened. How long to sleep, if nothing else happens."""
        self.stopping = self.stopping or signal.SIGTERM in signals
        for child in self.children.values():
            child.reap(now)
        freed = self._forget_gone()
        if self.stopping:
            self._stop_in_order(now)
            freed = self._forget_gone()
        elif signal.SIGHUP in signals or freed:
            self._reconcile(now)
            self._forget_gone()
        for child in self.children.values():
            child.act(now)
        return 0.0 if self.stopping and freed else self._sleep(now)

    def _reconcile(self, now: float) -> None:
        programs = self.files.programs()
        for id_, child in self.children.items():
            if id_ in programs:
                continue
            if self.files.has_program(id_):
                logger.error("the record of %s is damaged: it goes on as it was started", id_)
            else:
                child.stop(now)
        for id_ in programs.keys() - self.children.keys():
            self.children[id_] = child = Child(programs[id_], self.files, self.marks)
            child.start(now)

    def _stop_in_order(self, now: float) -> None:
        for child in self.children.values():
            if child.identity is None:
                child.stop(now)
        for kind in Kind:
            same = [c for c in self.children.values() if c.program.kind == kind and c.identity]
            for child in same:
                child.stop(now)
            if same:
                return

    def _forget_gone(self) -> bool:
        gone = [id_ for id_, child in self.children.items() if child.is_gone]
        for id_ in gone:
            del self.children[id_]
            self.files.delete_status(id_)
        return bool(gone)

    def _sleep(self, now: float) -> float | None:
        waits = [child.due - now for child in self.children.values() if child.due is not None]
        if any(child.identity and not child.process for child in self.children.values()):
            waits.append(ADOPTED_POLL_SECONDS)
        return max(0.0, min(waits)) if waits else None


def main(directory: Path, stopping: bool) -> None:
    """Go to the background, where exactly one supervisor of a cluster runs, and supervise."""
    logs.configure()
    files = ClusterFiles(directory.name, directory)
    lock = locks.wait_for_lock(files.supervisor, _LOCK_SECONDS)
    if lock is None:
        return  # somebody else was faster
    os.truncate(lock, 0)
    wakeup = SignalWakeup()
    wakeup.listen_to((signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD))
    if pid := os.fork():
        os.pwrite(lock, str(pid).encode(), 0)
        os._exit(0)
    os.setsid()
    Supervisor(files, stopping).run(wakeup)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--stop" in sys.argv[2:])
