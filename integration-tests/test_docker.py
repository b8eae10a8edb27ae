"""Tests of DockerContainerManager beyond the contract, on a real engine."""

import gc
import io
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker_support import REFUSING_REDIS, redis_container
from load import Load

from clipper_admin import ClipperConnection, ClipperException, DockerContainerManager, container_manager, images
from clipper_admin.deployers import python as python_deployer
from clipper_admin.docker import containers
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.docker,
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("left_nothing_in_docker"),
]

SLO_MICROS = 2_000_000
NOOP = images.image_name(images.NOOP_CONTAINER)


def manager(name: str, **options: Any) -> DockerContainerManager:
    free = dict.fromkeys(["clipper_query_port", "clipper_management_port", "clipper_rpc_port", "prometheus_port"], 0)
    return DockerContainerManager(name, **free | options)


@contextmanager
def cluster(name: str, **options: Any) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(manager(name, **options))
    try:
        conn.start_clipper()
        yield conn
    finally:
        conn.stop_all(graceful=False)


def of_cluster(client: DockerClient, name: str, *more: str) -> list[Any]:
    wanted = [f"{container_manager.CLIPPER_DOCKER_LABEL}={name}", *more]
    found: list[Any] = client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
    return found


def replicas(client: DockerClient, cluster_name: str, model: str) -> list[Any]:
    label = f"{container_manager.CLIPPER_MODEL_CONTAINER_LABEL}={model}"
    return of_cluster(client, cluster_name, label)


def by_name(client: DockerClient, cluster_name: str, prefix: str) -> Any:
    (found,) = (found for found in of_cluster(client, cluster_name) if found.name.startswith(prefix))
    return found


def kill_main_process(container: Any) -> None:
    container.reload()
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)


def answering(text: str) -> Any:
    return lambda inputs: [f'"{text}"' for _ in inputs]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def conn(left_nothing_in_docker: None) -> Iterator[ClipperConnection]:
    with cluster("docker-shared") as conn:
        yield conn


# --- building, pushing and pulling ---


@pytest.fixture(scope="module")
def registry(docker_client: DockerClient) -> Iterator[str]:
    """The address of a real registry."""
    container = docker_client.containers.run("registry:2", detach=True, ports={"5000/tcp": ("127.0.0.1", 0)})
    try:
        container.reload()
        address = f"127.0.0.1:{container.ports['5000/tcp'][0]['HostPort']}"
        wait_for(lambda: is_up(f"http://{address}/v2/"), "the registry's start")
        yield address
    finally:
        container.remove(force=True, v=True)


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def test_a_pushed_image_is_pulled_where_it_is_missing(
    conn: ClipperConnection, docker_client: DockerClient, registry: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = conn.build_model("pushed", 1, folder, NOOP, container_registry=registry)
    assert image == f"{registry}/docker-shared-pushed:1"
    with urllib.request.urlopen(f"http://{registry}/v2/_catalog", timeout=10) as answer:
        assert json.load(answer) == {"repositories": ["docker-shared-pushed"]}
    docker_client.images.remove(image)
    try:
        conn.deploy_model("pushed", 1, "doubles", image)
        assert [found.attrs["Config"]["Image"] for found in replicas(docker_client, "docker-shared", "pushed_1")] == [
            image
        ]
        conn.stop_models(["pushed"])
    finally:
        docker_client.images.remove(image, force=True)


def test_a_push_that_fails(conn: ClipperConnection, docker_client: DockerClient, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClipperException, match="(?s)push.*refused.*docker login"):
        conn.build_and_deploy_model("unpushed", 1, "doubles", tmp_path, NOOP, container_registry=nobody)
    assert docker_client.images.get(f"{nobody}/docker-shared-unpushed:1"), "it is on this machine"
    assert conn.get_num_replicas("unpushed", 1) == 0


def test_a_build_that_fails_shows_what_the_step_wrote(conn: ClipperConnection, docker_client: DockerClient) -> None:
    with pytest.raises(ClipperException, match="(?s)pip.*No matching distribution found for no-such-package-0"):
        python_deployer.deploy_python_closure(
            conn, "unbuilt", 1, "doubles", answering("x"), pkgs_to_install=["no-such-package-0"]
        )
    assert not any("unbuilt" in tag for image in docker_client.images.list() for tag in image.tags)


def test_packages_are_no_shell_commands(conn: ClipperConnection) -> None:
    evil = "tqdm; touch /model/evil $(touch /model/evil)"
    with pytest.raises(ClipperException, match="Invalid requirement"):
        python_deployer.deploy_python_closure(conn, "evil", 1, "doubles", answering("x"), pkgs_to_install=[evil])
    with pytest.raises(ClipperException, match="option of pip"):
        python_deployer.deploy_python_closure(
            conn, "evil", 1, "doubles", answering("x"), pkgs_to_install=["--index-url=http://evil"]
        )


def test_packages_are_installed_and_the_user_stays_who_he_was(
    conn: ClipperConnection, docker_client: DockerClient
) -> None:
    def describing(inputs: Any) -> list[str]:
        import os

        import tqdm

        return [f'"{bool(tqdm.__version__)} {os.getuid()}"' for _ in inputs]

    python_deployer.create_endpoint(
        conn, "with-packages", "doubles", describing, slo_micros=SLO_MICROS, pkgs_to_install=["tqdm>=4"]
    )
    user = docker_client.images.get(images.PYTHON.name()).attrs["Config"]["User"]
    assert user
    assert conn.predict("with-packages", [1.0])["output"] == f"True {user.partition(':')[0]}"
    conn.stop_models(["with-packages"])


def test_the_same_model_is_the_same_image(docker_client: DockerClient, tmp_path: Path) -> None:
    conn = ClipperConnection(manager("docker-shared"))
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "inner").mkdir(parents=True, mode=0o700)
        (folder / "inner" / "weights").write_bytes(b"123")
        (folder / "inner" / "weights").chmod(0o600)
        found.append(docker_client.images.get(conn.build_model("same", 1, folder, NOOP)).id)
    assert found[0] == found[1]


