"""KubernetesContainerManager on a real Kubernetes cluster: what the other managers do not have."""

import base64
import json
import logging
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_support import REFUSING_REDIS, redis_container
from kubernetes_support import MARKS, kubectl, made_namespaces, objects, what_is_left_of
from managers import SMALL

from clipper_admin import ClipperConnection, ClipperException, KubernetesContainerManager, images
from clipper_admin.container_manager import AlreadyExists
from clipper_admin.deployers import python as python_deployer
from clipper_admin.kubernetes import names, status
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.spec import RedisVolume
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import Resources
from clipper_common.errors import UnconnectedException
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, *MARKS]

NAMESPACE = "clipper-tests"
DOCUMENT = Path(__file__).parents[1] / "docs" / "container-managers.md"
SLO_MICROS = 2_000_000
AT_ONCE_SECONDS = 60
"""Far below what anything waits for, on a busy machine, and with the time that it takes to clean up."""
LONG_NAME = "m" * 40

NewConnection = Callable[..., ClipperConnection]


@pytest.fixture(scope="module")
def new_connection(left_nothing_in_kubernetes: list[KubernetesContainerManager]) -> Iterator[NewConnection]:
    """Makes connections; whatever their clusters are, they are stopped in the end."""

    def new_connection(cluster_name: str, namespace: str = NAMESPACE, **options: Any) -> ClipperConnection:
        options = {"create_namespace_if_not_exists": True, "resources": SMALL} | options
        manager = KubernetesContainerManager(cluster_name, namespace=namespace, **options)
        left_nothing_in_kubernetes.append(manager)
        return ClipperConnection(manager)

    yield new_connection
    for manager in left_nothing_in_kubernetes:
        manager.stop_all(graceful=False)


@pytest.fixture(scope="module")
def conn(new_connection: NewConnection) -> ClipperConnection:
    """A cluster that most tests share: each uses names of its own."""
    conn = new_connection("kube")
    conn.start_clipper()
    return conn


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace that is not Clipper's, and empty."""
    name = f"clipper-tests-{os.getpid()}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name)


def manager_of(conn: ClipperConnection) -> KubernetesContainerManager:
    assert isinstance(conn.cm, KubernetesContainerManager)
    return conn.cm


def endpoint(conn: ClipperConnection, name: str, func: Any = None, **options: Any) -> None:
    func = func or (lambda inputs: [str(sum(x)) for x in inputs])
    python_deployer.create_endpoint(conn, name, "doubles", func, slo_micros=SLO_MICROS, **options)


def fails_at_once(doing: Callable[[], object], *said: str) -> str:
    """The error that `doing` raises, in which all of these are said."""
    started = time.monotonic()
    with pytest.raises(ClipperException) as caught:
        doing()
    assert time.monotonic() - started < AT_ONCE_SECONDS
    for words in said:
        assert words in str(caught.value)
    return str(caught.value)


# --- clusters ---


def test_clusters_side_by_side(conn: ClipperConnection, new_connection: NewConnection) -> None:
    beside, elsewhere = new_connection("kube-2"), new_connection("kube", "clipper-tests-2")
    for other in (beside, elsewhere):
        other.start_clipper()
    for each in (conn, beside, elsewhere):
        endpoint(each, "side", lambda inputs, place=each.cm.cluster_identifier: [f'"{place}"' for _ in inputs])
    expected = ["clipper-tests-kube", "clipper-tests-kube-2", "clipper-tests-2-kube"]
    assert [each.predict("side", [1.0])["output"] for each in (conn, beside, elsewhere)] == expected
    elsewhere.stop_all()
    assert [each.predict("side", [2.0])["output"] for each in (conn, beside)] == expected[:2]
    assert "namespace/clipper-tests-2" not in made_namespaces()
    beside.stop_all()
    assert what_is_left_of(["kube-2"]) == set()
    assert conn.predict("side", [3.0])["output"] == expected[0]
    assert f"namespace/{NAMESPACE}" in made_namespaces(), "the other cluster is in it"


