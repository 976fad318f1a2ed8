"""Many streams left open through the gateway for minutes: errors, the growth of its memory, the gaps between chunks.

``python benchmarks/proxies/open_streams.py [--streams N] [--seconds S] [--every-ms M]``. Each stream has a chunk every M
milliseconds, to its end and its ``[DONE]``. Memory is looked at every 5 seconds; its slope is that of the straight line
through what was seen after the first minute (the first fifth of a shorter run). A gap counts by how much it differs on
arrival from what it was when the stub wrote its chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proxies.load import LoadError
from benchmarks.proxies.processes import LOAD_CORE, Foreign, cores, ended_by_signals, pin, settle, stub
from benchmarks.proxies.proxies import PROXIES, Running, answering, started
from benchmarks.proxies.report import Bar
from benchmarks.proxies.streams import Stream, opened

OPENING_S = 2.0
LATE_S = 30.0
SAMPLE_S = 5.0
SETTLING_S = 60.0


@dataclass(frozen=True)
class Seen:
    """The streams at their end, and what the gateway weighed meanwhile: (seconds since the begin, 10^6 bytes).

    ``cpu_s`` is its CPU time for all of it, in seconds.
    """

    streams: list[Stream]
    memory: list[tuple[float, float]]
    idle_mb: float
    cpu_s: float


async def watch(running: Running, options: argparse.Namespace) -> Seen:
    await answering(running)
    await settle(running.tree.cpu_s)
    idle_mb, cpu_s = running.tree.rss_mb(), running.tree.cpu_s()
    chunks = int(options.seconds * 1000 / options.every_ms)
    streams = await opened(
        running.target, count=options.streams, chunks=chunks, every_ms=options.every_ms, within_s=OPENING_S
    )
    began, memory = time.monotonic(), []
    while any(not stream.ended.done() for stream in streams):
        at_s = time.monotonic() - began
        memory.append((at_s, running.tree.rss_mb()))
        if at_s > options.seconds + LATE_S:
            break
        await asyncio.wait([stream.ended for stream in streams], timeout=SAMPLE_S)
    return Seen(streams, memory, idle_mb, running.tree.cpu_s() - cpu_s)


def slope_mb_per_min(memory: Sequence[tuple[float, float]], seconds: float) -> float | None:
    later = [(at_s / 60, mb) for at_s, mb in memory if min(SETTLING_S, seconds / 5) <= at_s < seconds]
    if len(later) < 3:
        return None
    return statistics.linear_regression(*zip(*later, strict=True)).slope


def problems(streams: Sequence[Stream], chunks: int) -> list[str]:
    """What went wrong, stream by stream; empty if every chunk of every stream came."""
    found = []
    for stream in streams:
        error = stream.ended.exception() if stream.ended.done() else LoadError("not at its end in time")
        if error is not None:
            found.append(str(error))
        elif len(stream.sent_ns) != chunks:
            found.append(f"{len(stream.sent_ns)} of {chunks} chunks came")
    return found


def report(seen: Seen, options: argparse.Namespace) -> bool:
    chunks = int(options.seconds * 1000 / options.every_ms)
    failed = problems(seen.streams, chunks)
    gaps = array("q", sorted(abs(gap) for stream in seen.streams for gap in stream.gaps_ns()))
    came = sum(len(stream.sent_ns) for stream in seen.streams)
    memory = [mb for _, mb in seen.memory]
    print(
        f"{came} chunks in {options.streams} streams; {seen.cpu_s / max(came, 1) * 1e6:.1f} us of the gateway's CPU for each"
    )
    print(
        f"memory: {seen.idle_mb:.1f} MB at idle, {memory[0]:.1f} at the begin, {max(memory):.1f} at most, {memory[-1]:.1f} at the end"
    )
    for problem in sorted(set(failed))[:10]:
        print(f"  {failed.count(problem)} streams: {problem}")
    bars = [
        Bar("streams that failed", len(failed), most=0),
        Bar(
            "memory, slope after the first minute",
            slope_mb_per_min(seen.memory, options.seconds),
            most=1,
            unit=" MB/min",
        ),
        Bar("added gap between chunks, p99", gaps[len(gaps) * 99 // 100] / 1e6 if gaps else None, most=50, unit=" ms"),
    ]
    for bar in bars:
        print(bar)
    return all(bar.holds for bar in bars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--every-ms", type=int, default=100)
    options = parser.parse_args()
    cores()
    with ended_by_signals(), tempfile.TemporaryDirectory() as home, stub() as engine:
        pin(LOAD_CORE)
        with started(PROXIES["gateway"], Path(), Path(home), engine) as running:
            foreign = Foreign()
            try:
                seen = uvloop.run(watch(running, options))
            except LoadError as error:
                sys.exit(str(error))
            share = foreign.share()
    print(f"Other programs took {share:.0%} of the machine.")
    if not report(seen, options):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