def test_a_base_image_for_another_python(conn: ClipperConnection) -> None:
    image = images.image_name("python39-closure-container")
    with pytest.raises(ClipperException, match=r"Python 3\.9.*make images"):
        python_deployer.deploy_python_closure(conn, "old", 1, "doubles", answering("x"), base_image=image)


# --- addresses ---


def test_a_port_that_is_taken_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        taken = sock.getsockname()[1]
        ports = dict.fromkeys(["clipper_query_port", "clipper_management_port"], taken)
        conn = stack.enter_context(cluster("moved", **ports))
        port = conn.get_query_addr().rpartition(":")[2]
        assert port != str(taken)
        assert f"Port {taken} for query_frontend-" in caplog.text
        another = DockerContainerManager("moved")
        another.connect()
        assert another.get_query_addr() == conn.get_query_addr()
        assert another.get_admin_addr() == conn.cm.get_admin_addr()
        assert another.get_metric_addr() == conn.get_metric_addr()


def test_redis_cannot_be_reached_from_outside(conn: ClipperConnection, docker_client: DockerClient) -> None:
    redis = by_name(docker_client, "docker-shared", "redis-")
    assert not any(redis.ports.values())
    assert redis.attrs["HostConfig"]["PortBindings"] in ({}, None)


def test_a_redis_and_a_network_of_the_users_own(docker_client: DockerClient) -> None:
    name = f"clipper-test-{uuid.uuid4().hex[:8]}"
    network = docker_client.networks.create(name)
    redis = docker_client.containers.run(
        "redis:alpine", ["redis-server", "--port", "6380"], name=name, network=name, detach=True
    )
    mine = {"redis_ip": name, "redis_port": 6380, "docker_network": name}
    try:
        with cluster("external", **mine) as conn:
            conn.register_application("kept", "doubles", "", 1000)
            with pytest.raises(ClipperException, match="(?s)(exited with code 5|was started again).*external"):
                ClipperConnection(manager("intruder", **mine)).start_clipper()
            assert of_cluster(docker_client, "intruder") == []
            # Whoever connects needs to know neither the network nor the Redis.
            another = ClipperConnection(DockerContainerManager("external"))
            another.connect()
            another.deploy_model("noop", 1, "doubles", NOOP)
            assert another.get_all_apps() == ["kept"]
        assert docker_client.networks.get(name).name == name
    finally:
        redis.remove(force=True, v=True)
        network.remove()


