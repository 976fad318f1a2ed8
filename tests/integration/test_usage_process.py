"""Limits and the record of use with real gateway processes: across restarts, kills and several gateways."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.support.cli import cli_in_a_pipe
from tests.support.engine_double import EngineDouble
from tests.support.processes import ProductProcess, gateway_process
from tests.support.redis import redis_server
from tests.support.waiting import eventually

CHAT = {"model": "double:1", "messages": [{"role": "user", "content": "12345678"}]}  # two tokens, as we estimate
WORDS = tuple("abcdefgh")


@pytest.fixture
async def engine() -> AsyncIterator[EngineDouble]:
    async with EngineDouble(words=WORDS) as double:
        yield double


class Gateways:
    """Gateways in front of one engine, each with a client; ended with the test."""

    def __init__(self, engine: EngineDouble) -> None:
        self._engine = engine
        self._processes = ExitStack()
        self._clients = AsyncExitStack()

    async def start(self, home: Path, **settings: str) -> tuple[ProductProcess, httpx2.AsyncClient]:
        env = {"FOUNDRY_BASE_URL": self._engine.url, "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false"}
        env |= {f"FASTAPI_FOUNDRY__{name.upper()}": value for name, value in settings.items()}
        starting = gateway_process(home, arguments=["--port", "0"], env=env)
        process = await asyncio.to_thread(self._processes.enter_context, starting)
        client = httpx2.AsyncClient(base_url=process.url, timeout=20, trust_env=False)
        await self._clients.enter_async_context(client)
        return process, client

    async def aclose(self) -> None:
        await self._clients.aclose()
        await asyncio.to_thread(self._processes.close)


@pytest.fixture
async def gateways(engine: EngineDouble) -> AsyncIterator[Gateways]:
    started = Gateways(engine)
    yield started
    await started.aclose()


async def new_key(client: httpx2.AsyncClient, **limits: int) -> dict[str, str]:
    body = {"name": "guest", "scopes": ["chat"], "limits": limits}
    made = await client.post("/api/v1/keys", json=body)
    assert made.status_code == 201, made.text
    return {"authorization": f"Bearer {made.json()['key']}"}


async def chat(client: httpx2.AsyncClient, headers: dict[str, str] | None = None, **extra: Any) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json={**CHAT, **extra}, headers=headers)


async def usage(home: Path, *arguments: str) -> Any:
    done = await asyncio.to_thread(cli_in_a_pipe, home, "usage", "--json", *arguments)
    assert done.code == 0, done.out
    return done.json


async def test_what_was_used_a_second_before_a_kill_is_in_the_record_hung_up_streams_too(
    gateways: Gateways, engine: EngineDouble, tmp_path: Path
) -> None:
    process, client = await gateways.start(tmp_path)
    headers = await new_key(client)
    for _ in range(20):
        assert (await chat(client, headers, stream=True)).status_code == 200
    engine.words, engine.delay_s = tuple("abcdefghijklmnopqrstuvwxyz"), 0.02
    async with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers) as answer:
        async for _ in answer.aiter_lines():
            break
    await eventually(lambda: engine.left_early == 1)
    await asyncio.sleep(1.0)
    os.kill(process.pid, signal.SIGKILL)
    process.popen.wait(10)
    total = (await usage(tmp_path))["total"]
    assert (total["requests"], total["failures"], total["prompt_tokens"]) == (21, 0, 42)
    assert 160 < total["completion_tokens"] < 186


async def test_a_budget_outlives_the_process_and_ends_a_stream_in_the_middle(
    gateways: Gateways, engine: EngineDouble, tmp_path: Path
) -> None:
    process, client = await gateways.start(tmp_path)
    headers = await new_key(client, tokens_per_day=30)
    for _ in range(2):
        assert (await chat(client, headers, stream=True)).text.endswith("data: [DONE]\n\n")  # ten tokens each
    await asyncio.to_thread(process.stop)

    _, client = await gateways.start(tmp_path)
    engine.words, engine.delay_s = tuple("abcdefghijklmnopqrstuvwxyz"), 0.01
    cut = await chat(client, headers, stream=True)
    assert cut.status_code == 200
    frames = [orjson.loads(frame.removeprefix("data: ")) for frame in cut.text.split("\n\n") if frame]
    assert frames[-1]["error"]["code"] == "token_budget_exceeded"
    assert len(frames) == 12  # ten that the budget has left, the one that passes it, and why there are no more
    await eventually(lambda: engine.left_early == 1)
    assert (await chat(client, headers)).status_code == 429


@pytest.mark.redis
async def test_gateways_that_share_redis_share_their_windows_and_go_on_without_it(
    gateways: Gateways, tmp_path: Path
) -> None:
    with redis_server() as redis:
        shared = {"limits__storage_url": redis.url, "limits__requests_per_minute": "7"}
        _, one = await gateways.start(tmp_path, **shared)
        _, two = await gateways.start(tmp_path, **shared)
        statuses = [(await chat(client)).status_code for client in (one, two) * 5]
        assert statuses == [200] * 7 + [429] * 3
        redis.kill()
        statuses = [(await chat(client)).status_code for client in (one, two) * 5]
        assert statuses.count(200) == 7  # four and three are used up; what is left is each one's own
