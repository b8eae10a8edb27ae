"""Tests of the checks of a specification. Those of a `Cluster` are in `test_manifests`."""

import pytest

from clipper_admin import ClipperException
from clipper_admin.kubernetes.spec import check_proxy


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        ("http://127.0.0.1:8001/", "127.0.0.1:8001"),
        ("proxy.example.com", "proxy.example.com"),
        ("localhost:8001/kube/", "localhost:8001/kube"),
        ("[::1]:8001", "[::1]:8001"),
    ],
)
def test_addresses_of_a_proxy(given: str, address: str) -> None:
    assert check_proxy(given) == address


@pytest.mark.parametrize(
    "given",
    [
        *("https://127.0.0.1:8001", "HTTPS://127.0.0.1:8001", "ftp://p:8001", "unix:/run/proxy", "tcp://p:8001"),
        *("me@p:8001", "p:port", ":8001", "p:", "a b:8001", "p:8001?x=1", "http://", "::1:8001"),
    ],
)
def test_what_is_no_address_of_a_proxy(given: str) -> None:
    with pytest.raises(ClipperException, match="host:port at which 'kubectl proxy'"):
        check_proxy(given)


def test_a_proxy_that_is_no_text() -> None:
    with pytest.raises(ClipperException, match="kubernetes_proxy_addr=8001"):
        check_proxy(8001)  # type: ignore[arg-type]
