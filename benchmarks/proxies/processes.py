"""Processes of a measurement: started on a core, waited for, weighed, and ended with all that they started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

import psutil

ROOT = Path(__file__).resolve().parents[2]
LOAD_CORE, PROXY_CORE = 0, 1
END_S = 10.0


@cache
def cores() -> list[int]:
    """The cores that we may use, as they were when this was first called; empty where no process can be bound to one."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(core: int) -> None:
    """Bind this process, and what it starts from now on, to the first or second core; without effect where there is none."""
    if len(cores()) > 1:
        os.sched_setaffinity(0, {cores()[core]})


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what would change a program under measurement, such as compiling everything at each start."""
    dropped = ("FOUNDRY_", "FASTAPI_FOUNDRY", "API_", "LOG_", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**env, **(extra or {})}


def own_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The same, for programs of this checkout."""
    return environment({"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))), **(extra or {})})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tree:
    """A process and its descendants.

    Attributes:
        popen: The process that was started; the leader of a session, so that Ctrl-C reaches this program alone.
        log: What it wrote on stdout and stderr.
    """

    def __init__(
        self, command: Sequence[str | Path], *, core: int, log: Path, env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: pin(core),  # noqa: PLW1509 - no thread runs here
            )

        self._members: list[psutil.Process] = []

    def look(self) -> None:
        """Find out which processes belong to it; too slow for the middle of a measurement."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.popen.pid)
            self._members = [process, *process.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU time so far, user and system, of the processes found by ``look`` and of their children that have ended."""
        return _cpu_s(self._members)

    def rss_mb(self) -> float:
        """Resident memory in 10^6 bytes, shared pages counted once for each process that has them."""
        total = 0
        for process in self._members:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def end(self) -> None:
        """Ask it to end, then make it; nothing of it is left afterwards."""
        self.look()
        known = list(self._members)
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(END_S)
        for process in known:
            with suppress(psutil.NoSuchProcess):
                if process.is_running():
                    process.kill()
        self.popen.wait(END_S)


@contextmanager
def stub() -> Iterator[int]:
    """The stub engine on the core of the load; its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.proxies.stub"],
        cwd=ROOT,
        env=own_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: pin(LOAD_CORE),  # noqa: PLW1509 - no thread runs here
    ) as popen:
        try:
            assert popen.stdout is not None
            yield int(str(json.loads(popen.stdout.readline())["url"]).rpartition(":")[2])
        finally:
            popen.kill()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that everything started is ended."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def settle(cpu_s: Callable[[], float], *, at_most_s: float = 15.0) -> None:
    """Wait until a process has done what it still had to do: less than 5 % of a core over 0.2 s."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        before = cpu_s()
        await asyncio.sleep(0.2)
        if cpu_s() - before < 0.2 * 0.05 + 0.001:
            return


class Foreign:
    """The share of the machine that all programs but those of this measurement take."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._began = _busy_s(), _own_s(), time.perf_counter()

    def share(self) -> float:
        elapsed_s = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        return max(0.0, (_busy_s() - self._busy_s - _own_s() + self._own_s) / elapsed_s)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _own_s() -> float:
    own = psutil.Process()
    return _cpu_s([own, *own.children(recursive=True)])


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total
