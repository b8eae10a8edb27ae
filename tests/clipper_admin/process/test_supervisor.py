import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clipper_admin.process import supervisor, supervisor_client
from clipper_admin.process.processes import Identity
from clipper_admin.process.state import ClusterFiles, Kind, Program, State, Status
from clipper_admin.process.supervisor import Supervisor
from clipper_common.backoff import LONGEST_SECONDS, STABLE_SECONDS
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

WaitUntil = Callable[..., None]


def shell(id_: str, script: str, kind: Kind = Kind.MODEL) -> Program:
    return Program(id_, kind, ["/bin/sh", "-c", script], "/")


def sleeper(id_: str = "sleeper", kind: Kind = Kind.MODEL) -> Program:
    return shell(id_, "exec sleep 1000", kind)


def supervisor_pid(files: ClusterFiles) -> int:
    return int(files.supervisor.read_text())


def status(files: ClusterFiles, id_: str) -> Status:
    found = files.status(id_)
    assert found
    return found


def is_running(files: ClusterFiles, id_: str, starts: int = 1) -> bool:
    found = files.status(id_)
    return bool(found and found.state == State.RUNNING and found.starts == starts)


@pytest.fixture
def run(files: ClusterFiles, wait_until: WaitUntil) -> Callable[..., Status]:
    """Let the supervisor run a program."""

    def run_program(program: Program) -> Status:
        files.write_program(program)
        supervisor_client.notify(files)
        wait_until(lambda: is_running(files, program.id))
        return status(files, program.id)

    return run_program


# --- with the real program ---


def test_restarts_what_was_killed_and_marks_that_in_the_log(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil
) -> None:
    first = run(shell("talker", "echo hello; exec sleep 1000"))
    wait_until(lambda: files.log_tail("talker") == "hello")
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: is_running(files, "talker", starts=2))
    second = status(files, "talker")
    assert second.pid != first.pid
    assert second.last_exit == "was killed by SIGKILL"
    wait_until(lambda: files.log_tail("talker") == "hello\n--- start 2: the program was killed by SIGKILL ---\nhello")


def test_program_gets_its_environment_and_the_marks(
    files: ClusterFiles, run: Callable[..., Status], tmp_path: Path, wait_until: WaitUntil
) -> None:
    script = 'echo "$GREETING $CLIPPER_CLUSTER_DIRECTORY $(pwd)"; exec sleep 1000'
    run(Program("env", Kind.MODEL, ["/bin/sh", "-c", script], str(tmp_path), {"GREETING": "moin"}))
    wait_until(lambda: files.log_tail("env") == f"moin {files.directory} {tmp_path}")


def test_deleting_the_file_stops_the_program(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    pid, other = run(sleeper("a")).pid, run(sleeper("b")).pid
    files.delete_programs(["a"])
    supervisor_client.notify(files)
    wait_until(lambda: files.status("a") is None)
    assert is_gone(pid)
    assert not is_gone(other)


def test_adopts_after_the_supervisor_was_killed(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    before = run(sleeper())
    old = supervisor_pid(files)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not supervisor_client.is_supervised(files))
    assert not is_gone(before.pid)

    supervisor_client.ensure(files)
    assert supervisor_pid(files) != old
    supervisor_client.notify(files)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: is_running(files, "sleeper", starts=2))
    assert status(files, "sleeper").pid != before.pid


def test_restarts_what_died_without_supervisor(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    before = run(sleeper())
    os.kill(supervisor_pid(files), signal.SIGKILL)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: not supervisor_client.is_supervised(files) and is_gone(before.pid))
    supervisor_client.ensure(files)
    wait_until(lambda: is_running(files, "sleeper", starts=2))
    assert "no supervisor" in status(files, "sleeper").last_exit


def test_stops_in_order(
    files: ClusterFiles, run: Callable[..., Status], tmp_path: Path, is_gone: Callable[[int], bool]
) -> None:
    ends = tmp_path / "ends"
    pids = []
    for kind in (Kind.REDIS, Kind.MODEL, Kind.FRONTEND):
        ready = tmp_path / f"{kind}.ready"
        script = f"trap 'sleep 0.1; echo {kind} >> {ends}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"
        pids.append(run(shell(kind, script, kind)).pid)
        _wait_for(ready)
    supervisor_client.stop(files, 10)
    assert ends.read_text().split() == [Kind.MODEL, Kind.FRONTEND, Kind.REDIS]
    assert all(is_gone(pid) for pid in pids)
    assert not files.statuses()


