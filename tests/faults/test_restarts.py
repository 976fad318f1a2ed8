"""A thousand requests while the engine moves to another port twenty times: each is answered or refused, clearly."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.support.doubles import running_double
from tests.support.processes import gateway_process

REQUESTS = 1000
MOVES = 20
AT_ONCE = 16
DEADLINE_S = 15.0
MODEL = "phi-x-generic-cpu:2"


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
        limits = httpx2.Limits(max_connections=AT_ONCE * 2)
        async with httpx2.AsyncClient(
            base_url=gateway.url, timeout=DEADLINE_S, trust_env=False, limits=limits
        ) as client:
            outcomes: collections.Counter[str] = collections.Counter()
            numbers = iter(range(REQUESTS))

            async def work() -> None:
                for number in numbers:
                    began = time.monotonic()
                    outcomes[await ask(client, number)] += 1
                    assert time.monotonic() - began < DEADLINE_S

            async def move() -> None:
                for done in range(1, MOVES + 1):
                    while outcomes.total() < done * REQUESTS // (MOVES + 2):
                        await asyncio.sleep(0.005)
                    await asyncio.to_thread(engine.move)

            await asyncio.gather(move(), *(work() for _ in range(AT_ONCE)))
            assert await ask(client, REQUESTS) in {"answer", "stream"}
    assert outcomes.total() == REQUESTS
    assert set(outcomes) <= {"answer", "stream", "refused", "broken stream"}
    # How many are hit depends on how busy the machine is; most must not be.
    assert outcomes["answer"] + outcomes["stream"] > REQUESTS * 0.5, outcomes


async def ask(client: httpx2.AsyncClient, number: int) -> str:
    """What became of one request; everything that must not be is an assertion."""
    text = f"echo: number {number} of many words that take their time"
    if number % 4 == 3:
        response = await client.post("/api/v1/generate", json={"prompt": text})
        return whole(response, text, response.json().get("content"), {"error", "detail", "status_code", "code"})
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    if number % 4 == 2:
        return await streamed(client, body | {"stream": True}, text)
    response = await client.post("/v1/chat/completions", json=body)
    answer = response.json()
    content = answer["choices"][0]["message"]["content"] if response.status_code == 200 else None
    return whole(response, text, content, {"error"})


def whole(response: httpx2.Response, text: str, content: str | None, envelope: set[str]) -> str:
    if response.status_code == 200:
        assert content == text.removeprefix("echo: ")
        return "answer"
    assert response.status_code in {502, 503}, response.text
    assert envelope <= response.json().keys()
    return "refused"


async def streamed(client: httpx2.AsyncClient, body: dict[str, Any], text: str) -> str:
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        raw = (await response.aread()).decode()
    if response.status_code != 200:
        assert response.status_code in {502, 503}, raw
        assert json.loads(raw)["error"]["message"]
        return "refused"
    events = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    last = events[-1]
    if last == "[DONE]":
        assert events.count("[DONE]") == 1
        pieces = [json.loads(event)["choices"] for event in events[:-1]]
        content = "".join(choices[0]["delta"].get("content") or "" for choices in pieces if choices)
        assert content == text.removeprefix("echo: ")
        return "stream"
    assert json.loads(last)["error"]["message"], raw
    return "broken stream"
