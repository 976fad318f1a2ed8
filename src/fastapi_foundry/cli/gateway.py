"""The running gateway, as this CLI finds it: ``gateway.json`` in the home says where ``serve`` listens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastapi_foundry import errors
from fastapi_foundry.cli.http import HttpApi
from fastapi_foundry.settings.home import make_private_directory

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = ["FoundGateway", "configured_url", "find_gateway", "gateway_file"]

_PROBE_TIMEOUT_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class FoundGateway:
    """A running gateway: its base URL, what its health says, and the certificate that it shows, if it has one."""

    url: str
    health: dict[str, Any]
    certificate: Path | None = None

    def api(self, timeout_s: float = 10.0) -> HttpApi:
        """A client for it; ``timeout_s`` bounds each wait for bytes."""
        return HttpApi(self.url, timeout_s=timeout_s, key=_key(), certificate=self.certificate)


def find_gateway(settings: Settings) -> FoundGateway | None:
    """The running gateway, or None; takes 1.5 s per address that accepts and stays silent."""
    usual = (configured_url(settings), settings.tls.certificate)
    for url, certificate in dict.fromkeys([*_recorded(settings.home), usual]):
        api = HttpApi(url, timeout_s=_PROBE_TIMEOUT_S, key=_key(), certificate=certificate)
        try:
            health = api.get("/api/v1/health")
        except errors.FoundryError:
            continue
        if isinstance(health, dict) and "foundry_status" in health:
            return FoundGateway(api.url, health, certificate)
    return None


def configured_url(settings: Settings) -> str:
    """Where a gateway with these settings answers on this machine, if the port was free."""
    host = settings.fastapi_server.host
    shown = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else f"[{host}]" if ":" in host else host  # noqa: S104 - compared, not bound
    scheme = "https" if settings.tls.enabled else "http"
    return f"{scheme}://{shown}:{settings.fastapi_server.port}"


@contextmanager
def gateway_file(home: Path) -> Iterator[Any]:
    """Yield a function that records the gateway's URL and the file of its certificate, if it has one.

    Leaving removes the record if it is still this process's.
    """
    path = home / "gateway.json"

    def record(url: str, certificate: Path | None = None) -> None:
        make_private_directory(home)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        content = {"url": url, "pid": os.getpid()}
        if certificate is not None:
            content["certificate"] = str(certificate)
        fresh.write_bytes(orjson.dumps(content))
        fresh.replace(path)

    try:
        yield record
    finally:
        if _content(path).get("pid") == os.getpid():
            with suppress(FileNotFoundError):
                path.unlink()


def _key() -> str | None:
    return os.environ.get("FOUNDRY_API_KEY", "").strip() or None


def _recorded(home: Path) -> list[tuple[str, Path | None]]:
    content = _content(home / "gateway.json")
    url, certificate = content.get("url"), content.get("certificate")
    return [(url, Path(certificate) if isinstance(certificate, str) else None)] if isinstance(url, str) else []


def _content(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
