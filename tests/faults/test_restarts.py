"""Many requests while the engine moves or dies again and again: each is answered or refused, clearly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from tests.faults.soak_restarts import restarts_of_our_service, restarts_of_the_gateways_service
from tests.support.doubles import running_double
from tests.support.processes import gateway_process
from tests.support.traffic import KINDS, Question, Storm, ask_once

MODEL = "phi-x-generic-cpu:2"


def echo(number: int) -> tuple[str, Question]:
    text = f"number {number} of many words that take their time"
    return KINDS[number % 3], Question(MODEL, f"echo: {text}", expected=text)


async def test_every_request_is_answered_or_refused_while_the_engine_moves_to_new_ports(tmp_path: Path) -> None:
    env = {
        "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never",
        "FOUNDRY_DEFAULT_MODEL": MODEL,
        "FASTAPI_FOUNDRY__FOUNDRY_AI__TIMEOUT_S": "10",
        "FASTAPI_FOUNDRY__FOUNDRY_AI__FIRST_BYTE_TIMEOUT_S": "10",
    }
    models = [f"{MODEL},alias=phi-x,state=loaded"]
    with (
        running_double("gen2", tmp_path, models=models, chunk_delay_s=0.01) as engine,
        gateway_process(tmp_path, arguments=["--port", "0"], env=env) as gateway,
    ):

        async def move(number: int) -> None:
            del number
            await asyncio.to_thread(engine.move)

        storm = Storm(echo, move, requests=1000, disturbances=20, at_once=16, deadline_s=15.0)
        limits = httpx2.Limits(max_connections=storm.at_once * 2)
        async with httpx2.AsyncClient(base_url=gateway.url, timeout=None, trust_env=False, limits=limits) as client:
            tally = await storm.over(client)
            after = await ask_once(client, *echo(1000), deadline_s=15.0)
    assert tally.problems == []
    assert after.what == "answered"
    assert len(tally.outcomes) == 1000
    # How many are hit depends on how busy the machine is; most must not be.
    assert tally.count("answered") > 500, tally.table()


async def test_every_request_is_answered_or_refused_while_our_own_service_is_restarted(tmp_path: Path) -> None:
    tally = await restarts_of_our_service(tmp_path, requests=60, restarts=2)
    assert tally.problems == []
    assert len(tally.outcomes) == 60
    # How many come while there is no service depends on how long it takes to start.
    assert tally.count("answered") > 20, tally.table()


async def test_every_request_is_answered_or_refused_while_the_gateways_service_is_killed(tmp_path: Path) -> None:
    tally = await restarts_of_the_gateways_service(tmp_path, requests=40, restarts=1, rest_s=0.0)
    assert tally.problems == []
    assert len(tally.outcomes) == 40
    # What was not being said yet is asked again of the next one.
    assert tally.count("answered") + tally.count("broken off") == 40, tally.table()
