"""Whether a request is meant for this server: the Host header and the Origin header.

A page of any site can make a browser send requests to loopback, and a name that its owner points to
127.0.0.1 (DNS rebinding) even makes them same-origin. The Host header tells: it holds that name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

__all__ = ["HostRule", "is_drive_by", "is_same_origin"]

_DEFAULT_PORTS = {"http": "80", "https": "443"}


class HostRule:
    """Which Host headers are ours.

    On loopback only loopback's names are. A server that listens on one address also takes that address; one
    that listens on all of them takes every literal address (rebinding needs a name) and the machine's name.

    Args:
        bound_host: What the server listens on.
        further_names: Names that are ours beside these, lower case.
        machine_name: The machine's own name.
    """

    def __init__(self, bound_host: str, further_names: Iterable[str] = (), *, machine_name: str | None = None) -> None:
        name = bound_host.strip("[]").lower()
        self._any_address = name in {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not bound to
        self._names = {"localhost", *further_names}
        if not self._any_address:
            self._names.add(name)
        elif own := (socket.gethostname() if machine_name is None else machine_name).lower():
            self._names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}

    def allows(self, host: str) -> bool:
        """Whether ``host``, with or without a port, names this server."""
        name = _host_name(host)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._any_address


def is_same_origin(origin: str, host: str) -> bool:
    """Whether ``origin`` is the one that ``host`` was asked under; ``null`` never is.

    The scheme is not compared, since a proxy in front may end TLS; the authority is what tells sites apart.
    """
    scheme, mark, theirs = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    if default is None or not mark or not theirs:
        return False
    return _with_port(theirs, default) == _with_port(host, default)


def is_drive_by(headers: Mapping[bytes, bytes], path: str) -> bool:
    """Whether a browser says that a page of another origin makes it ask, and not by leading somebody to a page of ours.

    Such a page sees no answer, but images, scripts and frames would make the server work for it; and an address of the
    API is no page. Browsers send the headers to loopback and over TLS; anything that is no browser sends none.
    """
    if headers.get(b"sec-fetch-site", b"none") in {b"none", b"same-origin"}:
        return False
    leads = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not leads or path.startswith(("/api/", "/v1/"))


def _host_name(host: str) -> str | None:
    if not host or "@" in host or "/" in host:
        return None
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        return name.lower() if bracket and (not rest or _is_port(rest)) else None
    name, colon, port = host.rpartition(":")
    if not colon:
        return host.lower().rstrip(".")
    return name.lower().rstrip(".") if _is_port(":" + port) else None


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isdigit() and text.isascii()


def _with_port(authority: str, default: str) -> str:
    has_port = ":" in authority.rpartition("]")[2]
    return authority.lower() if has_port else f"{authority.lower()}:{default}"
