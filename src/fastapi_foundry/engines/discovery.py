"""Find a running Foundry: the daemon file, the installed CLI's own status, a scan, the usual port last.

Each step yields addresses, each address is probed, the first that is an engine is taken. An address that
somebody else wrote down (a file, a program's output) is used only if it is on loopback: the engine asks
nobody for a key, and a prompt must not leave the machine because of a line in a file.

Explicitly configured addresses are no business of this module: then there is nothing to discover.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import selectors
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import orjson

from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.probe import EngineKind, ProbeResult, probe

__all__ = ["Discovery", "Found", "loopback_base_urls"]

_CLI_COMMANDS: Final = (("server", "status", "--output", "json"), ("service", "status"))
_CLI_TIMEOUT_S: Final = 3.0
_CLI_LOOK_EVERY_S: Final = 0.1
_MAX_CLI_OUTPUT_BYTES: Final = 256 * 1024
_MAX_DAEMON_FILE_BYTES: Final = 64 * 1024
# On loopback a connection comes about within a millisecond; where a closed port drops packets instead of
# refusing (some firewalls, and Windows' own retries), this bounds the whole scan to about half a second.
_SCAN_CONNECT_TIMEOUT_S: Final = 0.1
_SCAN_CONCURRENCY: Final = 128
_PROBE_CONCURRENCY: Final = 8
_LOOPBACK: Final = "127.0.0.1"
_URL: Final = re.compile(r"https?://[^\s\"'<>,;\\)\]]+(?:\][^\s\"'<>,;\\)]*)?")
_MAX_URLS: Final = 8


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that was found, and how.

    Attributes:
        url: Base URL without ``/v1``.
        found_by: The step, as in ``EngineStatus.found_by``.
        probe: What its probe saw.
    """

    url: str
    found_by: str
    probe: ProbeResult

    @property
    def kind(self) -> EngineKind:
        """What it is."""
        return self.probe.kind or EngineKind.OPENAI


class Discovery:
    """Looks for an engine each time it is asked; remembers only what it tried last.

    Args:
        client: For the probes.
        home: The directory with the daemon file.
        ports: The range to scan, both ends included.
        default_port: Probed last, inside or outside the range.
        probe_timeout_s: For each request of a probe, in seconds.
        path: Where to look for the CLI, as in ``PATH``; None for the process's own.

    Attributes:
        tried: (step, address, outcome) of the last search, in order.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        home: Path,
        ports: range,
        default_port: int,
        probe_timeout_s: float = 1.0,
        path: str | None = None,
    ) -> None:
        self.tried: list[tuple[str, str, str]] = []
        self._client = client
        self._daemon_file = home / "daemon.json"
        self._ports = ports
        self._default_port = default_port
        self._probe_timeout_s = probe_timeout_s
        self._path = path

    async def find(self) -> Found | None:
        """Go through the steps in order and take the first engine; None when there is none.

        Takes some 30 ms where no CLI is installed and nothing listens in the range, seconds at the worst.
        """
        self.tried = []
        for step in (self._from_daemon_file, self._from_cli, self._from_scan):
            found = await step()
            if found is not None:
                return found
        return None

    async def _from_daemon_file(self) -> Found | None:
        urls, outcome = await asyncio.to_thread(_read_daemon_file, self._daemon_file)
        if not urls:
            self._note("daemon_file", str(self._daemon_file), outcome)
        return await self._first_engine("daemon_file", urls)

    async def _from_cli(self) -> Found | None:
        program = await asyncio.to_thread(shutil.which, "foundry", path=self._path)
        if program is None:
            self._note("cli", "foundry", "not installed")
            return None
        for arguments in _CLI_COMMANDS:
            output, outcome = await _run_bounded([program, *arguments])
            urls = loopback_base_urls(output)
            if not urls:
                self._note("cli", " ".join(("foundry", *arguments)), outcome or "it names no address on loopback")
                continue
            found = await self._first_engine("cli", urls)
            if found is not None:
                return found
        return None

    async def _from_scan(self) -> Found | None:
        ports = await asyncio.to_thread(_open_ports, [port for port in self._ports if port != self._default_port])
        span = f"{_LOOPBACK}:{self._ports.start}-{self._ports.stop - 1}"
        self._note("scan", span, f"{len(ports)} of {len(self._ports)} ports accept connections")
        found = await self._first_engine("scan", [f"http://{_LOOPBACK}:{port}" for port in ports])
        if found is None and self._default_port:
            found = await self._first_engine("default_port", [f"http://{_LOOPBACK}:{self._default_port}"])
        return found

    async def _first_engine(self, step: str, urls: Sequence[str]) -> Found | None:
        """Probe all of them at once; the first in order that is an engine."""
        gate = asyncio.Semaphore(_PROBE_CONCURRENCY)

        async def probe_one(url: str) -> ProbeResult:
            async with gate:
                return await probe(self._client, url, timeout_s=self._probe_timeout_s, asks_version=True)

        results = await asyncio.gather(*(probe_one(url) for url in urls))
        for url, result in zip(urls, results, strict=True):
            self._note(step, url, result.outcome)
            if result.kind is not None:
                return Found(url, step, result)
        return None

    def _note(self, step: str, address: str, outcome: str) -> None:
        self.tried.append((step, address, outcome))


def loopback_base_urls(text: str) -> list[str]:
    """The base URLs on loopback in a text, each once, in order.

    A base URL is what stands before the path: Foundry's own tools print the address of a page
    (``http://127.0.0.1:5273/openai/status``).
    """
    found: dict[str, None] = {}
    for match in _URL.findall(text):
        url = _loopback_origin(match)
        if url is not None:
            found[url] = None
    return list(found)[:_MAX_URLS]


def _loopback_origin(url: str) -> str | None:
    try:
        parts = urlsplit(url.rstrip("."))
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or port is None or parts.username is not None:
        return None
    # 0.0.0.0 is where a server listens, and it is on this machine there as well.
    named = {"127.0.0.1": _LOOPBACK, "localhost": "localhost", "::1": "[::1]", "0.0.0.0": _LOOPBACK}.get(host or "")  # noqa: S104
    return f"http://{named}:{port}" if named else None


def _read_daemon_file(path: Path) -> tuple[list[str], str]:
    """The addresses in the daemon file, or why there are none; blocks on the disk."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_DAEMON_FILE_BYTES + 1)
    except FileNotFoundError:
        return [], "no such file"
    except OSError as error:
        return [], f"unreadable: {error.strerror}"
    try:
        document: Any = orjson.loads(raw) if len(raw) <= _MAX_DAEMON_FILE_BYTES else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return [], "not a JSON object"
    values = document.get("web_urls", document.get("webUrls"))
    texts = [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, str)]
    urls = loopback_base_urls(" ".join(texts))
    return urls, "" if urls else "it names no address on loopback"