def test_another_program_goes_on_with_what_was_chosen(new_connection: NewConnection) -> None:
    chosen = {
        "node_selector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "image_pull_secrets": ["none-such"],
        "service_types": {"query-rpc": "ClusterIP"},
    }
    new_connection("chosen", **chosen).start_clipper(workers=1)
    another = new_connection("chosen")
    another.connect()
    another.deploy_model("noop", 1, "doubles", images.image_name(images.NOOP_CONTAINER))
    (pod,) = objects(manager_of(another), "pods", names.MODEL)
    assert pod["spec"]["nodeSelector"] == chosen["node_selector"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "none-such"}]
    assert any(toleration.get("key") == "gpu" for toleration in pod["spec"]["tolerations"])
    another.stop_all(graceful=False)


def test_applying_twice_changes_nothing(conn: ClipperConnection, tmp_path: Path) -> None:
    api = Api(NAMESPACE)
    first, second = (
        [api.apply(yaml.safe_load(Path(path).read_text())) for path in manager_of(conn).export(tmp_path)]
        for _ in range(2)
    )
    assert [it["metadata"]["resourceVersion"] for it in first] == [it["metadata"]["resourceVersion"] for it in second]
    assert all(it["metadata"].get("generation", 1) == 1 for it in second if it["kind"] != "Deployment")


def test_starting_twice_at_the_same_time(new_connection: NewConnection) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            new_connection("race").start_clipper()
        except ClipperException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (error,) = errors
    assert "already exists" in str(error)
    survivor = new_connection("race")
    survivor.connect()
    survivor.stop_all(graceful=False)


def test_a_damaged_cluster(conn: ClipperConnection, new_connection: NewConnection) -> None:
    damaged = new_connection("damaged")
    damaged.start_clipper()
    kubectl(
        "delete",
        "service,deployment",
        "--namespace",
        NAMESPACE,
        "--selector=ai.clipper.container.label=damaged,ai.clipper.name=query-frontend",
    )
    fails_at_once(new_connection("damaged").connect, "damaged", "stop_all()")
    fails_at_once(new_connection("damaged").start_clipper, "already exists", "stop_all()")
    new_connection("damaged").stop_all()
    assert what_is_left_of(["damaged"]) == set()


def test_names_as_long_as_they_may_be(conn: ClipperConnection) -> None:
    name, version = LONG_NAME, "1.0-" + "v" * 50
    endpoint(conn, name, version=version)
    assert conn.predict(name, [1.0, 2.0])["output"] == 3
    assert conn.get_num_replicas(name, version) == 1
    conn.stop_models([name])
    assert conn.get_num_replicas(name, version) == 0


def test_nothing_is_left(new_connection: NewConnection) -> None:
    conn = new_connection("gone", redis_volume=None)
    conn.start_clipper()
    endpoint(conn, "a", num_replicas=2)
    assert len(what_is_left_of(["gone"])) > 20
    conn.stop_all()
    assert what_is_left_of(["gone"]) == set()
    with pytest.raises(UnconnectedException):
        conn.cm.get_num_replicas("a", "1")


def test_a_namespace_of_somebody_else_stays(new_connection: NewConnection, namespace: str) -> None:
    conn = new_connection("guest", namespace)
    conn.start_clipper()
    conn.stop_all(graceful=False)
    assert json.loads(kubectl("get", "namespace", namespace, "--output=json"))["status"]["phase"] == "Active"


# --- frontends ---


def test_frontends_come_and_go(conn: ClipperConnection) -> None:
    endpoint(conn, "scaled-out")
    assert conn.get_num_frontend_replicas() == 1
    conn.set_num_frontend_replicas(2)
    assert conn.get_num_frontend_replicas() == 2
    assert all(map(status.is_ready, living_pods(conn, names.QUERY)))
    assert len(living_pods(conn, names.QUERY)) == 2
    conn.set_num_frontend_replicas(1)
    assert len(living_pods(conn, names.QUERY)) == 1
    wait_for(lambda: conn.predict("scaled-out", [1.0, 2.0])["output"] == 3, "answers")


def test_the_number_of_workers_is_the_deployments(conn: ClipperConnection) -> None:
    url = f"http://{conn.cm.get_admin_addr()}/admin/set_query_frontend_workers"
    wanted = urllib.request.Request(url, json.dumps({"workers": 2}).encode())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(wanted, timeout=10)
    with refused.value as answer:
        assert answer.code == 400
        assert "Deployment" in str(answer.read(), "utf-8")


def living_pods(conn: ClipperConnection, component: str, of: str = "") -> list[dict[str, Any]]:
    """Those that are to stay, of a component, or of a model."""
    pods = objects(manager_of(conn), "pods", component)
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and of in pod["metadata"]["name"]]


