"""What the gateway adds to a request: its own CPU time, and the latency beside asking the engine directly.

``python benchmarks/gateway/gateway_cost.py [--requests N] [--streams N] [--root CHECKOUT]``. The engine is a double that
answers at once, so everything that is measured is the gateway's. ``--root`` measures another checkout's gateway (with
that checkout's ``.venv``) for a comparison side by side.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
BODY = {"model": "double:1", "messages": [{"role": "user", "content": "Hello there, how are you?"}]}


@contextmanager
def started(command: list[str], root: Path, env: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A process and the port that its ready line names: (port, pid)."""
    environ = {**os.environ, **env, "PYTHONPATH": os.pathsep.join((str(root), str(root / "src")))}
    popen = subprocess.Popen(
        command, cwd=root, env=environ, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        yield int(str(ready["url"]).rpartition(":")[2]), popen.pid
    finally:
        popen.terminate()
        popen.wait(10)


def post(connection: http.client.HTTPConnection, body: bytes) -> float:
    """One request to its end; seconds."""
    began = time.perf_counter()
    connection.request("POST", CHAT, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return time.perf_counter() - began


def measure(port: int, pid: int, body: bytes, count: int) -> tuple[float, float]:
    """Median latency and the process's CPU time for each request, both in microseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(50):
        post(connection, body)
    process = psutil.Process(pid)
    before = process.cpu_times()
    times = [post(connection, body) for _ in range(count)]
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return statistics.median(times) * 1e6, cpu_s / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    python = sys.executable if options.root == ROOT else str(options.root / ".venv" / "bin" / "python")
    engine = [sys.executable, "-m", "benchmarks.gateway.instant_engine"]
    with tempfile.TemporaryDirectory() as home, started(engine, ROOT, {}) as (engine_port, engine_pid):
        env = {"FOUNDRY_HOME": home, "HOME": home, "FOUNDRY_BASE_URL": f"http://127.0.0.1:{engine_port}"}
        env |= {"FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false", "FOUNDRY_DEFAULT_MODEL": "double:1"}
        gateway = [python, "-m", "fastapi_foundry", "serve", "--json", "--port", "0"]
        with started(gateway, options.root, env) as (port, pid):
            for name, body, count in (
                ("whole answer", json.dumps(BODY).encode(), options.requests),
                ("stream of 200", json.dumps(BODY | {"stream": True}).encode(), options.streams),
            ):
                direct, _ = measure(engine_port, engine_pid, body, count)
                through, cpu = measure(port, pid, body, count)
                print(f"{name:14} direct {direct:6.0f} us  through {through:6.0f} us  gateway CPU {cpu:6.0f} us")


if __name__ == "__main__":
    main()
