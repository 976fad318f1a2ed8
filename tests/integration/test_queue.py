"""Requests wait for a busy model in a queue that is bounded, fair, open about itself, and left by whoever leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.admission import LaneReport
from fastapi_foundry.services.keys import KeyRequest
from tests.support.engine_double import EngineDouble
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

PATH = "/v1/chat/completions"
PLAIN = {"model": "double:1", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def double() -> AsyncIterator[EngineDouble]:
    async with EngineDouble(delay_s=0.2) as made:
        yield made


def overrides(double: EngineDouble, **more: Any) -> dict[str, Any]:
    return {
        "foundry_ai__base_url": double.url,
        "foundry_ai__default_model": "double:1",
        "foundry_ai__max_active": 1,
        "queue__notice_s": 0.1,
        **more,
    }


@pytest.fixture
async def gateway(double: EngineDouble, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, **overrides(double, queue__max_waiting=8)) as running:
        await running.services.engine.wait_ready(5)
        yield running


def lane(gateway: RunningGateway) -> LaneReport:
    (report,) = gateway.services.admission.snapshot()
    return report


def waiting(gateway: RunningGateway) -> int:
    return sum(sum(report.waiting.values()) for report in gateway.services.admission.snapshot())


def asked(double: EngineDouble) -> int:
    return sum(path == PATH for _, path, _, _ in double.seen)


async def test_one_at_a_time_and_the_wait_is_told(gateway: RunningGateway, double: EngineDouble) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(*(gateway.client.post(PATH, json=PLAIN) for _ in range(3)))
    assert time.monotonic() - began >= 0.6
    assert [answer.status_code for answer in answers] == [200] * 3
    waits = sorted(int(answer.headers.get("x-foundry-queue-ms", 0)) for answer in answers)
    assert waits[0] == 0
    assert 150 < waits[1] < 400
    assert 350 < waits[2] < 700
    assert lane(gateway).active == 0


@pytest.mark.parametrize(("state", "comment"), [("cached", ": loading"), ("loaded", ": prefill")])
async def test_a_waiting_stream_says_its_place_then_what_it_waits_for(
    gateway: RunningGateway, double: EngineDouble, state: str, comment: str
) -> None:
    double.models[0]["state"] = state
    first, second = (asyncio.create_task(gateway.client.post(PATH, json=PLAIN | {"stream": True})) for _ in range(2))
    await first
    comments = [line for line in (await second).text.splitlines() if line.startswith(":")]
    assert comments[0].startswith(": queued position=1")
    assert comments[-1] == comment


async def test_who_comes_too_many_gets_429_with_the_time_to_wait(gateway: RunningGateway) -> None:
    answers = await asyncio.gather(*(gateway.client.post(PATH, json=PLAIN) for _ in range(8)))
    refused = [answer for answer in answers if answer.status_code == 429]
    # One with the engine, four of eight places for one client, whatever is left for others.
    assert len(refused) == 3
    assert refused[0].json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused[0].headers["retry-after"]) <= 60


async def test_a_deadline_ends_the_wait(gateway: RunningGateway, double: EngineDouble) -> None:
    double.delay_s = 1.0
    running = asyncio.create_task(gateway.client.post(PATH, json=PLAIN))
    await eventually(lambda: asked(double) == 1)
    answer = await gateway.client.post(PATH, json=PLAIN, headers={"x-foundry-max-wait": "0.1"})
    assert answer.status_code == 504
    native = await gateway.client.post(
        "/api/v1/generate", json={"prompt": "Hello"}, headers={"x-foundry-max-wait": "0.1"}
    )
    assert native.status_code == 408
    wrong = await gateway.client.post(PATH, json=PLAIN, headers={"x-foundry-max-wait": "soon"})
    assert wrong.status_code == 400
    assert (await running).status_code == 200
    assert asked(double) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_waiting_leaves_the_queue(
    gateway: RunningGateway, double: EngineDouble, stream: bool
) -> None:
    double.delay_s = 0.5
    running = asyncio.create_task(gateway.client.post(PATH, json=PLAIN))
    await eventually(lambda: asked(double) == 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(PLAIN | {"stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await eventually(lambda: waiting(gateway) == 1)
    writer.transport.abort()
    await eventually(lambda: waiting(gateway) == 0)
    del reader
    assert (await running).status_code == 200
    assert asked(double) == 1


async def test_low_priority_goes_last(gateway: RunningGateway, double: EngineDouble) -> None:
    order: list[str] = []

    async def ask(name: str, **more: Any) -> None:
        answer = await gateway.client.post(PATH, json=PLAIN | more.pop("body", {}), **more)
        assert answer.status_code == 200, answer.text
        order.append(name)

    running = asyncio.create_task(ask("first"))
    await eventually(lambda: asked(double) == 1)
    others = [asyncio.create_task(ask("low", headers={"x-foundry-priority": "low"}))]
    await eventually(lambda: waiting(gateway) == 1)
    others.append(asyncio.create_task(ask("flex", body={"service_tier": "flex"})))
    await eventually(lambda: waiting(gateway) == 2)
    others.append(asyncio.create_task(ask("normal")))
    await eventually(lambda: waiting(gateway) == 3)
    others.append(asyncio.create_task(ask("high", headers={"x-foundry-priority": "high"})))
    await asyncio.gather(running, *others)
    assert order == ["first", "high", "normal", "low", "flex"]


async def test_a_key_with_one_request_does_not_wait_for_all_of_another(double: EngineDouble, tmp_path: Path) -> None:
    double.delay_s = 0.05
    async with running_gateway(tmp_path, **overrides(double, security__require_key="always")) as gateway:
        await gateway.services.engine.wait_ready(5)
        heavy, light = [
            {
                "authorization": f"Bearer {(await gateway.services.keys.create(KeyRequest(name, frozenset({Scope.CHAT})), actor='test')).text}"
            }
            for name in ("heavy", "light")
        ]
        flood = [asyncio.create_task(gateway.client.post(PATH, json=PLAIN, headers=heavy)) for _ in range(40)]
        await eventually(lambda: waiting(gateway) >= 30)
        answer = await gateway.client.post(PATH, json=PLAIN, headers=light)
        assert answer.status_code == 200
        assert int(answer.headers["x-foundry-queue-ms"]) < 250
        assert sum(task.done() for task in flood) < 10
        await asyncio.gather(*flood)


async def test_an_alias_stands_in_the_queue_of_its_model(double: EngineDouble, tmp_path: Path) -> None:
    aliases = {"mine": "double:1"}
    async with running_gateway(tmp_path, **overrides(double, model_aliases=aliases)) as gateway:
        await gateway.services.engine.wait_ready(5)
        await asyncio.gather(
            *(gateway.client.post(PATH, json=PLAIN | {"model": name}) for name in ("mine", "double:1"))
        )
        assert [report.lane for report in gateway.services.admission.snapshot()] == ["foundry::double:1"]
