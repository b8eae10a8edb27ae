"""The check that refuses requests which a web page of another origin may have sent (CSRF and DNS rebinding).

A browser sends the requests of any page to any address that its user can reach, and the body of a request does not show
that a page sent it: a form or a script can send what ``curl -d`` sends. But browsers mark the requests of pages by the
headers ``Sec-Fetch-Site`` and ``Origin``. Other clients send neither of them, and are served.

A page whose name resolves to this server's address (DNS rebinding) has the same origin by both headers. Only ``Host``
shows its name, and can be checked where the names of this server are known: on a loopback address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple, Self

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:/?#@,\s]+)(:(?P<port>[0-9]{1,5}))?")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_OWN_SITES: Final = frozenset({"same-origin", "none"})
"""The values of ``Sec-Fetch-Site`` for pages of this server, and for requests that no page has sent."""


class Origin(NamedTuple):
    """The origin of a web page: scheme, host and port, in lower case."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an origin. Raises `ValueError` if it is none, such as ``null``."""
        scheme, separator, authority = text.strip().lower().partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ValueError(f"'{text}' is not an origin: it must look like https://clipper.example.com:8443")
        return cls.at(scheme, authority)

    @classmethod
    def at(cls, scheme: str, authority: str) -> Self:
        """Return the origin of a server at ``host[:port]``. Raises `ValueError` if it is not of that form."""
        parts = _AUTHORITY.fullmatch(authority.strip().lower())
        if parts is None:
            raise ValueError(f"'{authority}' is not of the form host[:port]")
        return cls(scheme, parts["host"], int(parts["port"]) if parts["port"] else _DEFAULT_PORTS.get(scheme))


@dataclass(frozen=True)
class Border:
    """Decides which requests are served by a server that listens on `address`."""

    address: str
    allowed_origins: frozenset[Origin] = frozenset()
    allowed_hosts: frozenset[str] = frozenset()
    """Further host names of this server, in lower case. If there are any, ``Host`` is checked on every address."""

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Return why a request with these headers is refused, and what to do about it; None if it is served."""
        host, origin, site = (headers.get(name) for name in ("Host", "Origin", "Sec-Fetch-Site"))
        if host is not None and self._checks_hosts and not self._is_ours(host):
            return (
                f"The header Host names '{host}'. This management frontend is asked by IP address, as localhost and by "
                f"the names in --allowed_hosts: if that is one of them, start it with --allowed_hosts={name_of(host)}."
            )
        if origin is not None and self._allows(origin):
            return None
        foreign_site = site is not None and site.strip().lower() not in _OWN_SITES
        if foreign_site or (origin is not None and not _is_at(origin, host)):
            marks = {"Origin": origin, "Sec-Fetch-Site": site, "Host": host}
            said = ", ".join(f"{name}: {value}" for name, value in marks.items() if value is not None)
            return (
                f"A web page of another origin sent this request ({said}), perhaps without its reader's knowledge. "
                "To serve the pages of an origin, start the management frontend with --allowed_origins=<origin>. "
                "A proxy before it should pass on the header Host that it was sent."
            )
        return None

    @property
    def _checks_hosts(self) -> bool:
        return bool(self.allowed_hosts) or is_loopback(self.address)

    def _is_ours(self, host: str) -> bool:
        name = name_of(host)
        return name == "localhost" or name in self.allowed_hosts or _is_ip(name)

    def _allows(self, origin: str) -> bool:
        try:
            return Origin.parse(origin) in self.allowed_origins
        except ValueError:
            return False


def is_loopback(address: str) -> bool:
    """Whether `address` can only be reached from the same machine."""
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def _is_at(origin: str, host: str | None) -> bool:
    """Whether `origin` is that of the server to which a request with this ``Host`` was sent.

    A proxy may have terminated TLS, so the scheme is only used for the default port.
    """
    try:
        page = Origin.parse(origin)
        return page.scheme in _DEFAULT_PORTS and page == Origin.at(page.scheme, host or "")
    except ValueError:
        return False


def name_of(host: str) -> str:
    """Return the name in ``host[:port]``, in lower case; text of another form is returned unchanged."""
    parts = _AUTHORITY.fullmatch(host.strip().lower())
    return host if parts is None else parts["host"]


def _is_ip(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