# --- models ---


def test_no_replicas(conn: ClipperConnection) -> None:
    image = images.image_name(images.NOOP_CONTAINER)
    conn.deploy_model("none-yet", 1, "doubles", image, num_replicas=0)
    assert conn.get_num_replicas("none-yet") == 0
    conn.set_num_replicas("none-yet", 2)
    assert len(living_pods(conn, names.MODEL, "none-yet-1")) == 2
    conn.set_num_replicas("none-yet", 0)
    assert conn.get_num_replicas("none-yet") == 0
    conn.cm.deploy_model(ModelSpec("nothing", "1", "doubles", image, num_replicas=0))
    assert conn.cm.get_num_replicas("nothing", "1") == 0
    assert conn.cm.find_failures("nothing", "1") == []
    conn.cm.stop_models({"nothing": ["1"], "unknown": ["1"]})


def test_of_two_that_deploy_the_same_one_does(conn: ClipperConnection) -> None:
    model = ModelSpec("twin", "1", "doubles", images.image_name(images.NOOP_CONTAINER))
    conn.cm.deploy_model(model)
    with pytest.raises(AlreadyExists, match="Somebody else just deploys twin:1"):
        conn.cm.deploy_model(model)
    assert conn.cm.get_num_replicas("twin", "1") == 1
    conn.cm.stop_models({"twin": ["1"]})


def test_limits_reach_the_pods(conn: ClipperConnection) -> None:
    endpoint(conn, "limited", resources={"memory": "300m", "cpus": 0.5})
    conn.set_num_replicas("limited", 2)
    pods = living_pods(conn, names.MODEL, "limited-1")
    limits = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods]
    assert limits == [{"memory": str(300 * 2**20), "cpu": "500m"}] * 2


def test_disruption_budget(conn: ClipperConnection) -> None:
    """The server offers no policy/v1."""
    endpoint(conn, "budgeted", num_replicas=2)
    name = names.model("kube", "budgeted", "1")

    def allowed() -> int:
        return int(find_budget()["status"]["disruptionsAllowed"])

    def find_budget() -> dict[str, Any]:
        (found,) = (it for it in objects(manager_of(conn), "poddisruptionbudgets") if it["metadata"]["name"] == name)
        return found

    assert find_budget()["apiVersion"] == "policy/v1beta1"
    wait_for(lambda: allowed() == 1, "one replica may be evicted")
    first, second = (pod["metadata"]["name"] for pod in living_pods(conn, names.MODEL, "budgeted-1"))
    evict(first)
    with pytest.raises(AssertionError, match="disruption budget"):
        evict(second)
    conn.stop_models(["budgeted"])


def evict(pod: str) -> None:
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "--filename=-", given=json.dumps(body))


def test_logs_of_a_container_that_was_started_again(conn: ClipperConnection, tmp_path: Path) -> None:
    def dying(inputs: Any) -> list[str]:
        import os

        print("about to die" if inputs[0][0] else "alive", flush=True)
        if inputs[0][0]:
            os._exit(7)
        return ["0"]

    endpoint(conn, "dying", dying)
    assert conn.predict("dying", [1.0])["default"] is True
    wait_for(lambda: conn.predict("dying", [0.0])["default"] is False, "the replica is started again")

    def both_logs_are_there() -> bool:
        """The query was tried twice, and Kubernetes tells late which container is the last."""
        logs = {Path(path).name: Path(path).read_text() for path in conn.get_clipper_logs(str(tmp_path))}
        before = "".join(name for name in logs if name.startswith("dying-") and name.endswith(".previous.log"))
        now = logs.get(before.replace(".previous.log", ".log"), "")
        return "about to die" in logs.get(before, "") and "alive" in now and "about to die" not in now

    wait_for(both_logs_are_there, "both logs")
    names_of_logs = [Path(path).name for path in conn.get_clipper_logs(str(tmp_path))]
    foreign = [name for name in names_of_logs if "-at-kube-" not in name and not name.startswith(LONG_NAME[:20])]
    assert foreign == [], "logs of another cluster"
    conn.stop_models(["dying"])


