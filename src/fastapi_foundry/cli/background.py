"""The Foundry service as this CLI sees it: found, started in the background, stopped.

Only a server whose ``/status`` says that it is ours is ever stopped, and only by asking it to.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from fastapi_foundry import errors
from fastapi_foundry.cli.http import HttpApi
from fastapi_foundry.cli.options import Invocation, log_directory
from fastapi_foundry.settings.home import make_private_directory

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = [
    "FoundService",
    "candidates",
    "daemon_command",
    "find_service",
    "require_service",
    "start_service",
    "stop_service",
]

PRODUCT: Final = "fastapi-foundry-service"
_PROBE_TIMEOUT_S: Final = 1.0
_POLL_INTERVAL_S: Final = 0.05
_OUTPUT_LIMIT_BYTES: Final = 1024 * 1024
OUTPUT_NAME: Final = "foundry-service-output.log"


@dataclass(frozen=True, slots=True)
class FoundService:
    """A running service of ours: its base URL and what its ``/status`` said."""

    url: str
    status: dict[str, Any]

    @property
    def pid(self) -> int:
        """Its process id; 0 if it did not say."""
        pid = self.status.get("pid")
        return pid if isinstance(pid, int) else 0

    def api(self, timeout_s: float = 10.0) -> HttpApi:
        """A client for it; ``timeout_s`` bounds each wait for bytes."""
        return HttpApi(self.url, timeout_s=timeout_s)


def candidates(settings: Settings) -> list[tuple[str, str]]:
    """Where the service may be, most likely first: (how it was found, base URL)."""
    if settings.foundry_ai.base_url:
        return [("base_url", settings.foundry_ai.base_url)]
    found = [("daemon_file", url) for url in _daemon_file_urls(settings.home / "daemon.json")]
    return [*found, ("default_port", f"http://127.0.0.1:{settings.foundry_service.port}")]


def find_service(settings: Settings) -> FoundService | None:
    """The running service of ours, or None; takes a second per address that accepts and stays silent."""
    for _, url in candidates(settings):
        found = probe(url)
        if found is not None:
            return found
    return None


def probe(url: str) -> FoundService | None:
    """Ask one address whether it is our service."""
    api = HttpApi(url, timeout_s=_PROBE_TIMEOUT_S)
    try:
        status = api.get("/status")
    except errors.FoundryError:
        return None
    if isinstance(status, dict) and status.get("product") == PRODUCT:
        return FoundService(api.url, status)
    return None


def require_service(settings: Settings) -> FoundService:
    """The running service.

    Raises:
        EngineUnavailableError: None runs; the message says what to do.
    """
    found = find_service(settings)
    if found is not None:
        return found
    if settings.foundry_ai.base_url:
        raise errors.EngineUnavailableError(
            f"No FastAPI Foundry service answers at {settings.foundry_ai.base_url} (foundry_ai.base_url)."
        )
    raise errors.EngineUnavailableError(
        "The Foundry service is not running. Start it with: fastapi-foundry service start"
    )


def daemon_command(invocation: Invocation, port: int | None = None) -> list[str]:
    """The command line of the service."""
    command = [sys.executable, "-m", "fastapi_foundry.daemon"]
    if port is not None:
        command += ["--port", str(port)]
    if invocation.config is not None:
        command += ["--config", str(invocation.config.resolve())]
    return command


def start_service(invocation: Invocation, settings: Settings, *, port: int | None = None) -> tuple[FoundService, bool]:
    """Make sure that the service runs in the background; it outlives this process.

    Waits until it answers, ``foundry_service.start_timeout_s`` seconds at most. A second caller waits for the
    first and finds its service.

    Returns:
        The service, and whether it was started here.

    Raises:
        EngineUnavailableError: It is configured to be elsewhere, or did not become ready; the message says why.
    """
    with _one_starter(settings.home, settings.foundry_service.start_timeout_s):
        found = find_service(settings)
        if found is not None:
            return found, False
        if settings.foundry_ai.base_url:
            require_service(settings)
        return _spawn(invocation, settings, port), True


def stop_service(service: FoundService, *, timeout_s: float = 30.0) -> None:
    """Ask the service to end and wait until its process is gone.

    Raises:
        EngineFailedError: It still runs after ``timeout_s`` seconds; it is not killed.
    """
    service.api().post("/shutdown")
    deadline = time.monotonic() + timeout_s
    while _is_alive(service):
        if time.monotonic() > deadline:
            raise errors.EngineFailedError(
                f"The service (process {service.pid}) was asked to stop and still runs after {timeout_s:g} s."
            )
        time.sleep(_POLL_INTERVAL_S)


def _spawn(invocation: Invocation, settings: Settings, port: int | None) -> FoundService:
    output_path = log_directory(settings) / OUTPUT_NAME
    make_private_directory(output_path.parent)
    fresh = not output_path.exists() or output_path.stat().st_size > _OUTPUT_LIMIT_BYTES
    with output_path.open("wb" if fresh else "ab") as output:
        begin = output.seek(0, os.SEEK_END)
        detached: dict[str, Any] = (
            {"creationflags": 0x00000008 | 0x00000200}  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            daemon_command(invocation, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **detached,
        )
    deadline = time.monotonic() + settings.foundry_service.start_timeout_s
    while time.monotonic() < deadline:
        event = _first_event(output_path, begin)
        if event.get("event") == "ready":
            # The file keeps its handle; the process is the system's to reap once this one has ended.
            process.returncode = 0
            found = probe(str(event.get("url")))
            if found is not None:
                return found
        if event.get("event") == "failed":
            raise errors.EngineUnavailableError(f"The Foundry service did not start: {event.get('error')}")
        if process.poll() is not None:
            raise errors.EngineUnavailableError(
                f"The Foundry service ended at once (exit {process.returncode}){_last_words(output_path, begin)} "
                f"Its output: {output_path}"
            )
        time.sleep(_POLL_INTERVAL_S)
    process.terminate()
    raise errors.EngineUnavailableError(
        f"The Foundry service was not ready after {settings.foundry_service.start_timeout_s:g} s "
        f"(foundry_service.start_timeout_s). Its output: {output_path}"
    )


def _first_event(path: Path, begin: int) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(begin)
        for line in file.read(_OUTPUT_LIMIT_BYTES).splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(event, dict) and "event" in event:
                    return event
    return {}


def _last_words(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        lines = file.read(_OUTPUT_LIMIT_BYTES).decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last.rstrip('.')}." if last else "."


def _daemon_file_urls(path: Path) -> list[str]:
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return []
    urls = content.get("web_urls") if isinstance(content, dict) else None
    # Whoever wrote that file, a prompt must not leave the machine because of a line in it.
    return [url for url in urls if _is_loopback(url)] if isinstance(urls, list) else []


def _is_loopback(url: object) -> bool:
    try:
        return isinstance(url, str) and urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
    except ValueError:
        return False


def _is_alive(service: FoundService) -> bool:
    import psutil  # noqa: PLC0415 - only stopping needs it

    if not service.pid:
        return probe(service.url) is not None
    try:
        return bool(psutil.Process(service.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _one_starter(home: Path, timeout_s: float) -> Iterator[None]:
    """Let one process at a time start the service of one home."""
    make_private_directory(home)
    if sys.platform == "win32":
        yield  # two starters at once get two ports, and the later daemon file wins
        return
    import fcntl  # noqa: PLC0415 - POSIX alone

    deadline = time.monotonic() + timeout_s
    with (home / "service-start.lock").open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"Another start of the Foundry service has not ended within {timeout_s:g} s."
                    raise errors.EngineUnavailableError(message) from None
                time.sleep(_POLL_INTERVAL_S)
        yield
