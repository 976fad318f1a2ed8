"""Our HTTP client beside aiohttp and httpx, against one stub server; see README.md.

Each measurement is a process of its own, all of them take turns, and the medians are shown: figures taken
minutes apart on a shared machine do not compare.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
STREAMS = 100
EVERY_MS = 5
CASES = ("1 client", "16 clients", f"{STREAMS} streams")


async def requests(whole, url: str, concurrency: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []

    async def worker(until: float) -> None:
        while (began := time.perf_counter()) < until:
            await whole(url)
            latencies.append(time.perf_counter() - began)

    async def run(for_s: float) -> None:
        until = time.perf_counter() + for_s
        await asyncio.gather(*(worker(until) for _ in range(concurrency)))

    await run(0.3)
    latencies.clear()
    cpu, began = time.process_time(), time.perf_counter()
    await run(seconds)
    took = time.perf_counter() - began
    return {
        "per_s": len(latencies) / took,
        "p50_us": statistics.median(latencies) * 1e6,
        "cpu_us": (time.process_time() - cpu) / len(latencies) * 1e6,
    }


async def streams(stream, url: str, seconds: float) -> dict[str, float]:
    chunks = int(seconds * 1000 / EVERY_MS)
    ways: list[float] = []

    def note(part: bytes) -> None:
        at = part.rfind(b"@")
        if at >= 0:
            ways.append(time.monotonic_ns() - int(part[at + 1 : at + 21]))

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(stream(f"{url}?chunks={chunks}&every_ms={EVERY_MS}", note) for _ in range(STREAMS)))
    took = time.perf_counter() - began
    count = STREAMS * chunks
    ways.sort()
    return {
        "per_s": count / took,
        "p50_us": ways[len(ways) // 2] / 1000,
        "p99_us": ways[len(ways) * 99 // 100] / 1000,
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


async def measure(name: str, case: str, port: int, seconds: float) -> dict[str, float]:
    sys.path.insert(0, str(HERE))
    from clients import CLIENTS  # noqa: PLC0415 - stands beside this script

    async with CLIENTS[name]() as (whole, stream):
        if case.endswith("streams"):
            return await streams(stream, f"http://127.0.0.1:{port}/stream", seconds)
        return await requests(whole, f"http://127.0.0.1:{port}/json", int(case.partition(" ")[0]), seconds)


def pin(cpu: int) -> None:
    if hasattr(os, "sched_setaffinity") and cpu in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {cpu})


def run_all(names: list[str], rounds: int, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    server = subprocess.Popen(
        [sys.executable, HERE / "stub_server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(0),  # noqa: PLW1509 - no thread runs here
    )
    port = server.stdout.readline().strip()
    results: dict[str, dict[str, list[dict[str, float]]]] = {case: {name: [] for name in names} for case in CASES}
    try:
        for _ in range(rounds):
            for case in CASES:
                for name in names:
                    command = [sys.executable, __file__, "--one", name, case, port, "--seconds", str(seconds)]
                    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    results[case][name].append(json.loads(output))
    finally:
        server.stdin.close()
        server.wait(10)
    return {
        case: {
            name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
            for name, runs in by_name.items()
        }
        for case, by_name in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true", help="print the medians as JSON")
    parser.add_argument("--one", nargs=3, metavar=("CLIENT", "CASE", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import uvloop  # noqa: PLC0415 - the product's own loop

        pin(1)
        name, case, port = arguments.one
        print(json.dumps(uvloop.run(measure(name, case, int(port), arguments.seconds))))
        return
    names = ["ours"]
    for name in ("aiohttp", "httpx"):
        if importlib.util.find_spec(name):
            names.append(name)
        else:
            print(f"{name} is not installed here and is left out", file=sys.stderr)
    results = run_all(names, arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for case, by_name in results.items():
        print(f"\n{case}: per second | p50 us | CPU us | CPU compared with ours")
        for name, figures in by_name.items():
            ratio = figures["cpu_us"] / by_name["ours"]["cpu_us"]
            print(f"  {name:8} {figures['per_s']:9.0f} {figures['p50_us']:9.0f} {figures['cpu_us']:8.1f} {ratio:6.1f}x")
            if "p99_us" in figures:
                print(f"  {'':8} p99 of a chunk's way: {figures['p99_us'] / 1000:.1f} ms")


if __name__ == "__main__":
    main()