def _wait_for(path: Path) -> None:
    wait_for(path.exists, f"there is {path}")


def test_stop_without_supervisor_stops_what_it_left(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    pid = run(sleeper()).pid
    os.kill(supervisor_pid(files), signal.SIGKILL)
    wait_until(lambda: not supervisor_client.is_supervised(files))
    supervisor_client.stop(files, 10)
    assert is_gone(pid)


def test_children_of_a_program_die_with_it(
    run: Callable[..., Status], tmp_path: Path, wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    child_file = tmp_path / "child"
    leader = run(shell("parent", f"sleep 1000 & echo $! > {child_file}.new; mv {child_file}.new {child_file}; wait"))
    _wait_for(child_file)
    child = int(child_file.read_text())
    assert not is_gone(child)
    os.kill(leader.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(child))


def left_in_other_sessions(run: Callable[..., Status], id_: str, folder: Path) -> tuple[Status, list[int]]:
    """A program, and the processes of sessions of their own that it has started: a child, and a daemon."""
    files = [folder / f"{id_}-{number}" for number in range(2)]
    write = "import os; path = '{}'; open(path + '.new', 'w').write(str(os.getpid())); os.rename(path + '.new', path)"
    sleep = "import time; time.sleep(1000)"
    python = f"exec setsid {sys.executable} -S -c"
    child, daemon = (f'{python} "{write.format(path)}; {sleep}"' for path in files)
    leader = run(shell(id_, f"({child}) & ( ( {daemon} ) & ) ; exec sleep 1000"))
    for path in files:
        _wait_for(path)
    return leader, [int(path.read_text()) for path in files]


@pytest.mark.parametrize("ends", ["killed", "stopped", "killed while no supervisor is there"])
def test_what_a_program_leaves_in_other_sessions_ends_with_it(
    files: ClusterFiles,
    run: Callable[..., Status],
    tmp_path: Path,
    wait_until: WaitUntil,
    is_gone: Callable[[int], bool],
    ends: str,
) -> None:
    leader, left = left_in_other_sessions(run, "m_1-1", tmp_path)
    _, of_others = left_in_other_sessions(run, "m_1-10", tmp_path)
    assert not any(map(is_gone, left))
    if ends == "stopped":
        files.delete_programs(["m_1-1"])
        supervisor_client.notify(files)
        wait_until(lambda: files.status("m_1-1") is None)
        assert all(map(is_gone, left))
    elif ends == "killed":
        os.kill(leader.pid, signal.SIGKILL)
    else:
        os.kill(supervisor_pid(files), signal.SIGKILL)
        wait_until(lambda: not supervisor_client.is_supervised(files))
        os.kill(leader.pid, signal.SIGKILL)
        supervisor_client.ensure(files)
    wait_until(lambda: all(map(is_gone, left)))
    assert not any(map(is_gone, of_others))


def test_a_replica_that_was_stopped_by_a_signal_is_replaced(
    files: ClusterFiles, inside: Callable[[], Supervisor], wait_until: WaitUntil
) -> None:
    files.write_program(sleeper("frontend", Kind.FRONTEND))
    files.write_program(sleeper("model"))
    boss = inside()
    now = time.monotonic()
    boss.step({signal.SIGHUP}, now)
    stopped = status(files, "model")
    for id_ in ("frontend", "model"):
        os.kill(status(files, id_).pid, signal.SIGSTOP)
    wait_until(stopped.identity.is_stopped)
    boss._check(now)
    boss._check(now + supervisor.CHECK_SECONDS / 2)
    assert stopped.identity.is_alive(), "it may be continued"
    boss._check(now + supervisor.CHECK_SECONDS)
    wait_until(lambda: not stopped.identity.is_alive())
    boss.step(set(), now)
    boss.step(set(), now + LONGEST_SECONDS)
    assert is_running(files, "model", starts=2) and is_running(files, "frontend")


def test_kills_what_does_not_stop(
    files: ClusterFiles, tmp_path: Path, wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    ready = tmp_path / "ready"
    files.write_program(shell("stubborn", f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"))
    program = (
        "import sys, pathlib, clipper_admin.process.supervisor as s; s.STOP_SECONDS = 0.2; "
        "s.main(pathlib.Path(sys.argv[1]), False)"
    )
    subprocess.run([sys.executable, "-c", program, files.directory], check=True, env=os.environ | files.marks())
    _wait_for(ready)
    wait_until(lambda: files.status("stubborn") is not None)  # written after the start, which the program may outrun
    pid = status(files, "stubborn").pid
    files.delete_programs(["stubborn"])
    started = time.monotonic()
    supervisor_client.notify(files)
    wait_until(lambda: is_gone(pid) and files.status("stubborn") is None, 5)
    assert time.monotonic() - started >= 0.2


def test_logs_are_bounded_while_the_program_writes_on(
    files: ClusterFiles, run: Callable[..., Status], wait_until: WaitUntil
) -> None:
    run(shell("chatty", "i=0; while sleep 0.01; do i=$((i+1)); echo line $i; done"))
    log = files.log("chatty")
    wait_until(lambda: log.exists() and log.stat().st_size > 400)
    files.bound_logs(most=400)
    kept = log.read_text()
    assert kept.startswith("--- what was here before was cut off ---")
    assert "line 1\n" not in kept
    wait_until(lambda: log.stat().st_size > len(kept) + 50)
    assert "\0" not in log.read_text()


def test_second_supervisor_steps_back(files: ClusterFiles, run: Callable[..., Status]) -> None:
    run(sleeper())
    pid = supervisor_pid(files)
    command = [sys.executable, "-m", "clipper_admin.process.supervisor", files.directory]
    assert subprocess.run(command, timeout=10).returncode == 0
    assert supervisor_pid(files) == pid
    assert status(files, "sleeper").starts == 1


def test_ctrl_c_in_our_terminal_reaches_none_of_it(files: ClusterFiles, run: Callable[..., Status]) -> None:
    pid = run(sleeper()).pid
    assert os.getsid(pid) == os.getsid(supervisor_pid(files)) != os.getsid(0)
    assert os.getpgid(pid) == pid


# --- step by step, with a clock of our own ---


@pytest.fixture
def inside(files: ClusterFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Supervisor]]:
    """Make supervisors in this process."""
    made: list[Supervisor] = []

    def make() -> Supervisor:
        made.append(Supervisor(files))
        return made[-1]

    yield make
    for child in (child for each in made for child in each.children.values() if child.process):
        assert child.process
        child.process.kill()
        child.process.wait(5)


def test_waits_longer_after_each_crash_but_not_after_a_stable_run(
    files: ClusterFiles, inside: Callable[[], Supervisor]
) -> None:
    files.write_program(shell("crasher", "exit 7"))
    boss = inside()
    now, waits = 0.0, []
    boss.step({signal.SIGHUP}, now)
    for _ in range(9):
        _let_end(boss.children["crasher"])
        wait = boss.step(set(), now)
        assert wait is not None
        assert status(files, "crasher").state == State.WAITING
        waits.append(wait)
        boss.step(set(), now + 0.99 * wait)
        assert status(files, "crasher").state == State.WAITING
        now += wait
        boss.step(set(), now)
        assert status(files, "crasher").state == State.RUNNING
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert status(files, "crasher").last_exit == "exited with code 7"

    _let_end(boss.children["crasher"])
    assert boss.step(set(), now + STABLE_SECONDS + 1) == pytest.approx(0.1)


def test_waits_for_a_second_at_most_after_it_has_served(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    files.write_program(shell("crasher", "exit 7"))
    boss, now, waits = inside(), 0.0, []
    boss.step({signal.SIGHUP}, now)
    for lived in (0.0, supervisor.SERVED_SECONDS + 1, 0.0, 0.0, 0.0, 0.0, 0.0):
        _let_end(boss.children["crasher"])
        now += lived
        waits.append(boss.step(set(), now) or 0.0)
        now += waits[-1]
        boss.step(set(), now)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


def _let_end(child: supervisor.Child) -> None:
    assert child.process
    process = psutil.Process(child.process.pid)
    wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE, "the process has ended")


def test_sleeps_without_limit_when_all_is_well(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    files.write_program(sleeper())
    assert inside().step({signal.SIGHUP}, 0.0) is None


def test_program_that_is_not_there(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    files.write_program(Program("absent", Kind.MODEL, ["/no/such/program"], "/"))
    assert inside().step({signal.SIGHUP}, 0.0) == pytest.approx(0.1)
    assert "could not be started" in status(files, "absent").last_exit


def test_reused_process_id_is_left_alone(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    with subprocess.Popen(["/bin/sleep", "1000"], process_group=0) as stranger:
        identity = Identity.of(stranger.pid)
        assert identity
        assert identity.is_alive()
        for id_ in ("wanted", "unwanted"):
            files.write_status(id_, Status(State.RUNNING, 1, stranger.pid, identity.start_time - 60))
        files.write_program(sleeper("wanted"))
        boss = inside()
        boss.step({signal.SIGHUP}, 0.0)
        boss.step(set(), 1e6)
        assert stranger.poll() is None
        assert status(files, "wanted").starts == 2
        assert status(files, "wanted").pid != stranger.pid
        assert files.status("unwanted") is None
        stranger.kill()


def test_a_waiting_program_goes_on_waiting_with_the_next_supervisor(
    files: ClusterFiles, inside: Callable[[], Supervisor]
) -> None:
    files.write_program(sleeper())
    files.write_status("sleeper", Status(State.WAITING, starts=3, last_exit="exited with code 1"))
    boss = inside()
    boss.step({signal.SIGHUP}, time.monotonic())
    assert is_running(files, "sleeper", starts=4)
    assert status(files, "sleeper").last_exit == "exited with code 1"


WRONG_RECORDS = [
    {"argv": 7},
    {"argv": ["/bin/sleep", 1]},
    {"argv": []},
    {"argv": ["/bin/sleep", "1\0"]},
    {"environment": None},
    {"environment": {"NAME": 1}},
    {"environment": {"NA=ME": "1"}},
    {"id": ["list"]},
    {"working_directory": True},
    {"kind": "\0"},
]


@pytest.mark.parametrize("wrong", WRONG_RECORDS, ids=range(len(WRONG_RECORDS)))
def test_a_wrong_record_harms_no_other_program(
    files: ClusterFiles, inside: Callable[[], Supervisor], wrong: dict[str, object]
) -> None:
    files.write_program(sleeper())
    record = {"id": "wrong", "kind": Kind.MODEL, "argv": ["/bin/sleep", "1000"], "working_directory": "/"}
    (files.programs_folder / "wrong.json").write_text(json.dumps(record | wrong))
    boss = inside()
    boss.step({signal.SIGHUP}, 0.0)
    assert is_running(files, "sleeper")
    boss.step(set(), 1.0)
    assert is_running(files, "sleeper")


@pytest.mark.parametrize(
    "wrong", [{"start_time": "now"}, {"pid": None}, {"starts": [1]}, {"last_exit": 0}], ids=range(4)
)
def test_a_wrong_status_is_none(
    files: ClusterFiles, inside: Callable[[], Supervisor], wrong: dict[str, object]
) -> None:
    files.write_program(sleeper())
    files.write_status("sleeper", Status(State.WAITING))
    path = next(path for path in files.directory.rglob("sleeper.json") if path.parent != files.programs_folder)
    path.write_text(json.dumps({"state": State.WAITING} | wrong))
    inside().step({signal.SIGHUP}, 0.0)
    assert is_running(files, "sleeper")


def test_a_program_whose_record_gets_damaged_goes_on(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    files.write_program(sleeper())
    boss = inside()
    boss.step({signal.SIGHUP}, 0.0)
    (files.programs_folder / "sleeper.json").write_text('{"argv": 7}')
    boss.step({signal.SIGHUP}, 1.0)
    assert is_running(files, "sleeper")
    files.delete_programs(["sleeper"])
    boss.step({signal.SIGHUP}, 2.0)
    assert boss.children["sleeper"].stopping


def test_damaged_files_are_skipped(files: ClusterFiles, inside: Callable[[], Supervisor]) -> None:
    (files.programs_folder / "bad.json").write_text("{")
    (files.programs_folder / "odd.json").write_text('{"colour": "red"}')
    files.write_program(sleeper())
    boss = inside()
    boss.step({signal.SIGHUP}, 0.0)
    assert list(boss.children) == ["sleeper"]
