"""What hostile clients cost the others: latency of normal requests, in quiet and under attack, and the gateway's memory.

``python benchmarks/hostile_clients/hostile_clients.py [--loris N] [--uploads N] [--seconds N] [--rounds N]``. The engine
is a double that answers at once, so what is measured is the gateway. Quiet and attack take turns; figures are medians over
the phases. A turn during which other programs took more than a tenth of the machine is taken again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parents[2]
BODY = json.dumps(
    {"model": "double:1", "messages": [{"role": "user", "content": "Hello there, how are you?"}]}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY
CLIENTS = 4
PAUSE_S = 0.02
FOREIGN_SHARE = 0.1


@contextmanager
def started(command: list[str], env: dict[str, str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A process, and the port that its ready line names."""
    environ = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
    popen = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        yield int(str(ready.get("url", ":0")).rpartition(":")[2]), popen
    finally:
        popen.terminate()
        popen.wait(10)


async def normal_client(port: int, until: float, times: list[float]) -> None:
    """Requests on one connection, one after the other with pauses, as a page or a script sends them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        times.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_S)
    writer.close()


async def normal_traffic(port: int, seconds: float) -> list[float]:
    """The latencies of normal clients, in seconds."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(normal_client(port, until, times) for _ in range(CLIENTS)))
    return times


@contextmanager
def under_attack(port: int, options: argparse.Namespace, ends: list[dict[str, object]]) -> Iterator[None]:
    """All attackers at work while the block runs; ``ends`` gets what became of them."""
    command = [sys.executable, "-m", "benchmarks.hostile_clients.attackers", str(port)]
    command += ["--loris", str(options.loris), "--uploads", str(options.uploads)]
    command += ["--megabytes-per-s", str(options.megabytes_per_s)]
    with started(command, {}) as (_, popen):
        yield
        out, _ = popen.communicate(b"")
        ends.append(json.loads(out))


class Foreign:
    """How much of the machine everything but this benchmark takes while the block runs."""

    def __enter__(self) -> Self:
        self._busy_s, self._own_s, self._began = busy_s(), own_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed_s = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        self.share = (busy_s() - self._busy_s - own_s() + self._own_s) / elapsed_s


def busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def own_s() -> float:
    own = psutil.Process()
    return float(sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True))))


class Memory:
    """The resident memory of a process, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def now_mb(self) -> float:
        return float(self._process.memory_info().rss / 2**20)

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mb = max(self.peak_mb, self.now_mb())


def quantile_ms(times: list[float], share: float) -> float:
    return statistics.quantiles(times, n=1000)[round(share * 1000) - 1] * 1000


def line(name: str, phases: list[list[float]]) -> str:
    cuts = [statistics.median(quantile_ms(phase, share) for phase in phases) for share in (0.5, 0.99, 0.999)]
    count = sum(map(len, phases))
    return f"{name:13} {count:6} requests  p50 {cuts[0]:6.2f}  p99 {cuts[1]:6.2f}  p99.9 {cuts[2]:6.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loris", type=int, default=200)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--megabytes-per-s", type=float, default=2.0, help="of each upload")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lead-s", type=float, default=8.0, help="from the begin of an attack to its measured part")
    parser.add_argument("--tries", type=int, default=60)
    options = parser.parse_args()
    quiet: list[list[float]] = []
    attacked: list[list[float]] = []
    ends: list[dict[str, object]] = []
    with (
        tempfile.TemporaryDirectory() as home,
        started([sys.executable, "-m", "benchmarks.gateway.instant_engine"], {}) as (
            engine_port,
            _,
        ),
    ):
        env = {"FOUNDRY_HOME": home, "HOME": home, "FOUNDRY_BASE_URL": f"http://127.0.0.1:{engine_port}"}
        env |= {"FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false", "FOUNDRY_DEFAULT_MODEL": "double:1"}
        with started([sys.executable, "-m", "fastapi_foundry", "serve", "--json", "--port", "0"], env) as (port, popen):
            asyncio.run(normal_traffic(port, 2.0))
            memory = Memory(popen.pid)
            before_mb = memory.now_mb()
            tries = 0
            while len(quiet) < options.rounds and tries < options.tries:
                tries += 1
                with Foreign() as before:
                    calm = asyncio.run(normal_traffic(port, options.seconds))
                with under_attack(port, options, ends):
                    time.sleep(options.lead_s)
                    with Foreign() as meanwhile:
                        busy = asyncio.run(normal_traffic(port, options.seconds))
                if max(before.share, meanwhile.share) < FOREIGN_SHARE:
                    quiet.append(calm)
                    attacked.append(busy)
                else:
                    ends.pop()
                time.sleep(3)
            after_mb = memory.now_mb()
            memory.stop()
    print(f"{len(quiet)} of {tries} turns were undisturbed")
    if not quiet:
        sys.exit("The machine is too busy with other things to measure anything.")
    print(line("quiet", quiet))
    print(line("under attack", attacked))
    ratios = sorted(
        quantile_ms(during, 0.99) / quantile_ms(before, 0.99) for before, during in zip(quiet, attacked, strict=True)
    )
    print(
        f"p99 under attack, in terms of the quiet one before it: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}"
    )
    print(f"memory of the gateway: {before_mb:.0f} MiB before, {memory.peak_mb:.0f} at most, {after_mb:.0f} after")
    for end in ends:
        print(json.dumps(end))


if __name__ == "__main__":
    main()
