"""Tests of requests as browsers mark them, and of requests of other clients."""

from typing import NamedTuple

import pytest

from management_frontend.origins import Border, Origin, is_loopback

EVERYWHERE = Border("0.0.0.0")
LOOPBACK = Border("127.0.0.1")


class Sent(NamedTuple):
    host: str | None
    origin: str | None = None
    site: str | None = None

    def headers(self) -> dict[str, str]:
        named = {"Host": self.host, "Origin": self.origin, "Sec-Fetch-Site": self.site}
        return {name: value for name, value in named.items() if value is not None}


SERVED = [
    Sent("clipper:1338"),
    Sent(None),
    Sent("clipper:1338", None, "none"),
    Sent("clipper:1338", None, "same-origin"),
    Sent("clipper:1338", "http://clipper:1338", "same-origin"),
    Sent("clipper:1338", "http://clipper:1338"),
    Sent("Clipper:1338", "HTTP://clippeR:1338", "Same-Origin"),
    Sent("[::1]:1338", "http://[::1]:1338", "same-origin"),
    Sent("[FD00::1]", "https://[fd00::1]"),
    Sent("clipper.example.com", "https://clipper.example.com", "same-origin"),
    Sent("clipper.example.com", "https://clipper.example.com:443"),
    Sent("clipper.example.com:443", "https://clipper.example.com"),
    Sent("clipper.example.com:80", "http://clipper.example.com"),
    Sent("clipper.example.com:8443", "https://clipper.example.com:8443"),
]
REFUSED = [
    Sent("clipper:1338", "http://evil.com", "cross-site"),
    Sent("clipper:1338", None, "cross-site"),
    Sent("clipper:1338", None, "same-site"),
    Sent("clipper:1338", None, "something-new"),
    Sent("clipper:1338", "http://clipper:1338", "cross-site"),
    Sent("clipper:1338", "http://evil.com"),
    Sent("clipper:1338", "http://evil.com", "same-origin"),
    Sent("clipper:1338", "http://clipper"),
    Sent("clipper:1338", "http://clipper:1339"),
    Sent("clipper:1338", "http://clipper:1338.evil.com"),
    Sent("clipper:1338", "http://clipper.evil.com:1338"),
    Sent("clipper:1338", "http://clipper:1338@evil.com"),
    Sent("clipper:1338", "http://clipper:1338/"),
    Sent("clipper:1338", "null"),
    Sent("clipper:1338", ""),
    Sent("null", "null"),
    Sent("", ""),
    Sent(None, "http://clipper:1338"),
    Sent("clipper.example.com:80", "https://clipper.example.com"),
    Sent("[::1]:1338", "http://[::2]:1338"),
    Sent("[::1]:1338", "http://::1:1338"),
    Sent("localhost:1338", "http://127.0.0.1:1338"),
    Sent("id", "chrome-extension://id"),
]


@pytest.mark.parametrize("sent", SERVED)
def test_served(sent: Sent) -> None:
    assert EVERYWHERE.refusal(sent.headers()) is None


@pytest.mark.parametrize("sent", REFUSED)
def test_refused(sent: Sent) -> None:
    refusal = EVERYWHERE.refusal(sent.headers())
    assert refusal is not None and "--allowed_origins=" in refusal


def test_the_refusal_says_what_was_sent() -> None:
    refusal = EVERYWHERE.refusal(Sent("clipper:1338", "http://evil.com", "cross-site").headers())
    assert refusal is not None
    assert "(Origin: http://evil.com, Sec-Fetch-Site: cross-site, Host: clipper:1338)" in refusal


@pytest.mark.parametrize(
    ("origin", "site", "served"),
    [
        ("https://dashboard.example.com", "cross-site", True),
        ("https://Dashboard.example.com:443", "same-site", True),
        ("http://[::1]:3000", None, True),
        ("http://dashboard.example.com", "cross-site", False),
        ("https://dashboard.example.com:8443", "cross-site", False),
        ("https://dashboard.example.com.evil.com", "cross-site", False),
        (None, "cross-site", False),
        ("http://clipper:1338", "same-origin", True),
    ],
)
def test_allowed_origins(origin: str | None, site: str | None, served: bool) -> None:
    allowed = frozenset(map(Origin.parse, ["https://dashboard.example.com", "http://[::1]:3000"]))
    border = Border("0.0.0.0", allowed)
    assert (border.refusal(Sent("clipper:1338", origin, site).headers()) is None) is served


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1338", "127.0.0.1:1338", "[::1]:1338", "192.168.1.5", None])
def test_a_server_on_a_loopback_address_is_asked_by_these_names(host: str | None) -> None:
    assert LOOPBACK.refusal(Sent(host).headers()) is None


@pytest.mark.parametrize("host", ["evil.com", "evil.com:1338", "localhost.evil.com", "127.0.0.1.evil.com", "[x", ""])
def test_a_name_that_was_made_to_resolve_to_a_loopback_address_is_refused(host: str) -> None:
    """To the browser, such a page is of our own origin."""
    sent = Sent(host, f"http://{host}", "same-origin")
    refusal = LOOPBACK.refusal(sent.headers())
    assert refusal is not None and "--allowed_hosts=" in refusal
    assert LOOPBACK.refusal(Sent(host).headers()) is not None


def test_more_names_may_be_allowed() -> None:
    border = Border("127.0.0.1", allowed_hosts=frozenset({"clipper.lan"}))
    assert border.refusal(Sent("Clipper.lan:8443", "https://clipper.lan:8443", "same-origin").headers()) is None
    assert border.refusal(Sent("localhost:1338").headers()) is None
    assert border.refusal(Sent("evil.com").headers()) is not None


def test_a_server_on_other_addresses_is_asked_by_any_name_unless_there_is_a_list() -> None:
    assert EVERYWHERE.refusal(Sent("whatever.example.com").headers()) is None
    listed = Border("0.0.0.0", allowed_hosts=frozenset({"clipper.lan"}))
    assert listed.refusal(Sent("whatever.example.com").headers()) is not None
    assert listed.refusal(Sent("clipper.lan").headers()) is None


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("LocalHost", True)]
    + [("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("", False), ("clipper", False)],
)
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
