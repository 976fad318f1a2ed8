"""Answers that are kept: for whom, for how long, and that nobody gets one who must not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest

from fastapi_foundry.engines.base import Call, Reply
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest
from fastapi_foundry.services.response_cache import ResponseCache
from fastapi_foundry.storage.usage import UsageQuery
from tests.support.engine_double import EngineDouble
from tests.support.fake_engine import FakeEngine, content_chunks
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "m:1", "messages": [{"role": "user", "content": "Hello"}]}
SAME = ASK | {"temperature": 0}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, cache__enabled=True, queue__notice_s=0.05) as running:
        yield running


def cache_of(gateway: RunningGateway) -> ResponseCache:
    cache = gateway.services.cache
    assert cache is not None
    return cache


def status(answer: httpx2.Response) -> str | None:
    assert answer.status_code == 200, answer.text
    return answer.headers.get("x-foundry-cache")


async def statuses(gateway: RunningGateway, *requests: tuple[dict[str, Any], dict[str, str]]) -> list[str | None]:
    return [status(await gateway.client.post(PATH, json=body, headers=headers)) for body, headers in requests]


async def key(gateway: RunningGateway, name: str) -> dict[str, str]:
    made = await gateway.services.keys.create(KeyRequest(name, frozenset({Scope.CHAT})), actor="test")
    return {"authorization": f"Bearer {made.text}"}


async def test_it_is_off_unless_it_is_switched_on(tmp_path: Path) -> None:
    async with EngineDouble() as double, running_gateway(tmp_path, foundry_ai__base_url=double.url) as gateway:
        await gateway.services.engine.wait_ready(5)
        await gateway.services.models.cards()
        body = SAME | {"model": "double:1"}
        assert await statuses(gateway, (body, {"te": "trailers"}), (body, {})) == [None, None]
        assert double.counts[f"POST {PATH}"] == 2
        assert gateway.services.express.taken == 1
        assert gateway.services.cache is None


async def test_switched_on_the_express_way_stays_for_what_is_not_kept(tmp_path: Path) -> None:
    given = {"cache__enabled": True, "foundry_ai__probe_engines": False}
    async with EngineDouble() as double, running_gateway(tmp_path, foundry_ai__base_url=double.url, **given) as gateway:
        await gateway.services.engine.wait_ready(5)
        await gateway.services.models.cards()
        plain, same = ({**body, "model": "double:1"} for body in (ASK, SAME))
        assert await statuses(gateway, (plain, {"te": "trailers"}), (plain, {}), (same, {})) == [None, None, "miss"]
        assert gateway.services.express.taken == 1
        # The double's answers do not say why they ended, so they may not be whole.
        assert cache_of(gateway).report().entries == 0


async def test_the_second_is_answered_without_the_engine_and_uses_nothing(gateway: RunningGateway) -> None:
    first, second = [await gateway.client.post(PATH, json=SAME) for _ in range(2)]
    assert (status(first), first.headers.get("age")) == ("miss", None)
    assert (status(second), second.headers["age"]) == ("hit", "0")
    assert len(gateway.engine.calls) == 1
    assert first.json()["id"] != second.json()["id"]
    assert first.json() | {"id": 0, "created": 0} == second.json() | {"id": 0, "created": 0}
    (row,) = await gateway.services.usage.rows(UsageQuery("2000-01-01", "2999-12-31"), limit=10)
    assert (row.figures.requests, row.figures.failures) == (2, 0)
    assert (row.figures.prompt_tokens, row.figures.completion_tokens) == (5, 2)


async def test_a_hit_waits_for_no_place(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, cache__enabled=True, queue__max_waiting=0) as gateway:
        assert await statuses(gateway, (SAME, {})) == ["miss"]
        router: Any = gateway.services.engine
        lane, places = router.lane("m:1")
        taken = [gateway.services.admission.enter(lane, "somebody", places) for _ in range(places)]
        refused = await gateway.client.post(PATH, json=SAME | {"seed": 1})
        assert refused.status_code == 429
        assert await statuses(gateway, (SAME, {}), (SAME | {"stream": True}, {})) == ["hit", "hit"]
        for place in taken:
            place.leave()


async def test_who_may_use_it_and_how(gateway: RunningGateway) -> None:
    found = await statuses(
        gateway,
        (ASK, {}),
        (ASK | {"temperature": 0.5}, {}),
        (ASK, {"x-foundry-cache": "on"}),
        (ASK, {"x-foundry-cache": "on"}),
        (SAME, {"x-foundry-cache": "off"}),
        (SAME, {"cache-control": "no-store"}),
        (SAME, {}),
        (SAME | {"user": "somebody"}, {}),
        (ASK | {"seed": 1}, {}),
        (SAME | {"max_tokens": 9}, {}),
        (SAME | {"model": "m"}, {}),
    )
    assert found == [None, None, "miss", "hit", None, None, "miss", "hit", "miss", "miss", "hit"]


async def test_no_cache_asks_anew_and_keeps_the_new_answer(gateway: RunningGateway) -> None:
    await gateway.client.post(PATH, json=SAME)
    gateway.engine.text = "Goodbye."
    anew = await gateway.client.post(PATH, json=SAME, headers={"cache-control": "no-cache"})
    kept = await gateway.client.post(PATH, json=SAME)
    assert (status(anew), status(kept)) == ("miss", "hit")
    assert kept.json()["choices"] == anew.json()["choices"]


@pytest.mark.parametrize(("shared", "expected"), [(False, "miss"), (True, "hit")])
async def test_keys_get_each_others_answers_only_if_the_settings_say_so(
    tmp_path: Path, shared: bool, expected: str
) -> None:
    given = {"security__require_key": "always", "cache__shared": shared}
    async with running_gateway(tmp_path, cache__enabled=True, **given) as gateway:
        one, other = await key(gateway, "one"), await key(gateway, "other")
        assert await statuses(gateway, (SAME, one), (SAME, one), (SAME, other)) == ["miss", "hit", expected]


async def test_an_answer_is_kept_for_its_time(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, cache__enabled=True, cache__ttl_s=0.2) as gateway:
        assert await statuses(gateway, (SAME, {}), (SAME, {})) == ["miss", "hit"]
        await asyncio.sleep(0.25)
        assert await statuses(gateway, (SAME, {})) == ["miss"]


@pytest.mark.parametrize("operation", ["load", "unload"])
async def test_a_model_that_is_loaded_or_unloaded_is_asked_again(gateway: RunningGateway, operation: str) -> None:
    await gateway.client.post(PATH, json=SAME)
    changed = await gateway.client.post(f"/api/v1/models/m:1/{operation}")
    assert changed.status_code == 200, changed.text
    assert await statuses(gateway, (SAME, {})) == ["miss"]


async def test_what_the_engine_gets_is_what_the_answer_is_kept_for(gateway: RunningGateway) -> None:
    twice = b'{"messages": [{"role": "user", "content": "One"}], ' + orjson.dumps(SAME)[1:]
    answer = await gateway.client.post(PATH, content=twice, headers={"content-type": "application/json"})
    assert status(answer) == "miss"
    assert gateway.engine.calls[0].body.count(b"messages") == 1
    assert await statuses(gateway, (gateway.engine.calls[0].parsed, {})) == ["hit"]


def following(gateway: RunningGateway) -> int:
    return sum(len(flight.waiting) for flight in cache_of(gateway)._flights.values())


async def test_equal_requests_at_the_same_time_are_one_for_the_engine(gateway: RunningGateway) -> None:
    gateway.engine.gate = asyncio.Event()
    tasks = [asyncio.create_task(gateway.client.post(PATH, json=SAME)) for _ in range(20)]
    await eventually(lambda: following(gateway) == 19)
    gateway.engine.gate.set()
    answers = await asyncio.gather(*tasks)
    assert len(gateway.engine.calls) == 1
    assert Counter(map(status, answers)) == {"miss": 1, "shared": 19}
    assert len({answer.json()["id"] for answer in answers}) == 20
    (row,) = await gateway.services.usage.rows(UsageQuery("2000-01-01", "2999-12-31"), limit=10)
    assert (row.figures.requests, row.figures.completion_tokens) == (20, 2)


class BrokenOnce(FakeEngine):
    async def post(self, call: Call) -> Reply:
        reply = await super().post(call)
        if len(self.calls) == 1:
            raise EngineFailedError("It broke.")
        return reply


async def test_where_the_first_fails_the_next_one_asks(tmp_path: Path) -> None:
    engine = BrokenOnce(gate=asyncio.Event())
    async with running_gateway(tmp_path, engine, cache__enabled=True) as gateway:
        tasks = [asyncio.create_task(gateway.client.post(PATH, json=SAME)) for _ in range(20)]
        await eventually(lambda: following(gateway) == 19)
        assert engine.gate is not None
        engine.gate.set()
        answers = await asyncio.gather(*tasks)
    assert Counter(answer.status_code for answer in answers) == {200: 19, 502: 1}
    assert len(engine.calls) == 2


async def test_where_the_first_leaves_the_next_one_asks(gateway: RunningGateway) -> None:
    engine = gateway.engine
    engine.gate = asyncio.Event()
    first = asyncio.create_task(gateway.client.post(PATH, json=SAME))
    await eventually(lambda: engine.active == 1)
    second = asyncio.create_task(gateway.client.post(PATH, json=SAME))
    await eventually(lambda: following(gateway) == 1)
    first.cancel()
    await eventually(lambda: len(engine.calls) == 2)
    engine.gate.set()
    assert status(await second) == "miss"
    assert engine.calls[0].cancelled


@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_is_kept_and_given_again_as_a_stream_or_whole(gateway: RunningGateway, usage: bool) -> None:
    streamed = SAME | {"stream": True, "stream_options": {"include_usage": usage}}
    first, second, whole = [await gateway.client.post(PATH, json=body) for body in (streamed, streamed, SAME)]
    assert [status(first), status(second), status(whole)] == ["miss", "hit", "hit"]
    assert (first.headers.get("age"), second.headers["age"]) == (None, "0")
    assert first.content == b"".join(content_chunks("Hel", "lo.", usage=usage))
    assert len(gateway.engine.calls) == 1
    assert whole.json()["choices"][0]["message"]["content"] == "Hello."
    assert whole.json()["usage"]["completion_tokens"] == 2
    (row,) = await gateway.services.usage.rows(UsageQuery("2000-01-01", "2999-12-31"), limit=10)
    assert (row.figures.requests, row.figures.completion_tokens) == (3, 2)


async def test_openais_client_reads_the_stream_of_a_kept_answer(gateway: RunningGateway) -> None:
    gateway.engine.text = "A longer answer. " * 30
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(**SAME)
        stream = await client.chat.completions.create(**SAME, stream=True, stream_options={"include_usage": True})
        assert stream.response.headers["x-foundry-cache"] == "hit"
        chunks = [chunk async for chunk in stream]
        async with client.chat.completions.stream(**SAME) as again:
            final = await again.get_final_completion()
    assert len(gateway.engine.calls) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == gateway.engine.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id} != {whole.id}
    assert final.choices[0].message.content == gateway.engine.text
    assert final.choices[0].finish_reason == "stop"


async def test_a_stream_that_did_not_end_well_is_not_kept(gateway: RunningGateway) -> None:
    gateway.engine.chunks = [*content_chunks("Hel")[:2], EngineFailedError("It broke.")]
    broken = await gateway.client.post(PATH, json=SAME | {"stream": True})
    assert b"error" in broken.content
    gateway.engine.chunks = [*content_chunks("Hel")[:3], b'data: {"error": {"message": "it broke"}}\n\n']
    assert await statuses(gateway, (SAME | {"stream": True}, {})) == ["miss"]
    gateway.engine.chunks = None
    gateway.engine.gate = asyncio.Event()
    async with gateway.client.stream("POST", PATH, json=SAME | {"stream": True}):
        pass
    assert cache_of(gateway).report().entries == 0


async def test_the_native_api_uses_it_too(gateway: RunningGateway) -> None:
    ask = {"prompt": "Hello", "temperature": 0}
    answers = [await gateway.client.post("/api/v1/generate", json=ask | more) for more in ({}, {}, {"stream": True})]
    assert [status(answer) for answer in answers] == ["miss", "hit", "hit"]
    assert answers[1].json()["content"] == "Hello."
    assert answers[2].text.count('"content"') == 1
    batch = await gateway.client.post("/api/v1/generate/batch", json={"prompts": [ask, ask]})
    assert [result["content"] for result in batch.json()["results"]] == ["Hello.", "Hello."]
    assert len(gateway.engine.calls) == 1


async def test_the_check_of_a_model_is_never_a_kept_answer(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/api/v1/health?level=model")
    assert answer.status_code == 200, answer.text
    assert len(gateway.engine.calls) == 1
    assert cache_of(gateway).report().entries == 0
