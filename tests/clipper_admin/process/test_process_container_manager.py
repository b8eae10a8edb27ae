import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clipper_admin.container_manager import ContainerManager
from clipper_admin.exceptions import ClipperException, UnconnectedException
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_admin.process import (
    ports,
    process_container_manager,
    processes,
    programs,
    replicas,
    starting,
    supervisor_client,
)
from clipper_admin.process.process_container_manager import ProcessContainerManager
from clipper_admin.process.state import Cluster, ClusterFiles, Kind, Program
from clipper_common import constants
from tests.conftest import OwnRedis

pytestmark = pytest.mark.integration

WaitUntil = Callable[..., None]

FAKE_SERVER = """
import signal, socket, sys
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
signal.pause()
"""
FAKE_MODEL = "import os, time\nprint('model', os.environ['CLIPPER_MODEL_VERSION'], flush=True)\ntime.sleep(1000)\n"


def fake_server(files: ClusterFiles, id_: str, *listen: int) -> Program:
    argv = [sys.executable, "-S", "-c", FAKE_SERVER, *map(str, listen)]
    return Program(id_, Kind.FRONTEND, argv, str(files.directory))


def fake_frontends(files: ClusterFiles, cluster: Cluster, options: FrontendOptions) -> list[Program]:
    return [
        fake_server(files, programs.MANAGEMENT_FRONTEND, cluster.management_port),
        fake_server(files, programs.QUERY_FRONTEND, cluster.query_port, cluster.rpc_port),
        fake_server(files, programs.EXPORTER, cluster.metric_port),
    ]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick programs in place of the frontends."""
    monkeypatch.setattr(programs, "frontends", fake_frontends)


def manager(name: str = "one", **options: object) -> ProcessContainerManager:
    chosen = {"clipper_query_port": 0, "clipper_management_port": 0, "clipper_rpc_port": 0}
    chosen |= {"redis_port": 0, "prometheus_port": 0}
    return ProcessContainerManager(name, **(chosen | options))  # type: ignore[arg-type]


def start(cm: ContainerManager, num_frontend_replicas: int = 1) -> None:
    cm.start_clipper(FrontendOptions(num_frontend_replicas=num_frontend_replicas))


def processes_of(name: str) -> list[psutil.Process]:
    return processes.marked({processes.ENV_CLUSTER_DIRECTORY: str(ClusterFiles(name).directory)})


@pytest.fixture
def cm(fakes: None) -> Iterator[ProcessContainerManager]:
    """A cluster of quick programs."""
    cm = manager()
    start(cm)
    yield cm
    cm.stop_all(graceful=False)


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A model container that connects to nothing."""
    path = tmp_path / "model_script.py"
    path.write_text(FAKE_MODEL)
    return str(path)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


# --- the real programs ---