def test_the_log_of_a_pod_whose_node_is_away(namespace: str) -> None:
    """A Node that is only a name."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}, "spec": {"unschedulable": True}}
    container = {"name": "it", "image": "none"}
    spec = {"nodeName": namespace, "terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it", "namespace": namespace}, "spec": spec}
    kubectl("create", "--filename=-", given=json.dumps(node))
    try:
        kubectl("create", "--filename=-", given=json.dumps(pod))
        assert b"could not read this log" in (Api(namespace).log("it", "it") or b"")
        kubectl("delete", "pod", "it", "--namespace", namespace, "--force", "--grace-period=0")
    finally:
        kubectl("delete", "node", namespace)


def test_a_pod_that_was_deleted_comes_back(conn: ClipperConnection) -> None:
    endpoint(conn, "deleted")
    (pod,) = (pod["metadata"]["name"] for pod in living_pods(conn, names.MODEL, "deleted-1"))
    kubectl("delete", "pod", pod, "--namespace", NAMESPACE, "--wait=false")
    wait_for(lambda: pod not in str(conn.get_all_model_replicas(verbose=True)), "another serves")
    wait_for(lambda: conn.predict("deleted", [1.0, 2.0])["default"] is False, "answers")
    conn.stop_models(["deleted"])


def test_a_pod_that_was_evicted_is_no_replica(conn: ClipperConnection) -> None:
    """Kubernetes keeps it, and makes another one."""
    conn.deploy_model("evicted", 1, "doubles", images.image_name(images.NOOP_CONTAINER))
    (pod,) = (pod["metadata"]["name"] for pod in living_pods(conn, names.MODEL, "evicted-1"))
    kubectl("patch", "pod", pod, "--namespace", NAMESPACE, "--patch", '{"spec": {"activeDeadlineSeconds": 1}}')
    wait_for(lambda: len(living_pods(conn, names.MODEL, "evicted-1")) == 2, "there is another one")
    conn.set_num_replicas("evicted", 2)
    assert conn.get_num_replicas("evicted") == 2
    conn.stop_models(["evicted"])


# --- metrics ---


def test_prometheus_finds_all(conn: ClipperConnection) -> None:
    endpoint(conn, "measured", num_replicas=2)

    def up() -> set[tuple[str, str]]:
        found = json.loads(get(f"http://{conn.get_metric_addr()}/api/v1/targets?state=active"))["data"]["activeTargets"]
        return {(target["labels"]["job"], target["scrapeUrl"]) for target in found if target["health"] == "up"}

    def expected() -> set[tuple[str, str]]:
        pods = [("query", pod) for pod in living_pods(conn, names.QUERY)]
        pods += [("models", pod) for pod in living_pods(conn, names.MODEL)]
        return {(job, f"http://{pod['status']['podIP']}:1390/metrics") for job, pod in pods}

    wait_for(lambda: up() == expected(), "all targets are up")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")


def test_prometheus_may_look_at_pods_only(conn: ClipperConnection) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{names.prometheus_account('kube')}"
    for verb, what, namespace, expected in [
        ("list", "pods", NAMESPACE, "yes"),
        ("watch", "pods", NAMESPACE, "yes"),
        ("delete", "pods", NAMESPACE, "no"),
        ("get", "secrets", NAMESPACE, "no"),
        ("get", "pods --subresource=log", NAMESPACE, "no"),
        ("list", "pods", "default", "no"),
        ("list", "nodes", NAMESPACE, "no"),
    ]:
        assert can(account, verb, what, namespace) == expected, (verb, what, namespace)


def can(account: str, verb: str, what: str, namespace: str) -> str:
    command = ["kubectl", "auth", "can-i", verb, *what.split(), "--as", account, "--namespace", namespace]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()


# --- addresses ---


@pytest.fixture
def proxy() -> Iterator[str]:
    """The address of a `kubectl proxy`."""
    with subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().rpartition(" ")[2].strip()
        process.terminate()


def test_through_a_proxy(conn: ClipperConnection, new_connection: NewConnection, proxy: str) -> None:
    types = dict.fromkeys(["redis", "management", "query", "query-rpc", "metric"], "ClusterIP")
    proxied = new_connection("proxied", kubernetes_proxy_addr=proxy, service_types=types)
    proxied.start_clipper()
    endpoint(proxied, "a")
    assert proxied.predict("a", [1.0, 2.0])["output"] == 3
    path = f"{proxy}/api/v1/namespaces/{NAMESPACE}/services"
    assert proxied.get_query_addr() == f"{path}/query-frontend-at-proxied:1337/proxy"
    assert proxied.get_metric_addr() == f"{path}/metrics-at-proxied:9090/proxy"
    assert "Prometheus" in get(f"http://{proxied.get_metric_addr()}/-/ready")
    assert {it["spec"]["type"] for it in objects(manager_of(proxied), "services")} == {"ClusterIP"}
    proxied.stop_all(graceful=False)


def test_a_cluster_that_could_not_be_reached(new_connection: NewConnection) -> None:
    closed = new_connection("closed", service_types={"query": "ClusterIP"})
    fails_at_once(closed.start_clipper, "query-frontend-at-closed", "kubernetes_proxy_addr")
    assert what_is_left_of(["closed"]) == set()


def test_load_balancers(new_connection: NewConnection, caplog: pytest.LogCaptureFixture) -> None:
    """This Kubernetes has none: the test says what one would."""
    balanced = new_connection("balanced", service_types={"query": "LoadBalancer"})
    api, done = Api(NAMESPACE), threading.Event()

    def balance() -> None:
        name = names.query_frontend("balanced")
        while not done.wait(0.2):
            if (service := api.get("Service", name)) and not service["status"]["loadBalancer"]:
                service["status"]["loadBalancer"]["ingress"] = [{"ip": service["spec"]["clusterIP"]}]
                path = f"/api/v1/namespaces/{NAMESPACE}/services/{name}/status"
                kubectl("replace", "--raw", path, "--filename=-", given=json.dumps(service))
                return

    thread = threading.Thread(target=balance)
    thread.start()
    try:
        with caplog.at_level(logging.INFO, "clipper_admin"):
            balanced.start_clipper()
    finally:
        done.set()
        thread.join()
    assert "the load balancers of query-frontend-at-balanced" in caplog.text
    assert "All load balancers have addresses" in caplog.text
    service = api.get("Service", names.query_frontend("balanced"))
    assert service and balanced.get_query_addr() == f"{service['spec']['clusterIP']}:1337"
    endpoint(balanced, "a")
    assert balanced.predict("a", [1.0, 2.0])["output"] == 3
    balanced.stop_all(graceful=False)


# --- what cannot start ---


def test_a_start_without_images_leaves_nothing(new_connection: NewConnection) -> None:
    conn = new_connection("imageless")
    start = lambda: conn.start_clipper(query_frontend_image="no/such:frontend")  # noqa: E731
    said = fails_at_once(start, "query-frontend-0-at-imageless", "no/such:frontend", "ErrImagePull")
    assert "registry-1.docker.io" in said or "pull" in said
    assert what_is_left_of(["imageless"]) == set()


def test_a_redis_that_refuses_is_named_before_anything_starts(
    new_connection: NewConnection, docker_client: Any
) -> None:
    ((options, said), *_) = REFUSING_REDIS.items()
    with redis_container(docker_client, options) as address:
        conn = new_connection("refused", redis_ip=address)
        with pytest.raises(ClipperException, match=f"Redis at {address}:6379 cannot be used: .*{said}"):
            conn.start_clipper(query_frontend_image="no/such:frontend")  # which would be named next
    assert what_is_left_of(["refused"]) == set()


def test_a_frontend_that_crashes_is_reported_with_its_last_lines(new_connection: NewConnection) -> None:
    conn = new_connection("crashing")
    start = lambda: conn.start_clipper(mgmt_frontend_image=images.image_name(images.NOOP_CONTAINER))  # noqa: E731
    fails_at_once(start, "Pod mgmt-frontend-at-crashing", "exited with code 127", "--redis_ip", "not found")
    assert what_is_left_of(["crashing"]) == set()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"node_selector": {"no-such": "label"}}, "node"),
        ({"resources": SMALL | {"query-frontend": {"requests": {"cpu": "100000"}}}}, "Insufficient cpu"),
    ],
)
def test_pods_that_fit_on_no_node(new_connection: NewConnection, options: dict[str, Any], said: str) -> None:
    conn = new_connection("unfit", **options)
    fails_at_once(conn.start_clipper, "cannot be scheduled", said)
    assert what_is_left_of(["unfit"]) == set()


def test_a_volume_that_nobody_makes(new_connection: NewConnection) -> None:
    conn = new_connection("unfit", redis_volume=RedisVolume("1Gi", "no-such-class"))
    with pytest.raises(ClipperException, match="cannot be scheduled.*PersistentVolumeClaim"):
        conn.start_clipper()
    assert what_is_left_of(["unfit"]) == set()


def test_a_replica_that_fits_on_no_node(conn: ClipperConnection) -> None:
    image = images.image_name(images.NOOP_CONTAINER)
    fails_at_once(
        lambda: conn.deploy_model("huge", 1, "doubles", image, resources={"memory": "900t"}),
        "cannot be scheduled",
        "Insufficient memory",
    )
    assert conn.get_num_replicas("huge", 1) == 0
    fails_at_once(lambda: conn.deploy_model("gpu", 1, "doubles", image, gpus=1), "nvidia.com/gpu")
    with pytest.raises(ClipperException, match="chooses the GPUs"):
        conn.deploy_model("gpu", 1, "doubles", image, gpus="all")


def test_replicas_that_run_stay_when_more_cannot(conn: ClipperConnection) -> None:
    endpoint(conn, "crowded", resources={"memory": "9g"})
    fails_at_once(lambda: conn.set_num_replicas("crowded", 4), "Insufficient memory")
    assert conn.get_num_replicas("crowded") == 1
    assert conn.predict("crowded", [1.0, 2.0])["output"] == 3
    conn.stop_models(["crowded"])


def test_a_deployment_that_is_removed_while_it_starts(conn: ClipperConnection) -> None:
    image = images.image_name(images.NOOP_CONTAINER)
    made = names.model("kube", "removed", "1")

    def remove() -> None:
        wait_for(lambda: bool(Api(NAMESPACE).get("Deployment", made)), "the Deployment is made")
        kubectl("delete", "deployment", made, "--namespace", NAMESPACE)

    removing = threading.Thread(target=remove)
    removing.start()
    # Too large for any node, which is borne for some seconds.
    huge = ModelSpec("removed", "1", "doubles", image, resources=Resources(memory_bytes=2**50))
    fails_at_once(lambda: conn.cm.deploy_model(huge), "somebody else removed")
    removing.join()


def test_a_quota_is_named(new_connection: NewConnection, namespace: str) -> None:
    kubectl("create", "quota", "few", "--hard=pods=3", "--namespace", namespace)
    conn = new_connection("limited", namespace)
    fails_at_once(conn.start_clipper, "exceeded quota: few")
    assert what_is_left_of(["limited"]) == set()
    kubectl("create", "quota", "services", "--hard=count/services=1", "--namespace", namespace)
    said = fails_at_once(conn.start_clipper, "exceeded quota: services")
    assert "credentials" not in said, "they are not at fault"
    assert what_is_left_of(["limited"]) == set()


def test_unknown_namespace(new_connection: NewConnection) -> None:
    conn = new_connection("lost", "no-such-namespace", create_namespace_if_not_exists=False)
    fails_at_once(conn.start_clipper, "no-such-namespace", "create_namespace_if_not_exists")
    fails_at_once(conn.connect, "no-such-namespace")
    conn.stop_all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"service_types": ["NodePort"]}, "service_types must be 'dict' type"),
        ({"service_types": {"rpc": "NodePort"}}, "service_types has unknown keys"),
        ({"service_types": {"query": "Port"}}, "service_types has unknown values"),
        ({"service_types": {"query": "ExternalName"}}, "Clipper does not support 'ExternalName' service"),
        ({"namespace": "No_Namespace"}, "namespace='No_Namespace'"),
        ({"cluster_name": "Upper"}, "cluster_name='Upper'"),
        ({"kubernetes_proxy_addr": 8001}, "kubernetes_proxy_addr=8001"),
        ({"kubernetes_proxy_addr": "https://127.0.0.1:8001"}, "It speaks plain HTTP"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ClipperException, match=said):
        KubernetesContainerManager(**options)


# --- credentials ---


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "%s", insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: "%s"}}]
contexts: [{name: it, context: {cluster: it, user: me}}]
current-context: it
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (KUBECONFIG % ("https://127.0.0.1:1", "token"), "its API server does not answer"),
        (KUBECONFIG % ("https://no-such-host.invalid:6443", "token"), "its API server does not answer"),
        ("no: kubeconfig", "There are no credentials for Kubernetes"),
        ("[", "There are no credentials for Kubernetes"),
        ("", "There are no credentials for Kubernetes"),
        (None, "There are no credentials for Kubernetes"),
    ],
)
def test_no_way_to_a_cluster(content: str | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    conn = ClipperConnection(KubernetesContainerManager("nowhere"))
    for doing in (conn.start_clipper, conn.connect, conn.stop_all):
        fails_at_once(doing, said, "kubectl get nodes")


def test_credentials_that_are_not_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG % (server(), "wrong"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    fails_at_once(KubernetesContainerManager("nobody").connect, "credentials are not accepted")


def test_the_documented_rights_are_enough(
    namespace: str, proxy: str, built_images: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But for node ports, which need to know the nodes."""
    (rules,) = re.findall(r"```yaml\n(rules:.*?)```", DOCUMENT.read_text(), re.DOTALL)
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "clipper"}}
    kubectl("apply", "--namespace", namespace, "--filename=-", given=yaml.safe_dump(role | yaml.safe_load(rules)))
    kubectl("create", "serviceaccount", "user", "--namespace", namespace)
    to_user = f"--serviceaccount={namespace}:user"
    kubectl("create", "rolebinding", "user", "--role=clipper", to_user, "--namespace", namespace)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG % (server(), token_of("user", namespace)))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    near = KubernetesContainerManager("humble", namespace=namespace)
    fails_at_once(ClipperConnection(near).start_clipper, "list nodes", "container-managers.md")
    conn = ClipperConnection(KubernetesContainerManager("humble", proxy, namespace=namespace, resources=SMALL))
    conn.start_clipper()
    conn.deploy_model("noop", 1, "doubles", images.image_name(images.NOOP_CONTAINER))
    conn.set_num_replicas("noop", 2)
    assert conn.get_clipper_logs(str(tmp_path / "logs"))
    conn.stop_all(graceful=False)


