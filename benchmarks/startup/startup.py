"""How long a start takes and what the processes weigh.

Starts the gateway (with its service and runner) from an installed environment several times and prints, for each
phase, the minimum, median and maximum in seconds: from the start of ``serve`` to the ready line, and to the first token
of the demo model through ``/v1/chat/completions``. Then the resident memory of each process at idle, in MiB.

    python benchmarks/startup/startup.py [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.http import event_stream  # noqa: E402 - the path is set just above
from tests.support.processes import ProductProcess, children_of, gateway_process  # noqa: E402

REQUEST = {"model": "foundry-demo:1", "messages": [{"role": "user", "content": "Hello"}]}


def first_token(url: str) -> None:
    with event_stream(url, "/v1/chat/completions", REQUEST) as stream:
        assert stream.status == 200, stream.text()
        for event in stream.events():
            if event["choices"][0]["delta"].get("content"):
                return
    raise AssertionError("no token")


def memory_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def weigh(gateway: ProductProcess) -> dict[str, float]:
    weights = {"gateway": memory_mib(psutil.Process(gateway.pid))}
    for child in children_of(gateway.pid):
        role = child.cmdline()[2] if len(child.cmdline()) > 2 else "?"
        name = {"fastapi_foundry.daemon": "service", "fastapi_foundry.daemon.runner": "runner"}.get(role, role)
        weights[name] = memory_mib(child)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    ready, token, weights = [], [], {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory:
            began = time.monotonic()
            with gateway_process(Path(directory) / "home") as gateway:
                ready.append(time.monotonic() - began)
                first_token(gateway.url)
                token.append(time.monotonic() - began)
                weights = weigh(gateway)
    for name, values in (("ready line", ready), ("first token", token)):
        print(f"{name:12} min {min(values):.2f}  median {statistics.median(values):.2f}  max {max(values):.2f} s")
    for name, value in weights.items():
        print(f"{name:12} {value:.0f} MiB resident")


if __name__ == "__main__":
    main()
