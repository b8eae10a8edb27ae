import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clipper_admin.exceptions import ClipperException
from clipper_admin.process import locks, ports
from clipper_admin.process.processes import Identity


def test_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_locked(path)
    with locks.locked(path, 1):
        assert locks.is_locked(path)
        assert locks.try_lock(path) is None
        with pytest.raises(ClipperException, match="is locked by another process"), locks.locked(path, 0.05):
            pass
    assert not locks.is_locked(path)


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from clipper_admin.process import locks; "
        "locks.try_lock(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert locks.is_locked(path)
        holder.kill()
        holder.wait(10)
        assert not locks.is_locked(path)


def test_lock_on_a_removed_file_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    real_flock = locks.fcntl.flock

    def remove_then_lock(descriptor: int, how: int) -> None:
        path.unlink()
        real_flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", remove_then_lock)
    assert locks.try_lock(path) is None


def test_port_with_a_server_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.can_listen(port)
        assert ports.find_port(port) != port
    assert ports.find_port(port) == port


def test_port_on_all_addresses_is_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not ports.can_listen(server.getsockname()[1])


def test_port_that_others_want_is_not_given() -> None:
    port = ports.find_port(0)
    assert ports.find_port(port, {port}) != port


def test_identity_is_the_process_and_its_start_time() -> None:
    own = Identity.of(os.getpid())
    assert own
    assert own.is_alive()
    assert not own._replace(start_time=own.start_time - 5).is_alive()
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    assert Identity.of(process.pid) is None