def server() -> str:
    """Where the API server is."""
    shown = json.loads(kubectl("config", "view", "--output=json", "--minify"))
    return str(shown["clusters"][0]["cluster"]["server"])


def token_of(account: str, namespace: str) -> str:
    """Of a ServiceAccount; this Kubernetes makes a Secret with it."""

    def names_of_secrets() -> list[str]:
        found = json.loads(kubectl("get", "serviceaccount", account, "--namespace", namespace, "--output=json"))
        return [secret["name"] for secret in found.get("secrets", ())]

    wait_for(lambda: bool(names_of_secrets()), "the token is made")
    secret = kubectl("get", "secret", names_of_secrets()[0], "--namespace", namespace, "--output=json")
    return base64.b64decode(json.loads(secret)["data"]["token"]).decode()


# --- manifests ---


def test_exported_manifests_make_the_same_cluster(new_connection: NewConnection, tmp_path: Path) -> None:
    conn = new_connection("gitops")
    conn.cm.stop_all()
    kubectl_folder = tmp_path / "cluster"
    manager_of(conn).export(kubectl_folder, num_frontend_replicas=1, fits_server=True)
    kubectl("apply", "--filename", str(kubectl_folder))
    for component in (names.REDIS, names.QUERY, names.MANAGEMENT, names.METRICS):
        (deployment,) = objects(manager_of(conn), "deployments", component)
        kubectl("rollout", "status", f"deployment/{deployment['metadata']['name']}", "--namespace", NAMESPACE)
    wait_for(lambda: succeeds(conn.connect), "node ports lead to the pods")
    image = images.image_name(images.SUM_CONTAINER)
    manager_of(conn).export_model(tmp_path / "model", "sum", "1", "doubles", image, fits_server=True)
    kubectl("apply", "--filename", str(tmp_path / "model"))
    conn.register_application("sum", "doubles", "none", SLO_MICROS)
    conn.register_model("sum", 1, "doubles", image)
    conn.link_model_to_app("sum", "sum")
    wait_for(lambda: succeeds(lambda: conn.predict("sum", [1.0, 2.0])), "node ports lead there too")
    wait_for(lambda: conn.predict("sum", [1.0, 2.0])["output"] == 3, "an answer")
    conn.set_num_replicas("sum", 2)
    conn.stop_all()
    assert what_is_left_of(["gitops"]) == set()


def succeeds(doing: Callable[[], object]) -> bool:
    try:
        doing()
    except ClipperException:
        return False
    return True
