"""Reaching the supervisor of a cluster, and starting one."""

import contextlib
import os
import signal
import subprocess
import sys
from typing import Final

from clipper_admin.process import locks
from clipper_admin.process.state import ClusterFiles
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

_LAUNCH_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
_LOG: Final = "supervisor"


def is_supervised(files: ClusterFiles) -> bool:
    return locks.is_locked(files.supervisor)


def ensure(files: ClusterFiles) -> None:
    """Start a supervisor unless there is one."""
    if not is_supervised(files):
        _launch(files)


def notify(files: ClusterFiles) -> None:
    """Let the supervisor read again which programs are to run."""
    if not _send(files, signal.SIGHUP):
        _launch(files)


def stop(files: ClusterFiles, seconds: float) -> None:
    """Let the supervisor stop all programs in order, and wait for it, `seconds` at most."""
    if not _send(files, signal.SIGTERM):
        _launch(files, "--stop")
    for _ in TimeLimit(seconds).attempts(_POLL_SECONDS):
        if not is_supervised(files):
            return


def _send(files: ClusterFiles, number: signal.Signals) -> bool:
    # While the lock is held, the process id in the file is its holder's and no other's; it comes just after the lock.
    for _ in TimeLimit(_LAUNCH_SECONDS).attempts(_POLL_SECONDS):
        if not is_supervised(files):
            break
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(files.supervisor.read_text()), number)
            return True
    return False


def _launch(files: ClusterFiles, *options: str) -> None:
    files.create()
    command = [sys.executable, "-m", "clipper_admin.process.supervisor", str(files.directory), *options]
    with open(files.log(_LOG), "ab") as log:
        try:
            launcher = subprocess.run(
                command,
                cwd=files.directory,
                env=os.environ | files.marks(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=_LAUNCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ClipperException(
                f"The supervisor did not start within {_LAUNCH_SECONDS:.0f} seconds: is the machine overloaded? Its "
                f"last lines:\n{files.log_tail(_LOG)}"
            ) from None
    if launcher.returncode:
        raise ClipperException(f"The supervisor could not be started:\n{files.log_tail(_LOG)}")
