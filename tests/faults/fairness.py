"""Three keys in the ratio 100 : 10 : 1 at one slow runner: how long the lightest one waits, live.

``python -m tests.faults.fairness [--requests N] [--service-ms MS] [--workers N]``; takes minutes, so it is no test of the
suite. The gateway is a process with room for one request at its engine, a double that takes its time. Everything is done
twice: by three keys, and with the two heavy ones as one client, which has the same requests. Prints the waits, and ends
with 1 if the lightest key's median wait is more than 1.5 times as long beside two others as beside one, or a request was
lost.

``tests/unit/services/test_admission_fairness.py`` has the same in simulated time, with other kinds of load.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest, KeysService
from fastapi_foundry.storage.database import open_database
from tests.support import engine_double
from tests.support.doubles.process import first_json_line, popen_supervised
from tests.support.gateway import gateway_settings
from tests.support.processes import gateway_process

__all__ = ["HEAVY", "LIGHT", "MIDDLE", "Load", "Waits", "busy_gateway", "of_one_other", "of_three"]

HEAVY: Final = "heavy"
MIDDLE: Final = "middle"
LIGHT: Final = "light"
RATIO: Final = {HEAVY: 100, MIDDLE: 10, LIGHT: 1}
MOST_TIMES: Final = 1.5
_MODEL: Final = "double:1"
_PATH: Final = "/v1/chat/completions"
_DEADLINE_S: Final = 60.0


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        requests: Of all keys together, in the ratio 100 : 10 : 1.
        service_s: How long the engine takes for each, in seconds.
        workers: Connections of the heavy key, and a tenth of them of the middle one; each has one request after the
            other. More than the queue takes are refused, and come back when they are told to.
        think_turns: How long the lightest key rests between two requests on average, in the time of one answer.
    """

    requests: int = 2000
    service_s: float = 0.025
    workers: int = 150
    think_turns: float = 15.0

    def share(self, key: str) -> int:
        """How many requests are that key's."""
        return round(self.requests * RATIO[key] / sum(RATIO.values()))


@dataclass
class Waits:
    """What became of the requests of one run.

    Attributes:
        queued_s: Seconds in the queue, as the gateway told, by whose request it was.
        answered_s: Seconds until the answer, likewise; those from the first refusal on, too.
        refused: How often 429 was answered, likewise.
        wrong: Answers that were neither.
    """

    queued_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def light_s(self) -> float:
        """The lightest key's median wait."""
        return statistics.median(self.queued_s[LIGHT])

    @property
    def answered(self) -> int:
        """Of all keys."""
        return sum(len(waits) for waits in self.queued_s.values())

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [name]
        for key in RATIO:
            waits = self.queued_s[key]
            cells.append(f"{len(waits)}, {1000 * statistics.median(waits):.0f} ms" if waits else "-")
        light = self.queued_s[LIGHT]
        cells += [f"{1000 * max(light):.0f} ms", f"{1000 * statistics.median(self.answered_s[LIGHT]):.0f} ms"]
        return "| " + " | ".join([*cells, str(sum(self.refused.values())), f"{self.seconds:.0f} s"]) + " |"


HEADER: Final = (
    "| | heavy: answered, median wait | middle | light | light, longest | light, median until the answer | refusals | "
    "took |\n" + "|---" * 8 + "|\n"
)


@dataclass(frozen=True)
class BusyGateway:
    """A gateway with one place at its engine, and the texts of the keys."""

    url: str
    keys: Mapping[str, str]


@asynccontextmanager
async def busy_gateway(home: Path, load: Load) -> AsyncIterator[BusyGateway]:
    """The gateway and its slow engine, each a process of its own."""
    keys = await _made_keys(home)
    command = [sys.executable, engine_double.__file__, "--supervised", "--delay", str(load.service_s)]
    with popen_supervised(command, home / "engine") as engine:
        env = {
            "FOUNDRY_BASE_URL": str(first_json_line(engine, home / "engine")["url"]),
            "FOUNDRY_DEFAULT_MODEL": _MODEL,
            "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never",
            "FASTAPI_FOUNDRY__FOUNDRY_AI__MAX_ACTIVE": "1",
            "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false",
        }
        with gateway_process(home, arguments=["--port", "0"], env=env) as gateway:
            yield BusyGateway(gateway.url, keys)


