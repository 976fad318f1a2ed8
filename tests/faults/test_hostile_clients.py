"""Slow clients and oversized uploads beside normal requests; benchmarks/hostile_clients has the full measure."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.doubles import running_double
from tests.support.http import ask
from tests.support.processes import ProductProcess, gateway_process
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
MODEL = "phi-x-generic-cpu:2"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "echo: one"}], "max_tokens": 5}
MOST_HELD = 16 * 1024 * 1024
LIMITS = {
    "FASTAPI_FOUNDRY__HTTP_LIMITS__HEAD_TIMEOUT_S": "0.8",
    "FASTAPI_FOUNDRY__HTTP_LIMITS__BODY_PACE_WINDOW_S": "0.8",
    "FASTAPI_FOUNDRY__HTTP_LIMITS__MAX_HELD_BODY_BYTES": str(MOST_HELD),
    "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false",
}


@contextmanager
def attackers(gateway: ProductProcess, outcome: dict[str, Any]) -> Iterator[None]:
    """20 slow clients and 5 uploads at work; ``outcome`` then holds how they ended."""
    command = [sys.executable, "-m", "benchmarks.hostile_clients.attackers", gateway.url.rpartition(":")[2]]
    popen = subprocess.Popen(
        [*command, "--loris", "20", "--uploads", "5", "--megabytes-per-s", "30"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert popen.stdout is not None
        assert json.loads(popen.stdout.readline())["event"] == "at work"
        yield
        out, _ = popen.communicate(b"", timeout=10)
        outcome.update(json.loads(out))
    finally:
        popen.kill()
        popen.wait(5)


def latencies(gateway: ProductProcess, seconds: float) -> list[float]:
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        assert ask(gateway.url, "/v1/chat/completions", CHAT).status == 200
        times.append(time.perf_counter() - began)
        time.sleep(0.005)
    return times


def test_hostile_clients_are_ended_and_hardly_felt(tmp_path: Path) -> None:
    double = running_double("gen3", tmp_path / "engine", models=[f"{MODEL},alias=phi-x,state=loaded"])
    with (
        double as engine,
        gateway_process(
            tmp_path / "home", arguments=["--port", "0"], env={"FOUNDRY_BASE_URL": engine.url} | LIMITS
        ) as gateway,
    ):
        eventually_sync(lambda: ask(gateway.url, "/api/v1/health").json["foundry_status"] == "connected")
        process = psutil.Process(gateway.pid)
        quiet = latencies(gateway, 1.0)
        before = process.memory_info().rss
        outcome: dict[str, Any] = {}
        with attackers(gateway, outcome):
            attacked = latencies(gateway, 2.5)
            grown = process.memory_info().rss - before
        assert statistics.median(attacked) < 2 * statistics.median(quiet) + 0.005
        assert grown < 2 * MOST_HELD + 40e6
        assert outcome["loris"]["408"] >= 20
        assert outcome["uploads"]["413"] >= 5
        assert set(outcome["loris"]) == {"408"}
        log = (gateway.home / "logs" / "fastapi-foundry.log").read_text(encoding="utf-8")
        assert "reason=request_too_slow" in log
