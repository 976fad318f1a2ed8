"""Clients that leave in every phase of a request, hundreds of times: the engine stops, and nothing is left behind.

``python -m tests.faults.disconnects [process|inside|all] [--count N] [--phase NAME ...] [--at-once N]``; takes many
minutes, so it is no test of the suite. Prints what was decoded for clients that had left, and ends with 1 if it was too
much or something has stayed.

- ``process``: the gateway is a process of its own, as it is in use.
- ``inside``: the gateway is in this process, so that its tasks and places can be counted too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from tests.faults.leaving import Leaver, Scene
from tests.faults.watched import DECODING, PROMPT, WAITING, Left, watched_service
from tests.support.gateway import running_gateway
from tests.support.http import ask
from tests.support.models import make_endless_model
from tests.support.processes import gateway_process

__all__ = ["PHASES", "Report", "disconnects", "scene_of_processes", "scene_within"]

LOADING: Final = "loading"
CROWD: Final = "crowd"
PHASES: Final = (WAITING, LOADING, PROMPT, DECODING, CROWD)
KINDS: Final = ("stream", "whole")
MOST_TOKENS: Final = 5
# From the client's close to the runner's cancel there are three processes, on a machine that does other things too.
MOST_HEARD_MS: Final = 1000.0
PLACES: Final = 2
_MOST_TRIES: Final = 3
_NO_LIMIT: Final = httpx2.Limits(max_connections=64, max_keepalive_connections=0)


@dataclass
class Report:
    """What became of the clients of one phase.

    Attributes:
        left: One for each client of which is known what the engine did for it.
        tries: Clients that left at another moment than was meant, besides.
        problems: What must not be.
    """

    phase: str
    kind: str
    left: list[Left] = field(default_factory=list)
    clients: int = 0
    tries: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def note(self, left: Left) -> None:
        """A client has left; whatever it left behind in the runner is a problem."""
        self.clients += 1
        self.left.append(left)
        if left.decoded > MOST_TOKENS:
            self.problems.append(f"{left.decoded} tokens after the cancel")
        if left.phase == WAITING and left.later:
            self.problems.append(f"{left.later} tokens for a client that had left before its request was begun")
        if left.reached is not None and left.reached.cancelled is None and left.later:
            self.problems.append("the runner was never told to stop")
        if (left.heard_ms or 0) > MOST_HEARD_MS:
            self.problems.append(f"the runner heard of it after {left.heard_ms:.0f} ms")

    def row(self) -> str:
        """A line of the table."""
        told = [] if self.phase == CROWD else self.left
        heard = [each.heard_ms for each in told if each.heard_ms is not None]
        later, after = [each.later for each in told], [each.after_cancel for each in self.left]
        cells = [self.phase, self.kind, str(self.clients), str(sum(each.reached is not None for each in self.left))]
        cells += [f"{statistics.median(heard):.1f} ms", f"{max(heard):.1f} ms"] if heard else ["-", "-"]
        decoded = [each.decoded for each in self.left]
        cells += [_spread(later), _spread(after), _spread(decoded), f"{self.seconds:.0f} s"]
        return "| " + " | ".join(cells) + " |"


def _spread(counts: Sequence[int]) -> str:
    return f"{statistics.median(counts):g}, {max(counts)}" if counts else "-"


HEADER: Final = (
    "| phase | answer | clients | reached a runner | told after (median) | (longest) | tokens counted after the client "
    "left (median, most) | counted after the runner was told | decoded after that | took |\n" + "|---" * 10 + "|\n"
)


async def disconnects(
    scene: Scene, *, count: int, at_once: int = 8, phases: Sequence[str] = PHASES
) -> AsyncIterator[Report]:
    """Have ``count`` clients leave in each phase, for each kind of answer; one report for each."""
    leaver = Leaver(scene)
    await leaver.learn()
    await _crowd(leaver, Report(CROWD, ""), count=at_once * 2, at_once=at_once, stream=True)
    for phase in phases:
        for kind in KINDS:
            report = Report(phase, kind)
            began = time.monotonic()
            before = await _before(scene)
            await _PHASES[phase](leaver, report, count=count, at_once=at_once, stream=kind == "stream")
            report.problems += await _after(scene, before)
            report.seconds = time.monotonic() - began
            yield report


async def _before(scene: Scene) -> dict[str, int]:
    await scene.rest()
    await asyncio.sleep(0.1)
    return await scene.footprint()


async def _after(scene: Scene, before: dict[str, int]) -> list[str]:
    """What is left behind, in words; a place that is lost is one where a further request cannot be answered."""
    await scene.rest()
    behind = await scene.left_behind(before)
    began = time.monotonic()
    await asyncio.gather(*(scene.say_something("foundry-demo:1") for _ in range(4 * PLACES)))
    if (took_s := time.monotonic() - began) > 5.0:
        behind.append(f"{4 * PLACES} short requests took {took_s:.1f} s afterwards")
    return behind


async def _waiting(leaver: Leaver, report: Report, *, count: int, at_once: int, stream: bool) -> None:
    """All places are taken and nothing moves, so whatever is decoded later is decoded for somebody who has left."""
    scene = leaver.scene
    position, cancelled = scene.record.size(), await _cancelled(scene)
    async with leaver.engine_stands_still(PLACES):
        numbers = iter(range(count))

        async def work() -> None:
            for number in numbers:
                await leaver.in_the_queue(number, stream=stream)
                report.clients += 1

        await asyncio.gather(*(work() for _ in range(at_once)))
        # The last ones may not have been noticed yet.
        await asyncio.sleep(0.3)
        if scene.inside is not None:
            (waits,) = [
                sum(each.waiting.values()) for each in scene.inside.services.admission.snapshot() if each.active
            ]
            if waits:
                report.problems.append(f"{waits} still wait although everybody has left")
    await scene.rest()
    reached = scene.record.since(position)
    # Those that hold the places were cancelled in the midst of their answers.
    if len(reached) > PLACES:
        report.problems.append(f"{len(reached) - PLACES} requests of clients that had left reached the runner")
    if (told := await _cancelled(scene) - cancelled) != PLACES:
        report.problems.append(f"the service counts {told} cancelled requests instead of {PLACES}")


async def _cancelled(scene: Scene) -> int:
    return sum(row["cancelled"] for row in await scene.runners())


async def _one_by_one(
    leave: Callable[..., Awaitable[Left]], phase: str, report: Report, *, count: int, stream: bool
) -> None:
    """Clients one after the other, until ``count`` have left in the phase that was meant."""
    number = 0
    for _ in range(_MOST_TRIES * count):
        left = await leave(number, stream=stream)
        if left.phase != phase:
            report.tries += 1
            continue
        number += 1
        report.note(left)
        if number == count:
            return
    report.problems.append(f"{number} clients left in time, of {_MOST_TRIES * count}")


async def _loading(leaver: Leaver, report: Report, *, count: int, at_once: int, stream: bool) -> None:
    del at_once
    await _one_by_one(leaver.while_it_loads, WAITING, report, count=count, stream=stream)


async def _prompt(leaver: Leaver, report: Report, *, count: int, at_once: int, stream: bool) -> None:
    del at_once
    await _one_by_one(leaver.in_the_prompt, PROMPT, report, count=count, stream=stream)


async def _decoding(leaver: Leaver, report: Report, *, count: int, at_once: int, stream: bool) -> None:
    del at_once
    await _one_by_one(leaver.while_it_decodes, DECODING, report, count=count, stream=stream)


async def _crowd(leaver: Leaver, report: Report, *, count: int, at_once: int, stream: bool) -> None:
    """Several at a time, so that it is known of none when it left, only when its runner heard of it."""
    scene = leaver.scene
    position = scene.record.size()
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await leaver.at_any_time(number, stream=stream)
            report.clients += 1

    await asyncio.gather(*(work() for _ in range(at_once)))
    await scene.rest()
    for reached in scene.record.since(position):
        if reached.cancelled is None:
            report.problems.append("a runner was never told to stop")
        else:
            left = Left(reached.cancelled, reached=reached)
            report.left.append(left)
            if left.decoded > MOST_TOKENS:
                report.problems.append(f"{left.decoded} tokens after the cancel")


_PHASES: Final = {WAITING: _waiting, LOADING: _loading, PROMPT: _prompt, DECODING: _decoding, CROWD: _crowd}


@asynccontextmanager
async def scene_of_processes(directory: Path, *, words: int = 780) -> AsyncIterator[Scene]:
    """Gateway and service as processes of their own."""
    home = directory / "home"
    with watched_service(home) as (service, record):
        _register_endless(service.url, directory / "endless")
        env = {
            "FOUNDRY_BASE_URL": service.url,
            "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never",
            "FASTAPI_FOUNDRY__FOUNDRY_AI__MAX_ACTIVE": str(PLACES),
            "FASTAPI_FOUNDRY__QUEUE__NOTICE_S": "0.05",
        }
        with gateway_process(home, arguments=["--port", "0"], env=env) as gateway:
            async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=_NO_LIMIT) as client:
                processes = psutil.Process(gateway.pid), psutil.Process(service.pid)
                yield Scene(gateway.url, service.url, record, *processes, client, words=words)


@asynccontextmanager
async def scene_within(directory: Path, *, words: int = 780) -> AsyncIterator[Scene]:
    """The gateway in this process, the service one of its own."""
    with watched_service(directory / "home") as (service, record):
        _register_endless(service.url, directory / "endless")
        overrides: dict[str, Any] = {
            "foundry_ai__base_url": service.url,
            "foundry_ai__default_model": "foundry-demo:1",
            "foundry_ai__max_active": PLACES,
            "queue__notice_s": 0.05,
        }
        async with running_gateway(directory / "gateway", **overrides) as gateway:
            await gateway.services.engine.wait_ready(10)
            async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=_NO_LIMIT) as client:
                processes = psutil.Process(os.getpid()), psutil.Process(service.pid)
                yield Scene(gateway.url, service.url, record, *processes, client, gateway, words=words)


def _register_endless(service_url: str, directory: Path) -> None:
    answer = ask(service_url, "/models/register", {"path": str(make_endless_model(directory)), "name": "endless:1"})
    assert answer.status == 200, answer.body


async def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.disconnects")
    parser.add_argument("which", nargs="?", default="all", choices=["process", "inside", "all"])
    parser.add_argument("--count", type=int, default=200, help="clients for each phase and kind of answer")
    parser.add_argument("--at-once", type=int, default=8, help="where several leave at a time")
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this one; may be given several times")
    given = parser.parse_args()
    scenes = {"process": scene_of_processes, "inside": scene_within}
    failed = False
    for which in scenes if given.which == "all" else [given.which]:
        with tempfile.TemporaryDirectory(prefix="disconnects-") as directory:
            async with scenes[which](Path(directory)) as scene:
                sys.stdout.write(f"\n{which}\n\n{HEADER}")
                async for report in disconnects(
                    scene, count=given.count, at_once=given.at_once, phases=given.phase or PHASES
                ):
                    sys.stdout.write(f"{report.row()}\n")
                    problems = Counter(report.problems)
                    sys.stdout.writelines(f"MUST NOT BE: {what} ({times} times)\n" for what, times in problems.items())
                    sys.stdout.flush()
                    failed = failed or bool(problems)
                if scene.inside is not None:
                    sys.stdout.write(f"\nOn the express way: {scene.inside.services.express.taken} requests.\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
