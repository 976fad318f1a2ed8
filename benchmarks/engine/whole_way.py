"""What the whole way from a client to a runner and back adds to a session of Foundry Local, and what a streamed token costs.

    python benchmarks/engine/whole_way.py [--model DIRECTORY] [--rounds N] [--large-rounds N] [--streams N] [--tokens N]

``half_billion/build.py`` makes the large model. Each model is asked in four ways in turn, in a new order each round: a
session of the engine, a runner over its pipes, the service, and the gateway with a key and all limits, as a user starts
them. All have to give the same answer. The README of the benchmarks has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.engine.half_billion.shape import NAME, default_directory  # noqa: E402 - found by the line above
from benchmarks.engine.way_report import Measured, Series, report_streams, report_whole  # noqa: E402 - as above
from benchmarks.engine.ways import Direct, Http, Runner, Told, Way, python_path  # noqa: E402 - as above
from benchmarks.gateway.access_cost import LIMITS, made_key  # noqa: E402 - as above

from tests.support.processes import children_of, gateway_process, product_environment  # noqa: E402 - as above

DEMO = ROOT / "src" / "fastapi_foundry" / "demo_model"
DEMO_ID, LARGE_ID = "foundry-demo:1", f"{NAME}:1"
QUESTION = [{"role": "user", "content": "hello"}]


def measure(ways: Sequence[Way], body: dict[str, Any], rounds: int, pause_s: float, block: int) -> Measured:
    """Ask every way in every round; of all blocks of rounds, that half counts in which others used the machine less."""
    expected, dice, blocks = ways[0].ask(body), random.Random(0), []
    for number in range(-1, 2 * rounds // block):
        watch = OthersWatch()
        rows = [one_round(ways, body, expected, dice, pause_s) for _ in range(block)]
        if number >= 0:
            blocks.append((watch.cores(), rows))
    quiet = sorted(blocks, key=lambda pair: pair[0])[: len(blocks) // 2]
    series = [Series(way, [row[way.name] for _, rows in quiet for row in rows]) for way in ways]
    return Measured(series, statistics.mean(cores for cores, _ in quiet))


def one_round(
    ways: Sequence[Way], body: dict[str, Any], expected: Told, dice: random.Random, pause_s: float
) -> dict[str, dict[str, float]]:
    """Ask every way once: seconds, and CPU seconds of each process on the way."""
    rows = {}
    for way in dice.sample(ways, len(ways)):
        time.sleep(pause_s)
        before = {name: cpu_s(pid) for name, pid in way.processes.items()}
        told = way.ask(body)
        spent = {f"cpu {name}": cpu_s(pid) - before[name] for name, pid in way.processes.items()}
        same = (told.text, told.tokens) == (expected.text, expected.tokens)
        assert same, f"{way.name}: {told.tokens} tokens, {told.text!r} instead of {expected.text!r}"
        assert told.tokens == body["max_tokens"], told.text
        rows[way.name] = figures(told) | spent
    return rows


class OthersWatch:
    """How many cores are used, since it was made, by programs that are not part of the measurement."""

    def __init__(self) -> None:
        self._own = [psutil.Process(), *children_of(os.getpid())]
        self._began, self._used_s = time.perf_counter(), self._used()

    def cores(self) -> float:
        """The mean."""
        return max(0.0, self._used() - self._used_s) / (time.perf_counter() - self._began)

    def _used(self) -> float:
        """CPU seconds of all others so far."""
        system = psutil.cpu_times()
        idle = system.idle + getattr(system, "iowait", 0.0)
        return sum(system) - idle - sum(cpu_s(each.pid) for each in self._own)


def figures(told: Told) -> dict[str, float]:
    """Seconds to the end; of a stream also those to its first token, and between two of its tokens."""
    if len(told.times) == 1:
        return {"end": told.times[0]}
    # The first chunk names the speaker.
    first, last = told.times[1], told.times[told.tokens]
    return {"end": told.times[-1], "first": first, "token": (last - first) / (told.tokens - 1)}


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, to the nanosecond where the system tells."""
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number for that process's clock
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@contextmanager
def all_ways(model: Path, model_id: str) -> Iterator[list[Way]]:
    """The four ways to one model, each of them warm."""
    with ExitStack() as stack:
        scratch = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        home = scratch[0] / "home"
        (home / "models").mkdir(parents=True)
        (home / "models" / NAME).symlink_to(model)
        env = {f"FASTAPI_FOUNDRY__LIMITS__{name.upper()}": str(most) for name, most in LIMITS.items()}
        env |= {"FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY": "always", "FOUNDRY_DEFAULT_MODEL": model_id}
        # Another one that runs on this machine would be found and used.
        env |= {"PYTHONPATH": python_path(), "FASTAPI_FOUNDRY__FOUNDRY_AI__DISCOVERY": "false"}
        key = made_key(product_environment(home, env))
        gateway = stack.enter_context(gateway_process(home, env=env))
        through = stack.enter_context(Http("gateway", {"gateway": gateway.pid}, gateway.url, key))
        through.ask(body_for(model_id, 1))
        below = {role(child): child.pid for child in children_of(gateway.pid)}
        through.processes |= {name: below[name] for name in ("service", "runner")}
        yield [
            stack.enter_context(Direct(model, model_id, scratch[1])),
            stack.enter_context(Runner(model, model_id, scratch[2])),
            stack.enter_context(Http("service", {}, service_url(home))),
            through,
        ]


