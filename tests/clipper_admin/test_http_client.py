"""Tests of HTTP calls that fail because of the connection."""

import socket
import threading
from collections.abc import Iterator

import pytest

from clipper_admin import ClipperException, http_client
from tests.clipper_admin.fakes import FakeQueryFrontend


def test_address_with_a_path(query_frontend: FakeQueryFrontend) -> None:
    query_frontend.answers["/api/proxy/metrics"] = (200, {})
    assert http_client.call("query frontend", f"{query_frontend.address}/api/proxy", "/metrics") == "{}"


def test_host_that_does_not_exist() -> None:
    with pytest.raises(ClipperException, match="query frontend at no-such-host.invalid:1337 could not be reached"):
        http_client.call("query frontend", "no-such-host.invalid:1337", "/metrics")


@pytest.mark.parametrize("address", ["localhost:99999", "127.0.0.1:port", "a b:1"])
def test_address_that_is_none(address: str) -> None:
    told = f"query frontend at {address} could not be reached: .*(Failed to parse|InvalidURL)"
    with pytest.raises(ClipperException, match=told):
        http_client.call("query frontend", address, "/metrics")


@pytest.fixture
def silent_address() -> Iterator[str]:
    """The address of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_server_that_is_silent(silent_address: str) -> None:
    with pytest.raises(ClipperException, match=f"{silent_address} could not be reached: timed out"):
        http_client.call("query frontend", silent_address, "/metrics", answer_seconds=0.05)


def test_server_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"who is there?\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ClipperException, match="could not be reached.*who is there"):
            http_client.call("query frontend", f"127.0.0.1:{server.getsockname()[1]}", "/metrics")
        thread.join()
