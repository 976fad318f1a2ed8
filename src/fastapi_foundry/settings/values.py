"""Types and checks of single values; a check raises ``ValueError`` with words for the person who set the value."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_core import PydanticCustomError

__all__ = [
    "ListeningPort",
    "Port",
    "Seconds",
    "engine_base_url",
    "host_name",
    "http_url",
    "is_loopback_host",
    "log_level",
    "non_empty",
    "require_ordered",
    "shown",
]

Port = Annotated[int, Field(ge=1, le=65535)]
# 0 lets the operating system choose; the ready line says what it chose.
ListeningPort = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]

_HOST: Final = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]*:[0-9a-f:.]+")
_LONGEST_SHOWN: Final = 60  # characters of a wrong value that a message repeats
_LEVELS = {name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")} | {
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
}


def require_ordered(first: int, last: int) -> None:
    """Refuse a range of ports that ends before it begins."""
    if first > last:
        raise PydanticCustomError(
            "port_range",
            "the range {first} to {last} holds no port; port_range_start must not be above port_range_end",
            {"first": first, "last": last, "field": "port_range_start"},
        )


def non_empty(text: str) -> str:
    """``text`` without surrounding blanks, which must leave something."""
    stripped = text.strip()
    if not stripped:
        raise ValueError("must not be empty")
    return stripped


def log_level(text: str) -> str:
    """The standard library's name of a level; any case is accepted."""
    level = _LEVELS.get(text.strip().upper())
    if level is None:
        raise ValueError(f"must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {text!r}")
    return level


def is_loopback_host(host: str) -> bool:
    """True for this machine's own addresses; a name is never looked up."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def http_url(text: str) -> str:
    """An absolute ``http`` or ``https`` address without credentials, and without a slash at its end."""
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no valid address: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("must be an address that begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("must not hold a query or fragment")
    return text.strip().rstrip("/")


def host_name(text: str) -> str:
    """A host's name or address, lower case, without a port."""
    name = text.strip().lower().rstrip(".")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not _HOST.fullmatch(name):
        raise ValueError("must be a host's name or address, without a scheme or a port")
    return name


def engine_base_url(text: str) -> str:
    """The engine's address without ``/v1``; the engine is reached on loopback alone."""
    url = http_url(text).removesuffix("/v1").rstrip("/")
    host = urlsplit(url).hostname or ""
    if not is_loopback_host(host):
        raise ValueError(
            f"must be on this machine (127.0.0.1, localhost or [::1]), not {host!r}: Foundry asks nobody for a key, so "
            "it is reached on loopback alone"
        )
    return url


def shown(value: object) -> str:
    """A wrong value as a message may repeat it; of a list or an object only its kind, since it may hold a secret."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
