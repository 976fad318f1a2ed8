"""What stands in front of an engine, side by side: nothing, nginx, our gateway, vllm-router, LiteLLM's proxy.

``python benchmarks/proxies/compare.py [--rounds N] [--seconds S] [--only nginx,gateway] [--tool-dir DIR]``; README.md says
what is measured and how. All of them run at the same time in front of one stub, and in every round each is asked in turn.

The proxies have the second core to themselves and each other, being asked one at a time; the stub and the clients, which
run in this process, share the first. So a proxy is never in the way of its own load, what it can do on a core shows, and
the way through a proxy crosses from core to core as often for one as for any other. Where "direct" has both of its ends on
one core, it wakes no other core: it is the floor, not a proxy of no cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proxies.load import LoadError, Target, whole_answers
from benchmarks.proxies.processes import LOAD_CORE, Foreign, cores, ended_by_signals, pin, settle, stub
from benchmarks.proxies.proxies import PROXIES, Running, answering, started
from benchmarks.proxies.report import DIRECT, Round, Start, Turn, show
from benchmarks.proxies.streams import opened, streamed
from benchmarks.proxies.tools import UnavailableError, default_directory, program

CLIENTS = 16
OPEN_STREAMS = 500
OPENING_S, LOOKING_S = 20.0, 3.0
DISTURBED = 0.1
"""A turn in which other programs took more of the machine than this is taken again."""
FEWEST = 3
"""Undisturbed rounds that are enough for a median."""


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run need: where things are, and how much is wanted."""

    options: argparse.Namespace
    directory: Path
    engine: int

    def home(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.directory))


async def weigh(running: Running) -> tuple[float, float | None]:
    """Memory at idle, and with many streams open (None where they were not taken), in 10^6 bytes.

    The streams have a chunk a second each, and have all begun when the memory is looked at.
    """
    await settle(running.tree.cpu_s)
    idle_mb = running.tree.rss_mb()
    streams = await opened(running.target, count=OPEN_STREAMS, chunks=60, every_ms=1000, within_s=2.0)
    most_mb, until = 0.0, time.monotonic() + OPENING_S
    while time.monotonic() < until and not all(stream.sent_ns for stream in streams):
        await asyncio.sleep(0.1)
    until = time.monotonic() + LOOKING_S
    while time.monotonic() < until:
        await asyncio.sleep(0.2)
        most_mb = max(most_mb, running.tree.rss_mb())
    flowing = sum(len(stream.sent_ns) > 0 and not stream.ended.done() for stream in streams)
    for stream in streams:
        stream.cut()
    if flowing < OPEN_STREAMS:
        complain(f"{running.target.name}: only {flowing} of {OPEN_STREAMS} streams were open")
        return idle_mb, None
    return idle_mb, most_mb


def start_of(name: str, bench: Bench) -> Start | None:
    """A start on a fresh home, without a key; None where it did not work."""
    began = time.monotonic()
    with started(PROXIES[name], bench.options.tool_dir, bench.home(), bench.engine, keys=False) as running:
        try:
            uvloop.run(answering(running))
            took_s = time.monotonic() - began
            idle_mb, open_mb = uvloop.run(weigh(running))
        except LoadError as error:
            complain(error)
            return None
    return Start(took_s, idle_mb, open_mb)


async def turn(running: Running | None, target: Target, seconds: float) -> Turn | None:
    """All three cases of one proxy; None where it failed."""
    try:
        many = await whole_answers(target, clients=CLIENTS, seconds=seconds)
        one = await whole_answers(target, clients=1, seconds=seconds)
        chunks = await streamed(target, seconds=seconds)
    except LoadError as error:
        complain(error)
        return None
    finally:
        if running is not None:
            await settle(target.cpu_s)
    return many, one, chunks


def calm_turn(running: Running | None, target: Target, options: argparse.Namespace) -> tuple[Turn | None, float]:
    """A turn during which other programs kept still, or else the calmest of some; and the share that they took."""
    best: tuple[Turn | None, float] = (None, 1.0)
    for _ in range(options.tries):
        watch = Foreign()
        result = uvloop.run(turn(running, target, options.seconds))
        share = watch.share()
        if best[0] is None or (result is not None and share < best[1]):
            best = result, share
        if best[1] < DISTURBED:
            break
    return best


def measured_round(number: int, running: dict[str, Running], bench: Bench) -> Round:
    """Each in turn, another one first in every round."""
    names = [DIRECT, *running]
    at = number % len(names)
    results: dict[str, Turn | None] = {}
    foreign = 0.0
    for name in names[at:] + names[:at]:
        proxy = running.get(name)
        target = Target(DIRECT, bench.engine, lambda: 0.0) if proxy is None else proxy.target
        if proxy is not None:
            proxy.tree.look()
        results[name], share = calm_turn(proxy, target, bench.options)
        foreign = max(foreign, share)
    complain(f"round {number + 1}: other programs took up to {foreign:.0%} of the machine")
    return Round({name: results[name] for name in names}, foreign)


def measured_rounds(running: dict[str, Running], bench: Bench) -> list[Round]:
    """The undisturbed rounds; all of them if those are too few."""
    rounds = [measured_round(number, running, bench) for number in range(bench.options.rounds)]
    calm = [each for each in rounds if each.foreign < DISTURBED]
    if len(calm) >= min(FEWEST, len(rounds)):
        return calm
    complain(f"only {len(calm)} of {len(rounds)} rounds were undisturbed: all are used, and the figures are rough")
    return rounds


def complain(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


def available(options: argparse.Namespace) -> list[str]:
    """The proxies that are wanted and that are here, or can be installed."""
    names = []
    for name in options.only.split(",") if options.only else PROXIES:
        try:
            program(name, options.tool_dir)
        except UnavailableError as error:
            complain(f"{name} is left out: {error}")
        else:
            names.append(name)
    return names


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--tries", type=int, default=3, help="of a measurement that other programs disturb")
    parser.add_argument("--starts", type=int, default=3, help="starts of each, for the time of a start and the memory")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help=f"some of {','.join(PROXIES)}; direct is always there"
    )
    parser.add_argument("--tool-dir", type=Path, default=default_directory(), help="where others are installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure there, too")
    options = parser.parse_args()
    if unknown := set(filter(None, options.only.split(","))) - set(PROXIES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.tool_dir = options.tool_dir.absolute()
    return options


def main() -> None:
    options = arguments()
    names = available(options)
    if len(cores()) < 2:
        complain("one core only: the proxies, the stub and the clients share it, and the figures say little")
    with ended_by_signals(), ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(options, directory, stack.enter_context(stub()))
        pin(LOAD_CORE)
        starts = {name: [start_of(name, bench) for _ in range(options.starts)] for name in names}
        running = {}
        for name in names:
            proxy = stack.enter_context(started(PROXIES[name], options.tool_dir, bench.home(), bench.engine))
            try:
                uvloop.run(answering(proxy))
            except LoadError as error:
                complain(f"{name} is left out: {error}\n{proxy.tree.log.read_text(errors='replace')[-2000:]}")
            else:
                running[name] = proxy
        rounds = measured_rounds(running, bench)
    show(rounds, starts)
    if options.json:
        every = {name: [start and asdict(start) for start in made] for name, made in starts.items()}
        options.json.write_text(json.dumps({"rounds": [each.plain() for each in rounds], "starts": every}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