async def _run_bounded(argv: Sequence[str]) -> tuple[str, str]:
    """Output of a program, and why it is worth nothing; bounded in time and size."""
    # A file, not a pipe: a service that the program starts would hold a pipe open for as long as it runs.
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT
            )
        except OSError as error:
            return "", f"cannot be run: {error.strerror or error}"
        try:
            outcome = await _wait_bounded(process, output)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        output.seek(0)
        return output.read(_MAX_CLI_OUTPUT_BYTES).decode("utf-8", "replace"), outcome


async def _wait_bounded(process: asyncio.subprocess.Process, output: IO[bytes]) -> str:
    end = asyncio.create_task(process.wait())
    try:
        for _ in range(math.ceil(_CLI_TIMEOUT_S / _CLI_LOOK_EVERY_S)):
            await asyncio.wait([end], timeout=_CLI_LOOK_EVERY_S)
            if end.done():
                return f"status {process.returncode}" if process.returncode else ""
            if os.fstat(output.fileno()).st_size > _MAX_CLI_OUTPUT_BYTES:
                return "it does not stop talking"
    finally:
        end.cancel()
    return f"no end within {_CLI_TIMEOUT_S:g} s"


def _open_ports(ports: Iterable[int]) -> list[int]:
    """Those that accept a connection, in order; blocks, for 20 ms where nothing drops packets."""
    # Without the event loop, where each port would be a task with a time-out of its own: a third of the time.
    untried, found = list(ports), []
    for first in range(0, len(untried), _SCAN_CONCURRENCY):
        with contextlib.ExitStack() as opened, selectors.DefaultSelector() as pending:
            for port in untried[first : first + _SCAN_CONCURRENCY]:
                sock = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                sock.setblocking(False)
                sock.connect_ex((_LOOPBACK, port))
                pending.register(sock, selectors.EVENT_WRITE, (sock, port))
            deadline = time.monotonic() + _SCAN_CONNECT_TIMEOUT_S
            while pending.get_map() and (left_s := deadline - time.monotonic()) > 0:
                for key, _ in pending.select(left_s):
                    sock, port = key.data
                    pending.unregister(sock)
                    if _is_connected(sock):
                        found.append(port)
    return sorted(found)


def _is_connected(sock: socket.socket) -> bool:
    try:
        # A connection to a free port of the ephemeral range can be met by itself.
        return bool(sock.getsockname() != sock.getpeername())
    except OSError:  # it was refused
        return False