def test_real_cluster_serves_metrics_of_all_and_leaves_nothing(
    home: Path, wait_until: WaitUntil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    cm = manager()
    start(cm)
    try:
        cm.deploy_model(ModelSpec("m", "1", "doubles", "clipper/noop-container:any", num_replicas=2))

        def connected() -> bool:
            text = _get(f"http://{cm.get_metric_addr()}/metrics")
            replicas = [f'clipper_mc_pred_total{{model="m",replica="m_1-{n}",version="1"}}' for n in (0, 1)]
            return "clipper_exporter_frontend_up 1.0" in text and all(replica in text for replica in replicas)

        wait_until(connected)
        assert _get(f"http://{cm.get_admin_addr()}/admin/ping") == "PONG"
        assert "counters" in json.loads(_get(f"http://{cm.get_query_addr()}/metrics"))
        assert cm.find_failures("m", "1") == []
        for process in processes_of("one"):
            assert {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}
        assert list(ClusterFiles("one").temporary.glob("clipper-*/0.sock")), "which is where it goes with the cluster"
        assert not list(temporary.iterdir())
    finally:
        cm.stop_all()
    assert not processes_of("one")
    assert not home.exists()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def test_redis_of_another_cluster_is_refused_with_the_log(redis_port: int, home: Path) -> None:
    first = manager("one", redis_ip="127.0.0.1", redis_port=redis_port)
    start(first)
    try:
        second = manager("two", redis_ip="127.0.0.1", redis_port=redis_port)
        with pytest.raises(ClipperException, match="exited with code 5 during the start.\nLast lines of"):
            start(second)
        assert not processes_of("two")
        assert not (home / "clusters" / "two").exists()
        assert processes_of("one")
    finally:
        first.stop_all(graceful=False)


# --- start and connect ---


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", ".hidden", "a\n", "a" * 65, None])
def test_bad_cluster_name(name: Any) -> None:
    with pytest.raises(ClipperException, match="cannot be the name of a cluster"):
        ProcessContainerManager(name)


@pytest.mark.parametrize("port", ["abc", -1, 70000, None])
def test_bad_port(port: Any) -> None:
    with pytest.raises(ClipperException, match="clipper_query_port="):
        ProcessContainerManager(clipper_query_port=port)


def test_a_redis_that_refuses_is_named_at_once(home: Path, refusing_redis: tuple[int, str]) -> None:
    port, said = refusing_redis
    cm = ProcessContainerManager("refused", 0, 0, 0, redis_ip="127.0.0.1", redis_port=port, prometheus_port=0)
    with pytest.raises(ClipperException, match=said):
        start(cm)
    assert processes.marked(ClusterFiles("refused").marks()) == []


def test_a_read_only_redis_is_named_at_once(home: Path, own_redis: OwnRedis) -> None:
    own_redis.start("--replicaof", "127.0.0.1", "1")
    cm = ProcessContainerManager("refused", 0, 0, 0, redis_ip="127.0.0.1", redis_port=own_redis.port, prometheus_port=0)
    with pytest.raises(ClipperException, match="This Redis is a read-only replica"):
        start(cm)


def test_a_redis_that_does_not_answer_is_named_at_once(home: Path, free_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(ClipperException, match=f"No Redis answers at 127.0.0.1:{free_port}"):
        start(manager("one", redis_ip="127.0.0.1", redis_port=free_port))
    assert time.monotonic() - started < 5
    assert not processes_of("one")


def test_a_damaged_record_is_named(cm: ProcessContainerManager) -> None:
    (ClusterFiles("one").directory / "cluster.json").write_text("{")
    with pytest.raises(ClipperException, match=r"damaged. stop_all\(\)"):
        manager("one").connect()


def test_too_many_frontends(home: Path) -> None:
    with pytest.raises(ClipperException, match="num_frontend_replicas=65"):
        start(manager(), num_frontend_replicas=65)
    assert not home.exists()


def test_a_running_cluster_is_not_started_again(cm: ProcessContainerManager) -> None:
    before = {process.pid for process in processes_of("one")}
    with pytest.raises(ClipperException, match="Cluster one cannot be started because it already exists"):
        start(manager())
    assert {process.pid for process in processes_of("one")} == before


def test_taken_port_is_replaced(fakes: None, caplog: pytest.LogCaptureFixture) -> None:
    cm = manager()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        cm = manager(clipper_query_port=taken)
        start(cm)
        assert port_of(cm.get_query_addr()) != taken
    assert f"Port {taken} for the query frontend is taken" in caplog.text
    cm.stop_all()


def test_wanted_ports_are_had(fakes: None) -> None:
    wanted = [ports.find_port(0) for _ in range(3)]
    cm = manager(clipper_query_port=wanted[0], clipper_management_port=wanted[1], prometheus_port=wanted[2])
    start(cm)
    assert [port_of(a) for a in (cm.get_query_addr(), cm.get_admin_addr(), cm.get_metric_addr())] == wanted
    cm.stop_all()
    start(cm)  # yesterday's connections do not keep a port
    assert port_of(cm.get_query_addr()) == wanted[0]
    cm.stop_all()


def test_two_clusters_side_by_side(cm: ProcessContainerManager, script: str) -> None:
    first = port_of(cm.get_query_addr())
    other = manager("two", clipper_query_port=first)
    start(other)
    try:
        assert port_of(other.get_query_addr()) != first
        other.deploy_model(ModelSpec("m", "1", "ints", script))
        assert cm.get_num_replicas("m", "1") == 0
    finally:
        other.stop_all()
    assert not processes_of("two")
    assert ports.accepts("127.0.0.1", first)


def test_connect_from_another_interpreter(cm: ProcessContainerManager) -> None:
    program = (
        "from clipper_admin.process.process_container_manager import ProcessContainerManager as Manager\n"
        "cm = Manager('one'); cm.connect(); print(cm.get_query_addr())"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == cm.get_query_addr()


def test_a_cluster_outlives_the_interpreter_that_started_it(home: Path) -> None:
    program = (
        "from clipper_admin.frontend_options import FrontendOptions\n"
        "from clipper_admin.process.process_container_manager import ProcessContainerManager as Manager\n"
        "Manager('one', 0, 0, 0, None, 0, 0).start_clipper(FrontendOptions())"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    cm = manager()
    cm.connect()
    assert _get(f"http://{cm.get_admin_addr()}/admin/ping") == "PONG"
    cm.stop_all()
    assert not processes_of("one")
    assert not home.exists()


def test_connect_names_the_clusters_that_exist(cm: ProcessContainerManager) -> None:
    with pytest.raises(ClipperException, match="No cluster named 'two' runs here.*: one"):
        manager("two").connect()


def test_unconnected_manager_says_so() -> None:
    for call in (manager().get_query_addr, lambda: manager().get_num_replicas("m", "1")):
        with pytest.raises(UnconnectedException):
            call()


def test_cluster_that_another_interpreter_stopped(cm: ProcessContainerManager) -> None:
    manager().stop_all()
    with pytest.raises(ClipperException, match="Cluster one is gone"):
        cm.get_query_addr()


def test_connect_revives_the_supervisor(cm: ProcessContainerManager, script: str, wait_until: WaitUntil) -> None:
    cm.deploy_model(ModelSpec("m", "1", "ints", script))
    _kill_supervisor(wait_until)
    again = manager()
    again.connect()
    assert supervisor_client.is_supervised(ClusterFiles("one"))
    again.set_num_replicas(ModelSpec("m", "1", "ints", script, 0))
    assert again.get_num_replicas("m", "1") == 0


def _kill_supervisor(wait_until: WaitUntil) -> None:
    files = ClusterFiles("one")
    os.kill(int(files.supervisor.read_text()), signal.SIGKILL)
    wait_until(lambda: not supervisor_client.is_supervised(files))


def test_program_that_dies_during_the_start(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def dying(files: ClusterFiles, *rest: object) -> list[Program]:
        argv = ["/bin/sh", "-c", "echo my reason; exit 5"]
        return [Program("query_frontend", Kind.FRONTEND, argv, str(files.directory))]

    monkeypatch.setattr(programs, "frontends", dying)
    with pytest.raises(ClipperException, match="query_frontend exited with code 5 during the start(.|\n)*my reason"):
        start(manager())
    assert not processes_of("one")
    assert not (home / "clusters" / "one").exists()


def test_program_that_never_listens(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(starting, "START_SECONDS", 0.5)
    monkeypatch.setattr(programs, "frontends", lambda files, *rest: [fake_server(files, "query_frontend")])
    with pytest.raises(ClipperException, match="Nothing listens on port"):
        start(manager())
    assert not processes_of("one")


def test_remains_of_a_dead_cluster_are_replaced_but_not_its_images(
    cm: ProcessContainerManager, tmp_path: Path, script: str
) -> None:
    (tmp_path / "model").mkdir()
    cm.build_model(ImageSpec("m:1", tmp_path / "model", script))
    processes.kill_marked(ClusterFiles("one").marks())
    start(cm)
    cm.deploy_model(ModelSpec("m", "1", "ints", "m:1"))
    assert cm.get_num_replicas("m", "1") == 1


# --- models ---


def test_scale_up_and_down(cm: ProcessContainerManager, script: str) -> None:
    files = ClusterFiles("one")
    cm.deploy_model(ModelSpec("m", "1.0", "ints", script))
    (oldest,) = files.replicas("m", "1.0")
    cm.set_num_replicas(ModelSpec("m", "1.0", "ints", script, 3))
    assert cm.get_num_replicas("m", "1.0") == 3
    targets = json.loads(files.targets.read_text())
    labels = sorted((target["labels"] for target in targets), key=str)
    assert labels == [{"model": "m", "version": "1.0", "replica": f"m_1.0-{number}"} for number in range(3)]
    assert len({target["targets"][0] for target in targets}) == 3

    cm.set_num_replicas(ModelSpec("m", "1.0", "ints", script, 1))
    assert [program.id for program in files.replicas("m", "1.0")] == [oldest.id]
    assert len([p for p in processes_of("one") if constants.ENV_MODEL_NAME in p.environ()]) == 1
    cm.set_num_replicas(ModelSpec("m", "1.0", "ints", script, 0))
    assert json.loads(files.targets.read_text()) == []


def test_replica_is_told_what_it_needs(cm: ProcessContainerManager, tmp_path: Path, wait_until: WaitUntil) -> None:
    script = tmp_path / "printer.py"
    script.write_text(
        "import json, os, sys, time\nprint(json.dumps([dict(os.environ), os.getcwd(), sys.path]), flush=True)\n"
        "time.sleep(1000)\n"
    )
    cm.deploy_model(ModelSpec("m", "1", "d", str(script)))
    wait_until(lambda: ClusterFiles("one").log_tail("m_1-0").endswith("]"))
    environment, folder, path = json.loads(ClusterFiles("one").log_tail("m_1-0"))
    assert environment[constants.ENV_MODEL_NAME] == "m"
    assert environment[constants.ENV_MODEL_VERSION] == "1"
    assert environment[constants.ENV_INPUT_TYPE] == "d"
    assert environment[constants.ENV_RPC_HOST] == "127.0.0.1"
    assert ports.accepts("127.0.0.1", int(environment[constants.ENV_RPC_PORT]))
    assert int(environment[constants.ENV_METRIC_PORT])
    assert constants.ENV_MODEL_PATH in environment
    assert folder == str(tmp_path)
    assert any(entry.endswith("toplevel") for entry in path)


def test_failures_with_last_words(cm: ProcessContainerManager, tmp_path: Path, wait_until: WaitUntil) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import sys\nprint('cannot load')\nsys.exit(3)\n")
    cm.deploy_model(ModelSpec("m", "1", "ints", str(script)))
    wait_until(lambda: cm.find_failures("m", "1"))
    (failure,) = cm.find_failures("m", "1")
    assert (failure.replica, failure.reason) == ("m_1-0", "exited with code 3")
    assert failure.log_tail.startswith("cannot load")
    assert cm.find_failures("m", "2") == []


def test_a_replica_that_recovered_is_no_failure(
    cm: ProcessContainerManager, script: str, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ClusterFiles("one")
    cm.deploy_model(ModelSpec("m", "1", "ints", script))
    status = files.status("m_1-0")
    assert status
    os.kill(status.pid, signal.SIGKILL)
    wait_until(lambda: cm.find_failures("m", "1"))
    wait_until(lambda: (again := files.status("m_1-0")) and again.starts == 2)
    monkeypatch.setattr(replicas, "HEALTHY_SECONDS", -2.0)
    assert cm.find_failures("m", "1") == []


def test_unknown_image_starts_nothing(cm: ProcessContainerManager) -> None:
    with pytest.raises(ClipperException, match="Image 'clipper/unknown:1' was not found"):
        cm.deploy_model(ModelSpec("m", "1", "ints", "clipper/unknown:1"))
    assert cm.get_num_replicas("m", "1") == 0


def test_stop_models(cm: ProcessContainerManager, script: str) -> None:
    for version in ("1", "2"):
        cm.deploy_model(ModelSpec("m", version, "ints", script))
    cm.deploy_model(ModelSpec("other", "1", "ints", script))
    cm.stop_models({"m": ["1"], "unknown": ["7"]})
    assert [cm.get_num_replicas("m", version) for version in ("1", "2")] == [0, 1]
    manager().stop_all_model_containers()  # connects by itself
    assert cm.get_num_replicas("m", "2") == cm.get_num_replicas("other", "1") == 0
    assert ports.accepts("127.0.0.1", port_of(cm.get_query_addr()))


def test_logs_of_all_also_of_stopped_ones(
    cm: ProcessContainerManager, script: str, tmp_path: Path, wait_until: WaitUntil
) -> None:
    cm.deploy_model(ModelSpec("m", "1", "ints", script))
    wait_until(lambda: ClusterFiles("one").log_tail("m_1-0"))
    cm.stop_models({"m": ["1"]})
    cm.deploy_model(ModelSpec("m", "1", "ints", script))
    paths = {Path(path).name: Path(path) for path in cm.get_logs(str(tmp_path / "new" / "logs"))}
    assert {"redis.log", "query_frontend.log", "m_1-0.log", "m_1-1.log"} <= paths.keys()
    assert paths["m_1-0.log"].read_text() == "model 1\n"


# --- stop_all ---


def _damage_record(wait_until: WaitUntil) -> None:
    (ClusterFiles("one").directory / "cluster.json").write_text("{ broken")


def _remove_folder(wait_until: WaitUntil) -> None:
    ClusterFiles("one").remove()


def _nothing(wait_until: WaitUntil) -> None:
    pass


@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("damage", [_nothing, _damage_record, _kill_supervisor, _remove_folder])
def test_stop_all_leaves_nothing(
    cm: ProcessContainerManager,
    script: str,
    home: Path,
    wait_until: WaitUntil,
    damage: Callable[[WaitUntil], None],
    graceful: bool,
) -> None:
    cm.deploy_model(ModelSpec("m", "1", "ints", script))
    # The environment by which it is found cannot be read of a process that has just been started.
    wait_until(lambda: len(processes_of("one")) == 6)
    damage(wait_until)
    started = time.monotonic()
    manager().stop_all(graceful=graceful)
    assert time.monotonic() - started < 8
    assert not processes_of("one")
    assert not home.exists()
    manager().stop_all(graceful=graceful)


def test_stop_all_finds_a_program_that_hides_its_environment(
    cm: ProcessContainerManager, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, is_gone: Callable[[int], bool]
) -> None:
    status = ClusterFiles("one").status(programs.REDIS)
    assert status
    monkeypatch.setattr(processes, "marked", lambda marks: [])
    _kill_supervisor(wait_until)
    cm.stop_all(graceful=False)
    wait_until(lambda: is_gone(status.pid))


def test_stop_all_finds_what_a_model_left_in_a_session_of_its_own(
    cm: ProcessContainerManager, tmp_path: Path, wait_until: WaitUntil, is_gone: Callable[[int], bool]
) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid, flush=True)\ntime.sleep(1000)\n"
    )
    cm.deploy_model(ModelSpec("m", "1", "ints", str(script)))
    wait_until(lambda: ClusterFiles("one").log_tail("m_1-0"))
    pid = int(ClusterFiles("one").log_tail("m_1-0"))
    cm.stop_all()
    assert is_gone(pid)


def test_stop_all_is_bounded(
    cm: ProcessContainerManager, tmp_path: Path, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    cm.deploy_model(ModelSpec("m", "1", "ints", str(script)))
    wait_until(lambda: ClusterFiles("one").log_tail("m_1-0"))
    monkeypatch.setattr(process_container_manager, "STOP_SECONDS", 0.5)
    cm.stop_all()
    assert not processes_of("one")