@pytest.mark.parametrize(("options", "said"), REFUSING_REDIS.items())
def test_a_redis_that_refuses_is_named_before_anything_starts(
    docker_client: DockerClient, options: str, said: str
) -> None:
    with redis_container(docker_client, options) as address:
        conn = ClipperConnection(manager("refused", redis_ip=address))
        with pytest.raises(ClipperException, match=f"Redis at {address}:6379 cannot be used: .*{said}"):
            conn.start_clipper(query_frontend_image="localhost:1/no:such")  # which would be named next


# --- resources, and what users add ---


def test_resources_stay_with_the_model(conn: ClipperConnection, docker_client: DockerClient) -> None:
    limits = {"memory": "100m", "cpus": 0.5}
    conn.deploy_model("limited", 1, "doubles", NOOP, resources=limits)
    conn.set_num_replicas("limited", 0)
    conn.set_num_replicas("limited", 2)
    running = [found for found in replicas(docker_client, "docker-shared", "limited_1") if found.status == "running"]
    found = [(found.attrs["HostConfig"]["Memory"], found.attrs["HostConfig"]["NanoCpus"]) for found in running]
    assert found == [(100 * 1024 * 1024, 500_000_000)] * 2
    conn.stop_models(["limited"])


def test_a_replica_that_takes_too_much_memory(conn: ClipperConnection) -> None:
    def greedy(inputs: Any) -> list[str]:
        return [str(len(bytearray(10**9))) for _ in inputs]

    python_deployer.create_endpoint(
        conn, "greedy", "doubles", greedy, slo_micros=SLO_MICROS, resources={"memory": "100m"}
    )
    assert conn.predict("greedy", [1.0])["default"]
    wait_for(lambda: conn.cm.find_failures("greedy", "1"), "the end of the replica")
    conn.stop_models(["greedy"])


def test_gpus_that_the_engine_cannot_give(conn: ClipperConnection, docker_client: DockerClient) -> None:
    if "nvidia" in docker_client.info().get("Runtimes", {}):
        pytest.skip("this engine has GPUs")
    with pytest.raises(ClipperException, match="NVIDIA Container Toolkit"):
        conn.deploy_model("gpu", 1, "doubles", NOOP, gpus=1)
    assert replicas(docker_client, "docker-shared", "gpu_1") == []


