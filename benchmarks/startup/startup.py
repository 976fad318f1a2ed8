"""How long a start takes and what the processes weigh.

Starts the gateway from an installed environment several times, each time with a fresh home, and prints the minimum, median
and maximum in seconds from the start of ``serve``: in front of an engine that is there already, to the ready line and to
the first answer through ``/v1/chat/completions``; with its own service and runner, to the ready line and to the first
token of the demo model. Then the resident memory of each process at idle, in MiB.

    python benchmarks/startup/startup.py [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gateway.gateway_cost import BODY, CHAT, started  # noqa: E402 - the path is set just above

from tests.support.http import ask, event_stream  # noqa: E402 - as above
from tests.support.processes import ProductProcess, children_of, gateway_process  # noqa: E402 - as above

_IDLE_S = 2.0
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


def in_front_of(engine_port: int, times: dict[str, list[float]]) -> None:
    """One start with an engine that is there, and has nothing to load."""
    env = {"FOUNDRY_BASE_URL": f"http://127.0.0.1:{engine_port}", "FOUNDRY_DEFAULT_MODEL": "double:1"}
    env |= {"FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false"}
    with tempfile.TemporaryDirectory() as directory:
        began = time.monotonic()
        with gateway_process(Path(directory) / "home", env=env) as gateway:
            times["engine there: ready line"].append(time.monotonic() - began)
            assert ask(gateway.url, CHAT, BODY).status == 200
            times["engine there: first answer"].append(time.monotonic() - began)


def with_service(times: dict[str, list[float]]) -> dict[str, float]:
    """One start with everything of its own; what the processes weigh two seconds later."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.monotonic()
        with gateway_process(Path(directory) / "home") as gateway:
            times["own service: ready line"].append(time.monotonic() - began)
            first_token(gateway.url)
            times["own service: first token"].append(time.monotonic() - began)
            time.sleep(_IDLE_S)
            return weigh(gateway)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = defaultdict(list)
    weights: dict[str, float] = {}
    with started([sys.executable, "-m", "benchmarks.gateway.instant_engine"], ROOT, {}) as (engine_port, _):
        for _ in range(runs):
            in_front_of(engine_port, times)
            weights = with_service(times)
    for name, values in times.items():
        print(f"{name:28} min {min(values):.2f}  median {statistics.median(values):.2f}  max {max(values):.2f} s")
    for name, value in weights.items():
        print(f"{name:28} {value:.0f} MiB resident")


if __name__ == "__main__":
    main()
