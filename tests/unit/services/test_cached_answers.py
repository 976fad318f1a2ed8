from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fastapi_foundry.engines.base import Call, Notes, Reply, ReplyStream
from fastapi_foundry.services import generations as generations_module
from fastapi_foundry.services.admission import Priority
from fastapi_foundry.services.cached_answers import CachedAnswers
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService, OpenAIRequest
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.response_cache import CacheLimits, ResponseCache
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.wire.openai import ChatCompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import eventually


class StandIn(FakeEngine):
    """Answers as a fallback does."""

    notes = Notes(fallback=("first::m:1: away",))

    async def post(self, call: Call) -> Reply:
        return replace(await super().post(call), notes=self.notes)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ReplyStream]:
        async with super().stream(call) as reply:
            reply.notes = self.notes
            yield reply


class Where:
    """Where the engine is."""

    def __init__(self) -> None:
        self.address = "one"

    def __call__(self, _model: str) -> str:
        return self.address


@pytest.fixture
def where() -> Where:
    return Where()


@pytest.fixture
def cached(where: Where) -> CachedAnswers:
    return CachedAnswers(ResponseCache(CacheLimits()), where, shared=False, max_entry_bytes=10_000)


def service(engine: FakeEngine, cached: CachedAnswers) -> InferenceService:
    return InferenceService(engine, ModelsService(engine), InferenceDefaults("m:1", 0.7, 2048), cached=cached)


def chat(wish: Wish | None = None, **extra: Any) -> OpenAIRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, **extra}
    checked = ChatCompletionRequest.model_validate(body)
    return OpenAIRequest("/v1/chat/completions", orjson.dumps(body), body, checked, "r1", wish=wish or Wish())


async def stream(inference: InferenceService) -> tuple[str, bytes]:
    async with inference.stream(chat(stream=True)) as frames:
        return frames.notes.cache, b"".join([piece async for piece in frames])


async def test_the_answer_of_a_stand_in_is_not_kept(cached: CachedAnswers) -> None:
    engine = StandIn()
    inference = service(engine, cached)
    for _ in range(2):
        assert (await inference.complete(chat())).notes == replace(engine.notes, cache="miss")
        assert (await stream(inference))[0] == "miss"
    assert len(engine.calls) == 4
    assert cached.cache.report().entries == 0


async def test_an_engine_that_moved_is_asked_again(cached: CachedAnswers, where: Where) -> None:
    engine = FakeEngine()
    inference = service(engine, cached)
    await inference.complete(chat())
    where.address = "two"
    assert (await inference.complete(chat())).notes.cache == "miss"
    assert (await inference.complete(chat())).notes.cache == "hit"


async def test_what_is_on_its_way_while_a_model_changes_is_not_kept(cached: CachedAnswers) -> None:
    engine = FakeEngine(gate=asyncio.Event(), text="old")
    inference = service(engine, cached)
    running = asyncio.create_task(inference.complete(chat()))
    await eventually(lambda: engine.active == 1)
    cached.forget_all()
    assert engine.gate is not None
    engine.gate.set()
    assert b"old" in (await running).body
    engine.text = "new"
    assert b"new" in (await inference.complete(chat())).body


@pytest.mark.parametrize("wish", [Wish(Priority.HIGH), Wish(Priority.LOW), Wish(max_wait_s=1.0)])
async def test_who_is_in_a_hurry_does_not_wait_for_another_and_is_answered_from_the_cache(
    cached: CachedAnswers, wish: Wish
) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    inference = service(engine, cached)
    tasks = [asyncio.create_task(inference.complete(chat(each))) for each in (None, wish)]
    await eventually(lambda: engine.active == 2)
    assert engine.gate is not None
    engine.gate.set()
    assert [reply.notes.cache for reply in await asyncio.gather(*tasks)] == ["miss", "miss"]
    assert (await inference.complete(chat(wish))).notes.cache == "hit"


async def test_a_whole_answer_that_makes_no_stream_is_asked_for(cached: CachedAnswers) -> None:
    class Terse(FakeEngine):
        def answer(self, call: Any) -> dict[str, Any]:
            del call
            return {"choices": [{"index": 0, "finish_reason": "stop"}]}

    engine = Terse()
    inference = service(engine, cached)
    await inference.complete(chat())
    status, frames = await stream(inference)
    assert (status, len(engine.calls)) == ("miss", 2)
    assert b"Hel" in frames


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    class Recorder:
        def log_model_operation(self, **fields: Any) -> None:
            seen.append(fields)

    monkeypatch.setattr(generations_module, "logger", Recorder())
    return seen


async def test_the_log_says_that_the_cache_answered_and_that_nothing_was_used(
    cached: CachedAnswers, log: list[dict[str, Any]]
) -> None:
    inference = service(FakeEngine(), cached)
    for _ in range(2):
        await inference.complete(chat())
    await stream(inference)
    await inference.complete(chat(Wish(cache="off")))
    told = [(entry.get("cache"), entry["status"], entry["input_tokens"], entry["output_tokens"]) for entry in log]
    assert told == [("miss", "ok", 5, 2), ("hit", "ok", 0, 0), ("hit", "ok", 0, 0), (None, "ok", 5, 2)]


async def test_who_leaves_in_the_middle_of_a_kept_answer_has_used_nothing(
    cached: CachedAnswers, log: list[dict[str, Any]]
) -> None:
    inference = service(FakeEngine(), cached)
    await inference.complete(chat())
    with pytest.raises(asyncio.CancelledError):
        async with inference.stream(chat(stream=True)):
            raise asyncio.CancelledError
    assert (log[-1]["status"], log[-1]["input_tokens"]) == ("cancelled", 0)
