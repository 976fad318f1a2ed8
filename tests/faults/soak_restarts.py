"""A thousand requests while our own Foundry service, with a real engine, is killed and comes back twenty times.

``python -m tests.faults.soak_restarts [alone|supervised|all] [--requests N] [--restarts N] [--rest-s S]``; takes
minutes, so it is no test of the suite. Prints what became of the requests, and ends with 1 if anything was that must
not be.

- ``alone``: the service runs on its own; half of the times it is killed, half of the times told to end, and a new one
  is started on another port.
- ``supervised``: the gateway has started the service, which is killed; the gateway has to start the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from tests.support.http import ask
from tests.support.models import make_endless_model
from tests.support.processes import (
    ProductProcess,
    children_of,
    gateway_process,
    product_environment,
    service_process,
)
from tests.support.traffic import ANSWERED, CHAT, KINDS, Question, Storm, Tally, ask_once
from tests.support.waiting import eventually

__all__ = ["restarts_of_our_service", "restarts_of_the_gateways_service"]

AT_ONCE: Final = 8
DEADLINE_S: Final = 30.0
# A client that is told that the service is away waits so long before it goes on.
PAUSE_S: Final = 1.0
# Five starts within a minute are a crash loop, in which the gateway takes its time.
REST_S: Final = 15.0
GONE_WITHIN_S: Final = 5.0
# Connections of the clients and to the engine, which a gateway may keep.
MOST_FURTHER_FILES: Final = AT_ONCE * 3
DEMO: Final = "foundry-demo:1"
ENDLESS: Final = "endless:1"
ASKED: Final = (
    Question(DEMO, "Say hello and count to five.", 80),
    Question(ENDLESS, "Tell me about the sea.", 160),
    Question(DEMO, "Tell me about the sea.", 40),
    Question(DEMO, "Write a long list of fruits.", 12, usage=True),
)
_PORTS: Final = 7
_PATIENCE: Final = {
    "FASTAPI_FOUNDRY__FOUNDRY_AI__TIMEOUT_S": "12",
    "FASTAPI_FOUNDRY__FOUNDRY_AI__FIRST_BYTE_TIMEOUT_S": "12",
    "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START_TIMEOUT_S": "12",
}


async def restarts_of_our_service(directory: Path, *, requests: int, restarts: int) -> Tally:
    """The gateway in front of a service that runs on its own, and that comes back on another port each time."""
    home = directory / "home"
    first_port = int(product_environment(home)["FOUNDRY_PORT"])
    ports = itertools.cycle(range(first_port, first_port + _PORTS))
    env = _PATIENCE | {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never"}
    family: list[psutil.Process] = []
    with ExitStack() as running:

        def started() -> ProductProcess:
            return running.enter_context(service_process(home, arguments=["--port", str(next(ports))]))

        services = [started()]
        _register_endless(services[0].url, directory / "endless")
        gateway = running.enter_context(gateway_process(home, arguments=["--port", "0"], env=env))

        def restart(number: int) -> None:
            family.extend(children_of(services[-1].pid))
            if number % 2:
                services[-1].stop()
            else:
                services[-1].kill()
            services.append(started())
            assert services[-1].url != services[-2].url

        tally = await _storm(gateway, lambda number: asyncio.to_thread(restart, number), requests, restarts)
        await _note_leftovers(tally, family)
    return tally


async def restarts_of_the_gateways_service(
    directory: Path, *, requests: int, restarts: int, rest_s: float = REST_S
) -> Tally:
    """The gateway with a service that it started itself and that is killed."""
    killed: list[psutil.Process] = []
    family: list[psutil.Process] = []
    with gateway_process(directory / "home", arguments=["--port", "0"], env=_PATIENCE) as gateway:
        _register_endless(str((await _ready_engine(gateway))["url"]), directory / "endless")

        async def kill(number: int) -> None:
            del number
            service = psutil.Process((await _ready_engine(gateway, {each.pid for each in killed}))["pid"])
            family.extend(children_of(service.pid))
            killed.append(service)
            service.kill()

        tally = await _storm(gateway, kill, requests, restarts, rest_s)
        started = (await _ready_engine(gateway, {each.pid for each in killed}))["restarts"]
        if started != restarts:
            tally.further.append(f"the gateway has started the service again {started} times")
        await _note_leftovers(tally, [*killed, *family])
    return tally


async def _storm(
    gateway: ProductProcess, disturb: Callable[[int], Awaitable[None]], requests: int, restarts: int, rest_s: float = 0
) -> Tally:
    limits = httpx2.Limits(max_connections=AT_ONCE * 2)
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=None, trust_env=False, limits=limits) as client:
        # The engine decodes greedily, so what it says now is what it has to say later.
        known = [await ask_once(client, CHAT, question, deadline_s=DEADLINE_S) for question in ASKED]
        assert all(outcome.what == ANSWERED for outcome in known), known
        asked = [replace(question, expected=outcome.text) for question, outcome in zip(ASKED, known, strict=True)]

        def question(number: int) -> tuple[str, Question]:
            return KINDS[number % len(KINDS)], asked[number // len(KINDS) % len(asked)]

        storm = Storm(question, disturb, requests, restarts, AT_ONCE, DEADLINE_S, rest_s, PAUSE_S)
        process = psutil.Process(gateway.pid)
        open_before = process.num_fds()
        tally = await storm.over(client)
        for kind in KINDS:
            after = await ask_once(client, kind, asked[0], deadline_s=DEADLINE_S)
            if after.what != ANSWERED:
                tally.further.append(f"after all of it: {after}")
        if (open_after := process.num_fds()) > open_before + MOST_FURTHER_FILES:
            tally.further.append(f"the gateway had {open_before} files open and has {open_after}")
    return tally


async def _ready_engine(gateway: ProductProcess, dead: Collection[int] = ()) -> dict[str, Any]:
    """What the gateway says of its engine, once it is ready and none of the dead processes."""

    def ready() -> dict[str, Any] | None:
        status = ask(gateway.url, "/api/v1/foundry/status").json
        return dict(status) if status["state"] in {"ready", "loading"} and status["pid"] not in dead else None

    return await eventually(lambda: asyncio.to_thread(ready), timeout_s=60) or {}


def _register_endless(service_url: str, directory: Path) -> None:
    answer = ask(service_url, "/models/register", {"path": str(make_endless_model(directory)), "name": ENDLESS})
    assert answer.status == 200, answer.body


async def _note_leftovers(tally: Tally, family: list[psutil.Process]) -> None:
    """Runners of a service that is gone have to be gone too."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := [each for each in family if each.is_running()]) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    tally.further += [f"still there {GONE_WITHIN_S:g} s later: {process}" for process in left]


async def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak_restarts")
    parser.add_argument("which", nargs="?", default="all", choices=["alone", "supervised", "all"])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--rest-s", type=float, default=REST_S, help="least time between two kills, supervised")
    given = parser.parse_args()
    numbers = {"requests": given.requests, "restarts": given.restarts}
    failed = False
    for which in ["alone", "supervised"] if given.which == "all" else [given.which]:
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            began = time.monotonic()
            if which == "alone":
                tally = await restarts_of_our_service(Path(directory), **numbers)
            else:
                tally = await restarts_of_the_gateways_service(Path(directory), **numbers, rest_s=given.rest_s)
        sys.stdout.write(f"\n{which}: {len(tally.outcomes)} requests, {given.restarts} restarts, ")
        sys.stdout.write(f"{time.monotonic() - began:.0f} s\n\n{tally.table()}\n\n")
        recoveries = tally.recoveries()
        sys.stdout.write(
            f"The next answer after {statistics.median(recoveries):.2f} s, {max(recoveries):.2f} s at most.\n"
        )
        sys.stdout.writelines(f"MUST NOT BE: {problem}\n" for problem in tally.problems)
        failed = failed or bool(tally.problems) or len(tally.outcomes) != given.requests
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