def role(process: psutil.Process) -> str:
    """What a process of ours is."""
    command = " ".join(process.cmdline())
    return "runner" if "daemon.runner" in command else "service" if "fastapi_foundry.daemon" in command else command


def service_url(home: Path) -> str:
    """Where the service says that it is."""
    return str(json.loads((home / "daemon.json").read_bytes())["web_urls"][0])


def body_for(model_id: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A request for exactly so many tokens."""
    return {"model": model_id, "messages": QUESTION, "max_tokens": tokens, "temperature": 0} | more


def main() -> None:
    """Measure and print."""
    options = arguments()
    # Whoever is told to end ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.rounds:
        with all_ways(DEMO, DEMO_ID) as ways:
            measured = measure(ways, body_for(DEMO_ID, 1), options.rounds, options.pause_ms / 1e3, block=20)
            report_whole(f"demonstration model, 1 token, {options.rounds} rounds", measured)
    if options.large_rounds or options.streams:
        with all_ways(options.model.resolve(), LARGE_ID) as ways:
            large(ways, options)


def large(ways: Sequence[Way], options: argparse.Namespace) -> None:
    """What is asked of the large model."""
    pause_s, tokens = options.pause_ms / 1e3, options.tokens
    if options.large_rounds:
        measured = measure(ways, body_for(LARGE_ID, 1), options.large_rounds, pause_s, block=1)
        report_whole(f"half a billion, 1 token, {options.large_rounds} rounds", measured)
    if options.streams:
        measured = measure(ways, body_for(LARGE_ID, tokens, stream=True), options.streams, pause_s, block=1)
        report_streams(f"half a billion, streams of {tokens} tokens, {options.streams} rounds", measured, tokens)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=default_directory(), help="the large one's directory")
    parser.add_argument("--rounds", type=int, default=500, help="with the demonstration model; 0 for none")
    parser.add_argument("--large-rounds", type=int, default=50)
    parser.add_argument("--streams", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=32, help="in each stream")
    parser.add_argument("--pause-ms", type=float, default=2.0, help="before each request")
    options = parser.parse_args()
    if not (options.model / "genai_config.json").is_file():
        parser.error(f"there is no model in {options.model}; benchmarks/engine/half_billion/build.py makes one")
    return options


if __name__ == "__main__":
    main()
