"""What keys, limits and the record of use cost: throughput and CPU time beside the same gateway without them.

``python benchmarks/gateway/access_cost.py [--rounds N] [--seconds S] [--connections N]``. Both gateways run at the same
time in front of an engine that answers at once, and are asked in turn, some seconds each; the result is the median of
the rounds' ratios. With keys: one has to be shown, and it has all five limits, as has the server, none of them ever
reached. ``--redis URL`` counts the minutes there.
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
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gateway.gateway_cost import BODY, started  # noqa: E402 - found by the line above

LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "concurrent_requests": 10**6,
    "tokens_per_day": 10**14,
    "tokens_per_month": 10**15,
}


@dataclass(frozen=True)
class Gateway:
    port: int
    pid: int
    head: str

    def request(self, body: bytes) -> bytes:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n{self.head}"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """Sends the same request again as soon as the answer to the last one is complete."""

    def __init__(self, request: bytes, *, until: float, streams: bool) -> None:
        self.done = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._request, self._until, self._streams = request, until, streams
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got = self._got[-8:] + data if self._streams and self._got else self._got + data
        if not self._complete():
            return
        self._got = b""
        self.done += 1
        if time.perf_counter() < self._until:
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.ended.set_result(None)

    def _complete(self) -> bool:
        if self._streams:
            return self._got.endswith(b"0\r\n\r\n")
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end:
            return False
        assert head.startswith(b"HTTP/1.1 200"), self._got
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return len(body) >= int(length[15:])


async def load(gateway: Gateway, body: bytes, seconds: float, connections: int) -> tuple[float, float]:
    """Answers per second, and the gateway's CPU time for each in microseconds."""
    process, loop = psutil.Process(gateway.pid), asyncio.get_running_loop()
    before, began = process.cpu_times(), time.perf_counter()
    streams = b'"stream": true' in body
    made = [
        (
            await loop.create_connection(
                lambda: Connection(gateway.request(body), until=began + seconds, streams=streams),
                "127.0.0.1",
                gateway.port,
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(each.ended for each in made))
    took, after = time.perf_counter() - began, process.cpu_times()
    done = sum(each.done for each in made)
    cpu = after.user + after.system - before.user - before.system
    return done / took, cpu / done * 1e6


async def compare(on: Gateway, off: Gateway, options: argparse.Namespace) -> None:
    for name, body in (("whole answers", BODY), ("streams of 200", BODY | {"stream": True})):
        raw = json.dumps(body).encode()
        for gateway in (on, off):
            await load(gateway, raw, 1.0, options.connections)
        rates, cpus, ratios, cpu_ratios = ([], []), ([], []), [], []
        for number in range(options.rounds):
            measured = {}
            for at in (0, 1) if number % 2 else (1, 0):
                measured[at] = await load((off, on)[at], raw, options.seconds, options.connections)
                rates[at].append(measured[at][0])
                cpus[at].append(measured[at][1])
            ratios.append(measured[1][0] / measured[0][0])
            cpu_ratios.append(measured[1][1] / measured[0][1])
        (off_rate, on_rate), (off_cpu, on_cpu) = map(statistics.median, rates), map(statistics.median, cpus)
        print(
            f"{name:14}  off {off_rate:6.0f}/s {off_cpu:5.0f} us   on {on_rate:6.0f}/s {on_cpu:5.0f} us   "
            f"throughput {statistics.median(ratios) - 1:+.1%}   CPU {statistics.median(cpu_ratios) - 1:+.1%}"
        )


def made_key(env: dict[str, str]) -> str:
    flags = [part for name, limit in LIMITS.items() for part in (f"--{name.replace('_', '-')}", str(limit))]
    command = [sys.executable, "-m", "fastapi_foundry", "keys", "create", "benchmark", "--admin", "--json", *flags]
    done = subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True)
    return str(json.loads(done.stdout)["key"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--key-alone", action="store_true", help="no limits for the server")
    parser.add_argument("--redis", default="", metavar="URL")
    options = parser.parse_args()
    with ExitStack() as stack:
        engine = [sys.executable, "-m", "benchmarks.gateway.instant_engine"]
        engine_port, _ = stack.enter_context(started(engine, ROOT, {}))

        def environment() -> dict[str, str]:
            home = stack.enter_context(tempfile.TemporaryDirectory())
            env = {"FOUNDRY_HOME": home, "HOME": home, "FOUNDRY_BASE_URL": f"http://127.0.0.1:{engine_port}"}
            return env | {
                "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false",
                "FASTAPI_FOUNDRY__FOUNDRY_AI__PROBE_ENGINES": "false",
                "FOUNDRY_DEFAULT_MODEL": "double:1",
            }

        env = environment()
        if not options.key_alone:
            env |= {f"FASTAPI_FOUNDRY__LIMITS__{name.upper()}": str(most) for name, most in LIMITS.items()}
        env |= {"FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY": "always"}
        env |= {"FASTAPI_FOUNDRY__LIMITS__STORAGE_URL": options.redis} if options.redis else {}
        key = made_key(env)
        serve = [sys.executable, "-m", "fastapi_foundry", "serve", "--json", "--port", "0"]
        port, pid = stack.enter_context(started(serve, ROOT, env))
        on = Gateway(port, pid, f"authorization: Bearer {key}\r\n")
        opened = [sys.executable, "-m", "benchmarks.gateway.open_gateway"]
        port, pid = stack.enter_context(started(opened, ROOT, environment() | {"API_PORT": "0"}))
        asyncio.run(compare(on, Gateway(port, pid, ""), options))


if __name__ == "__main__":
    main()