def test_extra_arguments_reach_each_container(docker_client: DockerClient) -> None:
    extra = {"labels": {"who": "me"}, "environment": {"TZ": "UTC"}, "security_opt": ["no-new-privileges"]}
    with cluster("extra", extra_container_kwargs=extra) as conn:
        conn.deploy_model("noop", 1, "doubles", NOOP)
        for found in of_cluster(docker_client, "extra"):
            assert found.labels["who"] == "me"
            assert "TZ=UTC" in found.attrs["Config"]["Env"]
            assert found.attrs["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]


# --- metrics ---


def targets(conn: ClipperConnection) -> dict[str, list[str]]:
    """The health of each job's targets, as Prometheus sees them."""
    with urllib.request.urlopen(f"http://{conn.get_metric_addr()}/api/v1/targets", timeout=10) as answer:
        active = json.load(answer)["data"]["activeTargets"]
    jobs = {target["labels"]["job"] for target in active}
    return {job: [target["health"] for target in active if target["labels"]["job"] == job] for job in jobs}


def test_prometheus_finds_each_program_once(conn: ClipperConnection) -> None:
    python_deployer.create_endpoint(conn, "measured", "doubles", answering("x"), slo_micros=SLO_MICROS)
    conn.predict("measured", [1.0])
    for number in (1, 4, 2):
        conn.set_num_replicas("measured", number)
        expected = {"query": ["up"], "models": ["up"] * number}
        wait_for(lambda expected=expected: targets(conn) == expected, f"targets {expected} (are {targets(conn)})")
    for name in (
        "app_measured_num_predictions_count",
        "app_measured_prediction_latency_p99",
        "app_measured_default_prediction_ratio_ratio",
        "model_measured_1_num_predictions_count",
        "internal_prediction_cache_hit_ratio_ratio",
        "clipper_mc_pred_total",
        "clipper_mc_end_to_end_latency_ms_bucket",
    ):
        wait_for(lambda name=name: samples(conn, name), f"a sample of {name}")
    conn.stop_models(["measured"])


def samples(conn: ClipperConnection, name: str) -> list[Any]:
    with urllib.request.urlopen(f"http://{conn.get_metric_addr()}/api/v1/query?query={name}", timeout=10) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
        return found


# --- what dies comes back ---


def test_a_killed_replica_comes_back_and_no_query_notices(conn: ClipperConnection, docker_client: DockerClient) -> None:
    python_deployer.create_endpoint(conn, "killed", "doubles", answering("fine"), slo_micros=SLO_MICROS, num_replicas=2)
    victim, other = replicas(docker_client, "docker-shared", "killed_1")
    load = Load(conn, "killed")
    with load.running():
        load.wait_for("fine")
        for _ in range(2):
            kill_main_process(victim)
            wait_for(lambda: number_connected(conn, "killed") < 2, "the loss of a replica")
            wait_for(lambda: number_connected(conn, "killed") == 2, "its return")
            load.wait_for("fine", 100)
    assert load.mishaps == []
    assert conn.get_num_replicas("killed") == 2
    (failure,) = conn.cm.find_failures("killed", "1")
    assert failure.replica == victim.name
    victim.kill()
    wait_for(lambda: number_connected(conn, "killed") == 1, "the end of a replica")
    assert conn.get_num_replicas("killed") == 1, "docker kill is a wish"
    conn.set_num_replicas("killed", 2)
    other.reload()
    assert other.status == "running"
    conn.stop_models(["killed"])


def number_connected(conn: ClipperConnection, model: str) -> int:
    return sum(name.startswith(f"{model}:") for name in conn.get_all_model_replicas())


def test_the_other_programs_come_back(docker_client: DockerClient) -> None:
    with cluster("phoenix") as conn:
        python_deployer.create_endpoint(conn, "a", "doubles", answering("x"), slo_micros=SLO_MICROS)
        for prefix in ("redis-", "mgmt_frontend-", "query_frontend-", "query_frontend_exporter-", "metric_frontend-"):
            kill_main_process(by_name(docker_client, "phoenix", prefix))
        wait_for(lambda: succeeds(lambda: conn.predict("a", [1.0])["default"] is False), "an answer")
        wait_for(lambda: succeeds(lambda: conn.get_all_apps() == ["a"]), "the configuration")
        wait_for(lambda: succeeds(lambda: targets(conn) == {"query": ["up"], "models": ["up"]}), "the metrics")


def succeeds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (ClipperException, OSError):
        return False


# --- logs ---


def test_logs_are_named_after_containers(conn: ClipperConnection, docker_client: DockerClient, tmp_path: Path) -> None:
    conn.deploy_model("logged", 1, "doubles", NOOP)
    (container,) = replicas(docker_client, "docker-shared", "logged_1")
    conn.stop_models(["logged"])
    (path,) = (path for path in conn.get_clipper_logs(str(tmp_path)) if container.short_id in path)
    assert "logged_1" in path
    assert "Serving logged:1" in Path(path).read_text()


def test_stopped_replicas_do_not_pile_up(conn: ClipperConnection, docker_client: DockerClient) -> None:
    conn.deploy_model("piled", 1, "doubles", NOOP, num_replicas=5)
    conn.stop_models(["piled"])
    assert len(replicas(docker_client, "docker-shared", "piled_1")) == 3


class ForwardReceiver:
    """Takes what Fluentd's Forward protocol brings. Texts stand in it as they are."""

    def __init__(self) -> None:
        self.received = b""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.received += data

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def test_logs_go_to_fluentd(tmp_path: Path) -> None:
    receiver = ForwardReceiver()
    try:
        with cluster("central", use_centralized_log=True, fluentd_address=receiver.address) as conn:
            another = ClipperConnection(DockerContainerManager("central"))
            another.connect()
            another.deploy_model("noop", 1, "doubles", NOOP)
            for text in (b"Serving noop:1", b"noop_1-", containers.query_frontend_name("central").encode()):
                wait_for(lambda text=text: text in receiver.received, f"a message with {text!r}")
            assert any("Serving noop:1" in Path(path).read_text() for path in conn.get_clipper_logs(str(tmp_path)))
    finally:
        receiver.close()


def test_a_fluentd_that_does_not_answer_stops_nothing() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with cluster("unheard", use_centralized_log=True, fluentd_address=nobody) as conn:
        conn.deploy_model("noop", 1, "doubles", NOOP)
        started = time.monotonic()
        conn.stop_all()
        assert time.monotonic() - started < 20


COLLECTOR = """
import socketserver

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            print(data)

print(open("/fluentd/etc/fluent.conf").read())
socketserver.ThreadingTCPServer(("", 24224), Handler).serve_forever()
"""


@pytest.fixture
def fluentd_image(docker_client: DockerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that replaces Fluentd's, has the same folder and prints its input."""
    command = json.dumps(["python3", "-uc", COLLECTOR])
    dockerfile = f"FROM python:3.11-slim\nRUN mkdir -p /fluentd/etc\nCMD {command}\n"
    docker_client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag="clipper-test-fluentd:1", rm=True)
    monkeypatch.setattr(images, "FLUENTD_IMAGE", "clipper-test-fluentd:1")


def test_a_fluentd_of_the_clusters_own(docker_client: DockerClient, fluentd_image: None) -> None:
    with cluster("collected", use_centralized_log=True, fluentd_port=0) as conn:
        conn.deploy_model("noop", 1, "doubles", NOOP)
        fluentd = by_name(docker_client, "collected", "fluentd-")
        assert b"@type forward" in fluentd.logs()
        wait_for(lambda: b"Serving noop:1" in fluentd.logs(), "the replica's message")


# --- nothing is left ---


@pytest.fixture
def redis_with_volume(docker_client: DockerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public image of Redis has a volume."""
    dockerfile = io.BytesIO(b"FROM redis:alpine\nVOLUME /data\n")
    docker_client.images.build(fileobj=dockerfile, tag="clipper-test-redis:volume", rm=True)
    monkeypatch.setattr(images, "REDIS_IMAGE", "clipper-test-redis:volume")


@pytest.mark.long
def test_ten_cycles_leave_nothing(docker_client: DockerClient, redis_with_volume: None) -> None:
    def everything() -> list[Any]:
        every = docker_client.containers.list(all=True, ignore_removed=True)
        return [
            {found.id for found in every if containers.KUBERNETES_LABEL not in found.labels},  # those come and go
            {found.id for found in docker_client.networks.list()},
            {found.id for found in docker_client.volumes.list()},
            {name for name in os.listdir(tempfile.gettempdir()) if "clipper" in name or name.startswith("tmp")},
        ]

    before = everything()
    for _ in range(10):
        with cluster("cycled") as conn:
            python_deployer.create_endpoint(conn, "a", "doubles", answering("x"), slo_micros=SLO_MICROS)
            conn.set_num_replicas("a", 2)
            conn.set_num_replicas("a", 1)
            assert conn.predict("a", [1.0])["default"] is False
            conn.stop_all()
    assert everything() == before


def test_ten_containers_stop_in_five_seconds(docker_client: DockerClient) -> None:
    with cluster("quick") as conn:
        conn.deploy_model("noop", 1, "doubles", NOOP, num_replicas=5)
        assert len(of_cluster(docker_client, "quick")) == 10
        started = time.monotonic()
        conn.stop_all()
        assert time.monotonic() - started < 5
        assert of_cluster(docker_client, "quick") == []


def test_of_two_that_start_the_same_cluster_one_does(docker_client: DockerClient) -> None:
    managers = [manager("contested") for _ in range(2)]

    def start(one: DockerContainerManager) -> str:
        try:
            ClipperConnection(one).start_clipper()
        except ClipperException as error:
            return str(error)
        return ""

    try:
        with ThreadPoolExecutor() as pool:
            said = sorted(pool.map(start, managers))
        assert said[0] == ""
        assert "already exists" in said[1]
        assert len(of_cluster(docker_client, "contested")) == 5
    finally:
        managers[0].stop_all(graceful=False)


# --- wrong input ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"docker_network": "host"}, "Redis.*network of your own"),
        ({"docker_network": "bridge"}, "by name"),
        ({"docker_network": "container:x"}, "network of your own"),
        ({"cluster_name": "No Name"}, "No Name"),
        ({"extra_container_kwargs": {"ports": {}}}, "ports"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ClipperException, match=named):
        DockerContainerManager(**options)


@pytest.mark.parametrize(
    ("options", "arguments", "named"),
    [
        ({}, {"num_frontend_replicas": 65}, "num_frontend_replicas=65"),
        ({}, {"query_frontend_image": "localhost:1/no:such"}, "localhost:1/no:such"),
        ({}, {"frontend_exporter_image": images.image_name("no-such")}, "make images"),
        ({}, {"query_frontend_image": "redis:alpine"}, r"query_frontend-\w+ (exited|ended)"),
        ({"extra_container_kwargs": {"no_such_argument": 1}}, {}, "no_such_argument.*extra_container_kwargs"),
        ({"extra_container_kwargs": {"mem_limit": "lots"}}, {}, "lots"),
        ({"redis_ip": "no-such-host.invalid"}, {}, "no-such-host.invalid"),
    ],
)
def test_clusters_that_cannot_start(
    options: dict[str, Any],
    arguments: dict[str, Any],
    named: str,
    docker_client: DockerClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("clipper_admin.startup.STARTUP_SECONDS", 5.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where logs are kept for the user
    with pytest.raises(ClipperException, match=f"(?s){named}"):
        ClipperConnection(manager("wrong", **options)).start_clipper(**arguments)
    assert of_cluster(docker_client, "wrong") == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # docker's, when it cannot connect
def test_an_engine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    conn = ClipperConnection(DockerContainerManager("unreachable"))
    calls: list[Callable[[], Any]] = [
        conn.start_clipper,
        conn.connect,
        conn.stop_all,
        conn.cm.stop_all_model_containers,
        lambda: conn.build_model("a", 1, tmp_path, NOOP),
    ]
    for call in calls:
        with pytest.raises(ClipperException, match=r"(?s)could not be reached.*systemctl start docker.*DOCKER_HOST"):
            call()
    gc.collect()


def test_a_cluster_whose_containers_were_removed(docker_client: DockerClient) -> None:
    with cluster("damaged") as conn:
        conn.deploy_model("noop", 1, "doubles", NOOP)
        by_name(docker_client, "damaged", "query_frontend-").remove(force=True, v=True)
        with pytest.raises(ClipperException, match=re.escape("stop_all()")):
            ClipperConnection(DockerContainerManager("damaged")).connect()
        with pytest.raises(ClipperException, match="already exists"):
            ClipperConnection(DockerContainerManager("damaged")).start_clipper()
        conn.stop_all()
        assert of_cluster(docker_client, "damaged") == []


def test_pods_on_the_same_engine_are_not_ours(docker_client: DockerClient) -> None:
    """Where the nodes of Kubernetes run on Docker, the containers of a pod carry its labels."""
    marks = {container_manager.CLIPPER_DOCKER_LABEL: "beside-pods", containers.KUBERNETES_LABEL: "a-pod"}
    pod = docker_client.containers.run(NOOP, ["sleep", "300"], entrypoint=[], labels=marks, detach=True)
    try:
        with cluster("beside-pods") as conn:
            conn.stop_all()
        pod.reload()
        assert pod.status == "running"
    finally:
        pod.remove(force=True)