async def _made_keys(home: Path) -> dict[str, str]:
    """The texts of new keys, made as the command line makes them: straight in the database."""
    database = await open_database(gateway_settings(home))
    try:
        keys = KeysService(KeyStore(database))
        wanted = {name: KeyRequest(name, frozenset({Scope.CHAT})) for name in RATIO}
        return {name: (await keys.create(request, actor="tests")).text for name, request in wanted.items()}
    finally:
        await database.aclose()


async def of_three(gateway: BusyGateway, load: Load, *, seed: int = 1) -> Waits:
    """Three keys."""
    return await _run(gateway, load, {key: key for key in RATIO}, seed)


async def of_one_other(gateway: BusyGateway, load: Load, *, seed: int = 1) -> Waits:
    """The same requests, of two keys: the heavy one has those of the middle one, too."""
    return await _run(gateway, load, {HEAVY: HEAVY, MIDDLE: HEAVY, LIGHT: LIGHT}, seed)


async def _run(gateway: BusyGateway, load: Load, key_of: Mapping[str, str], seed: int) -> Waits:
    waits, rand = Waits(), random.Random(seed)
    workers = {HEAVY: load.workers, MIDDLE: max(1, load.workers // 10), LIGHT: 1}
    limits = httpx2.Limits(max_connections=sum(workers.values()), max_keepalive_connections=sum(workers.values()))
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=_DEADLINE_S, trust_env=False, limits=limits) as client:
        began = time.monotonic()

        async def work(name: str, left: Iterator[int]) -> None:
            headers = {"authorization": f"Bearer {gateway.keys[key_of[name]]}"}
            for _ in left:
                if name == LIGHT:
                    await asyncio.sleep(rand.expovariate(1 / (load.think_turns * load.service_s)))
                await _answered(client, name, headers, waits)

        tasks = []
        for name, count in workers.items():
            left = iter(range(load.share(name)))
            tasks += [work(name, left) for _ in range(count)]
        await asyncio.gather(*tasks)
        waits.seconds = time.monotonic() - began
    return waits


async def _answered(client: httpx2.AsyncClient, name: str, headers: Mapping[str, str], waits: Waits) -> None:
    """One request until it is answered; a refusal is kept to for as long as it says."""
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    began = time.monotonic()
    while True:
        answer = await client.post(_PATH, json=body, headers=dict(headers))
        if answer.status_code != 429:
            break
        waits.refused[name] += 1
        await asyncio.sleep(int(answer.headers["retry-after"]))
    if answer.status_code != 200:
        waits.wrong[f"{name}: {answer.status_code} {answer.text[:200]}"] += 1
        return
    waits.answered_s[name].append(time.monotonic() - began)
    waits.queued_s[name].append(int(answer.headers.get("x-foundry-queue-ms", 0)) / 1000)


def problems(waits: Waits, load: Load) -> list[str]:
    """What must not be in one run, in words."""
    found = [f"{what} ({times} times)" for what, times in waits.wrong.items()]
    wanted = sum(load.share(key) for key in RATIO)
    if waits.answered != wanted:
        found.append(f"{waits.answered} answers to {wanted} requests")
    if waits.seconds < 0.95 * wanted * load.service_s:
        found.append(f"done in {waits.seconds:.1f} s: more than one request at a time was with the engine")
    return found


async def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fairness")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--service-ms", type=float, default=25.0, help="what the engine takes for each")
    parser.add_argument("--workers", type=int, default=150, help="connections of the heavy key")
    given = parser.parse_args()
    failed = False
    for name, think_turns in (("while all three ask", 15.0), ("all the time", 100.0)):
        load = Load(given.requests, given.service_ms / 1000, given.workers, think_turns)
        directory = tempfile.TemporaryDirectory(prefix="fairness-")
        async with busy_gateway(Path(directory.name), load) as gateway:
            sys.stdout.write(f"\nThe lightest key asks {name}.\n\n{HEADER}")
            runs = []
            for title, run in (("three keys", of_three), ("beside one other client", of_one_other)):
                runs.append(await run(gateway, load))
                sys.stdout.write(f"{runs[-1].row(title)}\n")
                sys.stdout.flush()
        directory.cleanup()
        times = runs[0].light_s / max(0.001, runs[1].light_s)
        found = [problem for run in runs for problem in problems(run, load)]
        if times > MOST_TIMES:
            found.append(f"the lightest key waited {times:.2f} times as long beside two others as beside one")
        sys.stdout.write(f"\n{times:.2f} times as long beside two others as beside one.\n")
        sys.stdout.writelines(f"MUST NOT BE: {problem}\n" for problem in found)
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
