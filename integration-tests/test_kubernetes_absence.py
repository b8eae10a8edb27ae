"""Tests of calls and waits while the API server does not answer, because a relay in front of it is cut."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes_support import MARKS, kubectl, what_is_left_of
from managers import SMALL

from clipper_admin import ClipperConnection, ClipperException, KubernetesContainerManager, images
from clipper_admin.container_manager import AlreadyExists
from clipper_admin.kubernetes import api, waiting
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.status import Trouble

pytestmark = [pytest.mark.integration, *MARKS]

AWAY_SECONDS = 5.0
LABELS = f"test=absence-{os.getpid()}"


class Relay:
    """A TCP relay to the API server, which can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loses_answer = False
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            with self._lock:
                self._sockets += [client, server]
            threading.Thread(target=self._pump, args=[client, server, False], daemon=True).start()
            threading.Thread(target=self._pump, args=[server, client, True], daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_answer and self._loses_answer:
                    self._loses_answer = False
                    break
                target.sendall(data)
        except OSError:
            pass
        for it in (source, target):
            _end(it)

    def lose_next_answer(self) -> None:
        """Break the connection on which the server says something next, instead of passing that on."""
        self._loses_answer = True

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        _end(self._listener)
        self._listener.close()
        with self._lock:
            for it in self._sockets:
                _end(it)

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut_for(self, seconds: float) -> None:
        self.cut()
        threading.Timer(seconds, self.mend).start()

    def close(self) -> None:
        self.cut()
        for it in self._sockets:
            it.close()


def _end(it: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended before
        it.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(kubernetes_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """A relay to the API server, and credentials that lead there."""
    shown = json.loads(kubectl("config", "view", "--raw", "--minify", "--output=json"))
    cluster = shown["clusters"][0]["cluster"]
    there = urlsplit(cluster["server"])
    relay = Relay(there.hostname or "", there.port or 443)
    shown["clusters"][0]["cluster"] = {"server": f"https://127.0.0.1:{relay.port}", "insecure-skip-tls-verify": True}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(shown))
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        yield relay
    relay.close()


@pytest.fixture
def behind(relay: Relay) -> Iterator[Api]:
    """The API behind the relay; the ConfigMaps with `LABELS` are removed in the end."""
    behind = Api("default")
    behind.list("ConfigMap")
    yield behind
    for each in behind.list("ConfigMap", LABELS):
        behind.delete("ConfigMap", each["metadata"]["name"])


def config_map(name: str) -> dict[str, object]:
    labels = dict([LABELS.split("=")])
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{labels['test']}-{name}", "labels": labels},
        "data": {},
    }


def test_calls_wait_for_a_server_that_comes_back(behind: Api, relay: Relay) -> None:
    relay.cut_for(AWAY_SECONDS)
    started = time.monotonic()
    made = behind.create(config_map("made"))
    assert time.monotonic() - started > AWAY_SECONDS - 1, "the server was not away"
    relay.cut_for(AWAY_SECONDS)
    behind.apply(config_map("applied"))
    relay.cut_for(AWAY_SECONDS)
    assert len(behind.list("ConfigMap", LABELS)) == 2
    relay.cut_for(AWAY_SECONDS)
    behind.delete("ConfigMap", made["metadata"]["name"])


def test_a_creation_whose_answer_is_lost(behind: Api, relay: Relay) -> None:
    relay.lose_next_answer()
    made = behind.create(config_map("lost"))
    assert [it["metadata"]["uid"] for it in behind.list("ConfigMap", LABELS)] == [made["metadata"]["uid"]]
    with pytest.raises(AlreadyExists):
        behind.create(config_map("lost"))


def test_a_watch_goes_on(behind: Api, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_AWAY_SECONDS", 0.1)  # the watch is more patient
    seen = behind.watch("ConfigMap", LABELS, 60)
    assert list(next(seen)) == []
    relay.cut_for(AWAY_SECONDS)
    beside = Api("default")
    threading.Timer(AWAY_SECONDS + 1, beside.create, [config_map("seen")]).start()
    assert any(found for found in seen)


def test_a_watch_ends_in_time(behind: Api, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_AWAY_SECONDS", 0.1)
    relay.cut()
    started = time.monotonic()
    with pytest.raises(ClipperException, match="does not answer"):
        list(behind.watch("ConfigMap", LABELS, AWAY_SECONDS))
    assert AWAY_SECONDS - 1 < time.monotonic() - started < AWAY_SECONDS + 30
    relay.mend()


def test_a_cluster_starts_deploys_and_stops_all_the_same(
    relay: Relay, left_nothing_in_kubernetes: list[KubernetesContainerManager]
) -> None:
    manager = KubernetesContainerManager("absent", useInternalIP=True, resources=SMALL)
    left_nothing_in_kubernetes.append(manager)
    conn = ClipperConnection(manager)
    done = threading.Event()

    def be_away_now_and_then() -> None:
        while not done.wait(2):
            relay.cut()
            done.wait(AWAY_SECONDS)
            relay.mend()

    cutting = threading.Thread(target=be_away_now_and_then)
    cutting.start()
    try:
        conn.start_clipper()
        conn.deploy_model("noop", 1, "doubles", images.image_name(images.NOOP_CONTAINER))
        conn.set_num_replicas("noop", 2)
        assert conn.get_num_replicas("noop") == 2
        conn.stop_all()
    finally:
        done.set()
        cutting.join()
        manager.stop_all(graceful=False)


def test_what_cannot_be_cleaned_up_does_not_hide_why(
    relay: Relay,
    left_nothing_in_kubernetes: list[KubernetesContainerManager],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(api, "_AWAY_SECONDS", 0.1)
    explain = waiting.explain

    def explain_and_cut(behind: Api, trouble: Trouble) -> str:
        text = explain(behind, trouble)
        relay.cut()
        return text

    monkeypatch.setattr(waiting, "explain", explain_and_cut)
    manager = KubernetesContainerManager("cut-off", useInternalIP=True, resources=SMALL)
    left_nothing_in_kubernetes.append(manager)
    with caplog.at_level(logging.WARNING, "clipper_admin"), pytest.raises(ClipperException, match="ErrImagePull"):
        ClipperConnection(manager).start_clipper(query_frontend_image="no/such:frontend")
    assert "could not be removed again, which stop_all() does" in caplog.text
    assert "does not answer" in caplog.text
    relay.mend()
    assert what_is_left_of(["cut-off"])
    manager.stop_all(graceful=False)
