"""The gateway's adapter against every generation of Foundry Local: found, listed, loaded, asked, watched, followed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastapi_foundry.engines.base import Call
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.probe import EngineKind, probe
from fastapi_foundry.engines.router import Router
from fastapi_foundry.engines.way import RoutedEngine
from fastapi_foundry.errors import EngineFailedError, ModelNotFoundError
from fastapi_foundry.settings import FOUNDRY, FoundryAISettings, FoundryServiceSettings, Settings
from tests.support.doubles import RunningDouble, running_double, write_foundry_cli
from tests.support.native_service import ABSENT_MODEL, CHAT_ALIAS, CHAT_MODEL, NativeService, native_service

CHAT = "/v1/chat/completions"
MODELS = (
    "phi-x-generic-cpu:2,alias=phi-x,state=cached",
    "qwen-x-generic-cpu:1,alias=qwen-x,state=cached",
    "absent-generic-cpu:1,alias=absent,state=catalog",
)
GENERATIONS = ["gen1", "gen2", "gen3"]


@pytest.fixture(params=GENERATIONS)
def double(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningDouble]:
    with running_double(request.param, tmp_path / "theirs", models=MODELS) as running:
        yield running


def settings_for(home: Path, url: str | None = None, **ai: object) -> Settings:
    return Settings(
        home=home,
        foundry_ai=FoundryAISettings(base_url=url, **ai),
        foundry_service=FoundryServiceSettings(start="never", port_range_start=50799, port_range_end=50799),
    )


@asynccontextmanager
async def adapter(home: Path, url: str | None = None, **ai: object) -> AsyncIterator[FoundryLocalEngine]:
    engine = FoundryLocalEngine(settings_for(home, url, **ai))
    await engine.start()
    try:
        await engine.wait_ready(10)
        yield engine
    finally:
        await engine.aclose()


def chat(model: str, text: str = "Hello", **more: object) -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 30} | more
    return Call(CHAT, json.dumps(body).encode(), "r-1")


async def content(engine: FoundryLocalEngine | Router, call: Call) -> str:
    return str(json.loads((await engine.post(call)).body)["choices"][0]["message"]["content"])


async def streamed(engine: FoundryLocalEngine | Router, call: Call) -> bytes:
    async with engine.stream(call) as stream:
        return b"".join([part async for part in stream])


async def test_each_generation_is_recognised_by_its_answers(double):
    client = HttpClient()
    seen = await probe(client, double.url, timeout_s=2)
    await client.aclose()
    assert seen.kind is (EngineKind.GEN3 if double.generation == "gen3" else EngineKind.GEN1)


async def test_catalogue_cached_and_loaded_are_told_apart(double, tmp_path):
    async with adapter(tmp_path, double.url) as engine:
        assert {card.id: card.state for card in await engine.list_models()} == {
            "phi-x-generic-cpu:2": "cached",
            "qwen-x-generic-cpu:1": "cached",
        }
        await engine.load_model("phi-x-generic-cpu:2")
        states = {card.id: card.state for card in await engine.list_models()}
        assert states == {"phi-x-generic-cpu:2": "loaded", "qwen-x-generic-cpu:1": "cached"}
        assert double.model_states()["phi-x-generic-cpu:2"] == "loaded"
        await engine.unload_model("phi-x-generic-cpu:2")
        assert double.model_states()["phi-x-generic-cpu:2"] == "cached"


async def test_a_model_goes_by_its_alias_too(double, tmp_path):
    async with adapter(tmp_path, double.url) as engine:
        router = Router([RoutedEngine(FOUNDRY, engine)], {}, patience_s=10)
        await router.list_models()
        assert await content(router, chat("phi-x"))
        assert [body["model"] for body in double.bodies(CHAT)][-1] == "phi-x-generic-cpu:2"


async def test_a_model_that_is_not_loaded_is_loaded_by_its_first_requests_once(double, tmp_path):
    async with adapter(tmp_path, double.url) as engine:
        answers = await asyncio.gather(*(content(engine, chat("qwen-x-generic-cpu:1")) for _ in range(4)))
        assert all(answers)
        loads = [entry for entry in double.seen() if "/load/" in entry["path"]]
        assert len(loads) == 1
        assert b"data:" in await streamed(engine, chat("phi-x-generic-cpu:2", stream=True))


async def test_a_model_that_is_only_in_the_catalogue_is_said_to_be_missing(double, tmp_path):
    async with adapter(tmp_path, double.url) as engine:
        with pytest.raises(ModelNotFoundError, match="downloaded"):
            await engine.post(chat("absent-generic-cpu:1"))


@pytest.mark.parametrize("double", ["gen1", "gen2"], indirect=True)
async def test_it_is_found_through_its_own_command(double, tmp_path, monkeypatch):
    write_foundry_cli(tmp_path / "bin", double.generation, double.home)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    async with adapter(tmp_path / "ours", discovery=True) as engine:
        assert (engine.status.url, engine.status.found_by) == (double.url, "cli")


async def test_when_its_port_moves_it_is_found_again_and_the_request_is_repeated(tmp_path):
    with running_double("gen2", tmp_path, models=MODELS) as double:
        async with adapter(tmp_path, discovery=True) as engine:
            assert engine.status.found_by == "daemon_file"
            await engine.load_model("phi-x-generic-cpu:2")
            before = double.url
            double.move()
            assert double.url != before
            assert await content(engine, chat("phi-x-generic-cpu:2"))
            assert engine.status.url == double.url


@pytest.mark.parametrize("fault", ["half_json", "reset", "error_in_200", "unauthorized", "broken"])
async def test_what_it_does_wrong_is_an_error_and_the_next_request_succeeds(double, tmp_path, fault):
    async with adapter(tmp_path, double.url) as engine:
        await engine.load_model("phi-x-generic-cpu:2")
        double.fault(fault, on="inference", times=2)
        with pytest.raises(EngineFailedError):
            await engine.post(chat("phi-x-generic-cpu:2"))
        double.heal()
        assert await content(engine, chat("phi-x-generic-cpu:2"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeService]:
    """Microsoft's own web service, the third generation for real."""
    with native_service(tmp_path_factory.mktemp("native")) as running:
        yield running


async def test_the_native_service_is_listed_loaded_and_answers(native, tmp_path):
    async with adapter(tmp_path, native.url) as engine:
        router = Router([RoutedEngine(FOUNDRY, engine)], {}, patience_s=10)
        cards = {card.id: card for card in await router.list_models()}
        assert ABSENT_MODEL not in cards
        assert cards[CHAT_MODEL].names >= {CHAT_ALIAS}
        assert "foundry-demo" in await content(router, chat(CHAT_ALIAS, "What are you?"))
        assert {card.id: card.state for card in await engine.list_models()}[CHAT_MODEL] == "loaded"
        assert b"[DONE]" in await streamed(router, chat(CHAT_MODEL, stream=True))
        await engine.unload_model(CHAT_MODEL)
        assert {card.id: card.state for card in await engine.list_models()}[CHAT_MODEL] == "cached"
        assert await content(router, chat(CHAT_MODEL))


async def test_a_model_that_the_native_service_lacks_is_said_to_be_missing(native, tmp_path):
    async with adapter(tmp_path, native.url) as engine:
        with pytest.raises(ModelNotFoundError):
            await engine.post(chat(ABSENT_MODEL))
