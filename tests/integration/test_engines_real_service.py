"""The engine adapter against the real service: found, started, killed, moved, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from fastapi_foundry.engines.base import Call, EngineState
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.errors import EngineFailedError, ModelNotFoundError
from fastapi_foundry.settings import FoundryAISettings, FoundryServiceSettings, Settings
from tests.support.models import make_endless_model
from tests.support.processes import children_of, product_environment, service_process
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
# Nothing listens here, so that a service of another test is not taken for ours.
NO_SCAN = {"port_range_start": 50799, "port_range_end": 50799}


def request(model: str = "foundry-demo:1", *, stream: bool = False, max_tokens: int = 16) -> bytes:
    messages = [{"role": "user", "content": "Hello, what are you?"}]
    return json.dumps(
        {"model": model, "messages": messages, "stream": stream, "max_tokens": max_tokens, "temperature": 0}
    ).encode()


def settings_for(home: Path, *, discovery: bool = False) -> Settings:
    return Settings(
        home=home,
        foundry_ai=FoundryAISettings(discovery=discovery),
        foundry_service=FoundryServiceSettings(port=0, offline=True, **NO_SCAN),
    )


@pytest.fixture
async def engine(foundry_home):
    others = children_of(os.getpid())  # the processes of shared fixtures
    made = FoundryLocalEngine(settings_for(foundry_home))
    await made.start()
    await made.wait_ready(30)
    family = children_of(os.getpid())
    yield made
    family += children_of(os.getpid())
    await made.aclose()
    await eventually(lambda: not alive([one for one in family if one not in others]))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


async def answered(engine: FoundryLocalEngine) -> bool:
    reply = json.loads((await engine.post(Call(CHAT, request(), "r"))).body)
    return bool(reply["choices"][0]["message"]["content"])


async def register_endless(engine: FoundryLocalEngine, tmp_path: Path) -> str:
    """Give the service a model that talks until it is stopped."""
    directory = await asyncio.to_thread(make_endless_model, tmp_path / "endless")
    client = HttpClient()
    body = json.dumps({"path": str(directory), "name": "endless:1"}).encode()
    headers = {"content-type": "application/json"}
    response = await client.request("POST", f"{engine.status.url}/models/register", headers=headers, body=body)
    assert response.status == 200, await response.read(10_000)
    await response.read(10_000)
    await client.aclose()
    return "endless:1"


async def test_service_is_started_answers_and_leaves_with_the_engine(engine):
    status = engine.status
    assert (status.state, status.supervised, status.found_by) == (EngineState.READY, True, "started")
    cards = await engine.list_models()
    assert "foundry-demo:1" in [card.id for card in cards]
    assert await answered(engine)
    async with engine.stream(Call(CHAT, request(stream=True), "r")) as stream:
        data = b"".join([part async for part in stream])
    assert data.count(b"data: [DONE]") == 1
    assert data.endswith(b"data: [DONE]\n\n")


async def test_load_and_unload_by_name(engine):
    assert (await engine.load_model("foundry-demo:1"))["status"] == "loaded"
    assert (await engine.load_model("foundry-demo"))["status"] == "already_loaded"
    assert (await engine.unload_model("foundry-demo:1"))["status"] == "unloaded"
    with pytest.raises(ModelNotFoundError):
        await engine.load_model("no/such:1")


async def test_service_killed_in_mid_stream_is_an_error_within_two_seconds_and_the_next_call_succeeds(engine, tmp_path):
    model = await register_endless(engine, tmp_path)
    before = engine.status
    async with engine.stream(Call(CHAT, request(model, stream=True, max_tokens=3000), "r")) as stream:
        parts = aiter(stream)
        await anext(parts)
        os.kill(before.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        with pytest.raises(EngineFailedError):  # noqa: PT012 - some parts may still be on their way
            while True:
                await anext(parts)
        assert time.monotonic() - killed_at < 2
    assert await answered(engine)
    after = engine.status
    assert (after.state, after.restarts) == (EngineState.READY, 1)
    assert after.pid != before.pid


async def test_answer_lost_with_the_service_before_its_first_byte_is_asked_for_again(engine, tmp_path):
    model = await register_endless(engine, tmp_path)
    await engine.load_model(model)
    first_pid = engine.status.pid
    waiting = asyncio.create_task(engine.post(Call(CHAT, request(model, max_tokens=800), "r")))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    os.kill(first_pid, signal.SIGKILL)
    # Sent again to the next service, which knows the model still or says that it does not.
    with contextlib.suppress(ModelNotFoundError):
        assert (await waiting).body
    assert engine.status.pid != first_pid


async def test_runner_killed_in_mid_stream_is_reported_and_replaced(engine, tmp_path):
    model = await register_endless(engine, tmp_path)
    async with engine.stream(Call(CHAT, request(model, stream=True, max_tokens=3000), "r")) as stream:
        parts = aiter(stream)
        data = await anext(parts)
        (runner,) = children_of(engine.status.pid)
        runner.kill()
        async for part in parts:
            data += part
    assert b'"error"' in data[-2000:]
    assert b"[DONE]" not in data
    assert await answered(engine)
    assert engine.status.restarts == 0


async def test_many_requests_while_the_service_is_killed_again_and_again(engine):
    alive = asyncio.Event()

    async def ask() -> str:
        try:
            outcome = "answer" if await answered(engine) else "empty"
        except EngineFailedError:
            return "error"
        alive.set()
        return outcome

    async def kill() -> None:
        for _ in range(2):
            await alive.wait()
            if engine.status.pid is not None:
                os.kill(engine.status.pid, signal.SIGKILL)
            alive.clear()

    async with asyncio.timeout(60):
        killer = asyncio.create_task(kill())
        outcomes = []
        while not killer.done():
            outcomes += await asyncio.gather(*(ask() for _ in range(4)))
        await killer
        assert await answered(engine)
    assert set(outcomes) <= {"answer", "error"}
    assert "answer" in outcomes


async def test_service_that_runs_already_is_used_and_left_alone(foundry_home):
    with service_process(foundry_home, arguments=["--port", "0"]) as service:
        engine = FoundryLocalEngine(settings_for(foundry_home, discovery=True))
        await engine.start()
        await engine.wait_ready(10)
        status = engine.status
        assert (status.url, status.found_by, status.supervised, status.pid) == (
            service.url,
            "daemon_file",
            False,
            service.pid,
        )
        assert await answered(engine)
        await engine.aclose()
        assert service.popen.poll() is None


async def test_service_that_came_back_on_another_port_is_found_by_the_next_request(foundry_home):
    with service_process(foundry_home, arguments=["--port", "0"]) as first:
        engine = FoundryLocalEngine(settings_for(foundry_home, discovery=True))
        await engine.start()
        assert await answered(engine)
        first.kill()
        with service_process(foundry_home, arguments=["--port", "0"]) as second:
            assert second.url != first.url
            assert await answered(engine)
            # Either the new one was found at once, or ours was started in between; both are right.
            assert engine.status.url == second.url or engine.status.supervised
            await engine.aclose()


async def test_no_process_is_left_when_the_gateway_is_killed(foundry_home):
    program = """
        import asyncio, json, sys
        from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
        from fastapi_foundry.settings import load_settings
        async def main():
            engine = FoundryLocalEngine(load_settings())
            await engine.start()
            await engine.wait_ready(30)
            await engine.load_model("foundry-demo:1")
            print("loaded", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    extra = {"FOUNDRY_PORT": "0", "FASTAPI_FOUNDRY__FOUNDRY_AI__DISCOVERY": "false"}
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(program),
        env=product_environment(foundry_home, extra),
        stdout=asyncio.subprocess.PIPE,
    )
    assert await gateway.stdout.readline() == b"loaded\n"
    family = children_of(gateway.pid)
    assert len(family) >= 2, "the service and its runner"
    gateway.kill()
    await gateway.wait()
    await eventually(lambda: not alive(family), timeout_s=5)
