"""Real processes for tests: started with a private FOUNDRY_HOME, found by their ready line, always ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["ProductProcess", "children_of", "gateway_process", "product_environment", "service_process"]


@dataclass
class ProductProcess:
    """A running gateway or service.

    ``url`` is what its ready line said; ``lines`` holds what it printed on stdout afterwards.
    """

    popen: subprocess.Popen[bytes]
    url: str
    ready: dict[str, object]
    home: Path
    lines: queue.Queue[bytes] = field(default_factory=queue.Queue)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout_s: float = 10.0) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)


def product_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a machine that has nothing of ours on it yet.

    Each home has ports of its own: a scan would find the service of another test, a command its gateway.
    """
    dropped = ("FOUNDRY_", "FASTAPI_FOUNDRY", "API_", "LOG_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    first_port = _service_ports(home)
    env |= {"FOUNDRY_HOME": str(home), "HOME": str(home), "FOUNDRY_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    env |= {
        "FOUNDRY_PORT": str(first_port),
        "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_START": str(first_port),
        "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_END": str(first_port + _SERVICE_PORTS_PER_HOME - 1),
        "API_PORT": str(first_port + _SERVICE_PORTS_PER_HOME),
    }
    return env | dict(extra or {})


_SERVICE_PORTS_PER_HOME = 7
_PORTS_PER_HOME = _SERVICE_PORTS_PER_HOME + 1
_homes: dict[Path, int] = {}


def _service_ports(home: Path) -> int:
    """The first of the ports that belong to ``home``, below those that the system gives to clients."""
    index = _homes.setdefault(home, len(_homes))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return 20000 + (zlib.crc32(run.encode()) % 10 * 2 + worker) * 600 + (index * _PORTS_PER_HOME) % 600


def children_of(pid: int) -> list[psutil.Process]:
    """Every living descendant of ``pid``."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextmanager
def service_process(
    home: Path, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None, supervised: bool = False
) -> Iterator[ProductProcess]:
    """The Foundry service as a process of its own, ready to be asked."""
    command = [sys.executable, "-m", "fastapi_foundry.daemon", *arguments]
    with _running(command, home, env, stdin=subprocess.PIPE if supervised else subprocess.DEVNULL) as process:
        yield process


@contextmanager
def gateway_process(
    home: Path, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[ProductProcess]:
    """The gateway as ``fastapi-foundry serve`` starts it, with a service of its own."""
    command = [sys.executable, "-m", "fastapi_foundry", "serve", "--json", *arguments]
    with _running(command, home, env, stdin=subprocess.DEVNULL) as process:
        yield process


@contextmanager
def _running(
    command: Sequence[str], home: Path, env: Mapping[str, str] | None, *, stdin: int, timeout_s: float = 60.0
) -> Iterator[ProductProcess]:
    home.mkdir(parents=True, exist_ok=True)
    stderr_path = home / f"stderr-{time.monotonic_ns()}.txt"
    with stderr_path.open("wb") as stderr:
        popen = subprocess.Popen(
            list(command), stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=product_environment(home, env)
        )
    descendants: list[psutil.Process] = []
    lines: queue.Queue[bytes] = queue.Queue()
    reader = threading.Thread(target=_drain, args=(popen, lines), daemon=True)
    reader.start()
    try:
        ready = _first_line(popen, lines, stderr_path, timeout_s)
        process = ProductProcess(popen=popen, url=str(ready.get("url", "")), ready=ready, home=home, lines=lines)
        yield process
    finally:
        descendants = children_of(popen.pid)
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(15)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait(5)
        for child in descendants:
            if child.is_running():
                child.kill()
        reader.join(5)
        if popen.stdout is not None:
            popen.stdout.close()
        if popen.stdin is not None:
            popen.stdin.close()


def _drain(popen: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
    assert popen.stdout is not None
    for line in popen.stdout:
        lines.put(line)


def _first_line(
    popen: subprocess.Popen[bytes], lines: queue.Queue[bytes], stderr_path: Path, timeout_s: float
) -> dict[str, object]:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=0.05)
        except queue.Empty:
            gone = popen.poll() is not None
            if gone or time.monotonic() > deadline:
                why = f"exit {popen.returncode}" if gone else f"no ready line in {timeout_s} s"
                tail = stderr_path.read_text(errors="replace")[-4000:]
                raise AssertionError(f"{why}\n{tail}") from None
            continue
        message = json.loads(line)
        if message.get("event") == "ready":
            return dict(message)
        raise AssertionError(f"not ready: {message}")
