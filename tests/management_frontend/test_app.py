"""The program as a process: start, the Redis it needs, the cluster it belongs to, and its end."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from clipper_common.constants import EXIT_ADDRESS_IN_USE, EXIT_REDIS_REFUSES, EXIT_REDIS_TAKEN, EXIT_USAGE
from clipper_common.layout import LAYOUT
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

Start = Callable[..., Any]


@pytest.fixture
def redis_client(redis_port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_port) as client:
        yield client


def post(url: str, route: str, **body: object) -> str:
    request = urllib.request.Request(f"{url}/admin/{route}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_a_life(start: Start, free_port: int, redis_port: int, redis_client: redis.Redis) -> None:
    program = start(free_port, f"--redis_port={redis_port}", "--redis_ip=127.0.0.1", "--cluster_id=c/1")
    program.wait_until_up()
    post(program.url, "add_app", name="app", input_type="ints", default_output="", latency_slo_micros=1)
    assert post(program.url, "get_all_applications", verbose=False) == '["app"]'
    assert redis_client.get(LAYOUT.cluster.key) == b"c/1"
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(10) == 0
    assert redis_client.get(LAYOUT.cluster.key) is None, "the cluster must be released"
    assert "Traceback" not in program.log()


def test_it_keeps_its_claim(start: Start, free_port: int, redis_port: int, redis_client: redis.Redis) -> None:
    program = start(free_port, f"--redis_port={redis_port}", "--cluster_id=c/1")
    program.wait_until_up()
    redis_client.pexpire(LAYOUT.cluster.key, 3000)
    wait_for(lambda: redis_client.pttl(LAYOUT.cluster.key) > 3000, "the claim is refreshed")


def test_a_second_cluster_is_refused(start: Start, free_port: int, redis_port: int, redis_client: redis.Redis) -> None:
    redis_client.set(LAYOUT.cluster.key, "first/123", px=60_000)
    program = start(free_port, f"--redis_port={redis_port}", "--cluster_id=second/456")
    assert program.process.wait(20) == EXIT_REDIS_TAKEN
    assert "is used by the Clipper cluster 'first'" in program.log()
    assert "Traceback" not in program.log()
    assert redis_client.get(LAYOUT.cluster.key) == b"first/123"


def test_a_redis_that_refuses_is_named(start: Start, free_port: int, refusing_redis: tuple[int, str]) -> None:
    port, said = refusing_redis
    program = start(free_port, f"--redis_port={port}", "--cluster_id=c/1")
    assert program.process.wait(20) == EXIT_REDIS_REFUSES
    assert f"Redis at localhost:{port} cannot be used" in program.log() and said in program.log()
    assert "Traceback" not in program.log()


def test_a_read_only_redis_is_named(start: Start, free_port: int, own_redis: Any) -> None:
    own_redis.start("--replicaof", "127.0.0.1", "1")
    program = start(free_port, f"--redis_port={own_redis.port}", "--cluster_id=c/1")
    assert program.process.wait(20) == EXIT_REDIS_REFUSES
    assert "This Redis is a read-only replica" in program.log()


def test_a_cluster_that_lost_its_redis_to_another_stops(
    start: Start, free_port: int, redis_port: int, redis_client: redis.Redis
) -> None:
    program = start(free_port, f"--redis_port={redis_port}", "--cluster_id=first/123")
    program.wait_until_up()
    redis_client.set(LAYOUT.cluster.key, "second/456", px=60_000)
    assert program.process.wait(10) == EXIT_REDIS_TAKEN
    assert "is used by the Clipper cluster 'second'" in program.log()
    assert "Traceback" not in program.log()
    assert redis_client.get(LAYOUT.cluster.key) == b"second/456"


def test_it_waits_for_redis(start: Start, free_port: int, own_redis: Any) -> None:
    program = start(free_port, "--redis_ip=127.0.0.1", f"--redis_port={own_redis.port}")
    program.wait_until_logged(f"waiting for Redis at 127.0.0.1:{own_redis.port}")
    own_redis.start()
    program.wait_until_up()
    assert program.log().count("waiting for Redis") == 1


def test_it_can_be_stopped_while_it_waits_for_redis(start: Start, free_port: int, own_redis: Any) -> None:
    program = start(free_port, f"--redis_port={own_redis.port}")
    program.wait_until_logged("waiting for Redis")
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(10) == 0


def test_a_taken_port_is_named(start: Start, free_port: int, redis_port: int) -> None:
    start(free_port, f"--redis_port={redis_port}").wait_until_up()
    second = start(free_port, f"--redis_port={redis_port}")
    assert second.process.wait(20) == EXIT_ADDRESS_IN_USE
    assert f"cannot listen on 127.0.0.1:{free_port}" in second.log()


def test_wrong_usage(start: Start, free_port: int) -> None:
    assert start(free_port, "--nonsense").process.wait(20) == EXIT_USAGE


def test_a_redis_that_restarts_empty_is_claimed_again(start: Start, free_port: int, own_redis: Any) -> None:
    own_redis.start()
    program = start(free_port, f"--redis_port={own_redis.port}", "--redis_ip=127.0.0.1", "--cluster_id=c/1")
    program.wait_until_up()
    own_redis.kill()
    own_redis.start()
    with redis.Redis(port=own_redis.port) as client:
        wait_for(lambda: client.get(LAYOUT.cluster.key) == b"c/1", "the new Redis is claimed")
    assert post(program.url, "get_all_applications", verbose=False) == "[]"


def application(name: str) -> str:
    fields = {"name": name, "input_type": "ints", "default_output": "", "latency_slo_micros": 1}
    return json.dumps(fields)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_web_pages_change_nothing_and_other_clients_need_no_header(
    start: Start, free_port: int, redis_port: int
) -> None:
    program = start(free_port, f"--redis_port={redis_port}", "--allowed_origins=https://dashboard.example.com")
    program.wait_until_up()
    url = f"{program.url}/admin/add_app"

    def curl(name: str, *arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "-d", application(name), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def browser(name: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.request("POST", "/admin/add_app", application(name), {"Content-Type": "text/plain", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    for name, arguments in {
        "curl": (url,),  # whose Content-Type is application/x-www-form-urlencoded
        "by-name": (f"http://localhost:{free_port}/admin/add_app", "--resolve", f"localhost:{free_port}:127.0.0.1"),
        "plain": ("-H", "Content-Type:", url),
        "http-1.0": ("--http1.0", "-H", "Host:", url),
    }.items():
        assert curl(name, *arguments) == f"Successfully added application with name '{name}'"
    assert browser("http.client")[0] == 200
    assert browser("own", Origin=program.url, **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    dashboard = {"Origin": "https://dashboard.example.com", "Sec-Fetch-Site": "cross-site"}
    assert browser("dashboard", **dashboard)[0] == 200
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.com", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Host": f"evil.com:{free_port}", "Origin": f"http://evil.com:{free_port}", "Sec-Fetch-Site": "same-origin"},
    ):
        status, text = browser("evil", **headers)
        assert status == 403
        assert json.loads(text)["error"] == "Forbidden"
        assert "--allowed_" in json.loads(text)["cause"]
    names = json.loads(post(program.url, "get_all_applications", verbose=False))
    assert sorted(names) == ["by-name", "curl", "dashboard", "http-1.0", "http.client", "own", "plain"]


def test_a_proxy_before_a_server_on_all_addresses_passes_its_own_name_on(
    start: Start, free_port: int, redis_port: int
) -> None:
    program = start(free_port, f"--redis_port={redis_port}", "--host=0.0.0.0")
    program.wait_until_up()
    request = urllib.request.Request(
        f"{program.url}/admin/add_app",
        application("app").encode(),
        {
            "Host": "clipper.example.com",
            "Origin": "https://clipper.example.com",
            "Sec-Fetch-Site": "same-origin",
            "X-Forwarded-Proto": "https",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read() == b"Successfully added application with name 'app'"


def test_it_is_asked_by_ipv6_address(start: Start, free_port: int, redis_port: int) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    program = start(free_port, f"--redis_port={redis_port}", "--host=::1")
    program.url = f"http://[::1]:{free_port}"
    program.wait_until_up()
    request = urllib.request.Request(f"{program.url}/admin/ping", headers={"Origin": program.url})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read() == b"PONG"


def test_what_it_cannot_read_is_refused_as_json(start: Start, free_port: int, redis_port: int) -> None:
    program = start(free_port, f"--redis_port={redis_port}")
    program.wait_until_up()
    for header, value, status in (("Content-Encoding", "gzip", 415), ("X", "a" * 9000, 400)):
        connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.request("POST", "/admin/get_all_applications", b"{}", {header: value})
        answer = connection.getresponse()
        assert answer.status == status
        assert set(json.loads(answer.read())) == {"error", "cause"}
        connection.close()
