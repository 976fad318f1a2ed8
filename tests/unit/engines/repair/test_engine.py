from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fastapi_foundry.engines.base import Call, ModelCard
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.probing import probe_profile
from fastapi_foundry.engines.repair.profile import CONFORMING, EngineProfile, known_profile
from fastapi_foundry.engines.repair.profile_cache import ProfileCache
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineTimeoutError,
    InvalidInputError,
    StructuredOutputError,
    UnsupportedParameterError,
)
from tests.support.fake_engine import USAGE, FakeEngine, chunk, content_chunks, frame

CHAT = "/v1/chat/completions"
BROKEN = replace(CONFORMING, envelope="incomplete", finish_reason="unreliable", stream_usage="missing", usage="missing")
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "required": ["city"]}}}]
WEATHER = '{"name": "weather", "arguments": {"city": "Rome"}}'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
DONE = b"data: [DONE]\n\n"


def call(path: str = CHAT, **values: Any) -> Call:
    body = {"model": "m:1", "messages": [{"role": "user", "content": "Hi"}]} | values
    return Call(path, json.dumps(body).encode(), "r1")


def repairing(fake: FakeEngine, profile: EngineProfile = CONFORMING) -> RepairingEngine:
    return RepairingEngine(fake, lambda: profile)


async def streamed(engine: RepairingEngine, made: Call) -> list[dict[str, Any]]:
    """The chunks of a stream that ends normally."""
    async with engine.stream(made) as stream:
        data = b"".join([part async for part in stream])
    frames = data.split(b"\n\n")
    assert frames[-2:] == [b"data: [DONE]", b""]
    return [json.loads(each.removeprefix(b"data: ")) for each in frames[:-2]]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for each in chunks for choice in each["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def reasons_of(chunks: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for each in chunks for choice in each["choices"] if choice["finish_reason"]]


class Scripted(FakeEngine):
    """Answers with the next of several texts, whole or as a stream of single characters."""

    def __init__(self, *texts: str, **fields: Any) -> None:
        super().__init__(**fields)
        self._texts = list(texts)

    def _next(self) -> str:
        return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]

    def answer(self, call):
        made = super().answer(call)
        made["choices"][0]["message"]["content"] = self._next()
        return made

    @asynccontextmanager
    async def stream(self, call):
        self.chunks = content_chunks(*self._next())
        async with super().stream(call) as stream:
            yield stream


async def test_request_and_answer_that_need_nothing_are_the_same_bytes():
    fake = FakeEngine()
    made = call()
    reply = await repairing(fake, known_profile("ours")).post(made)
    assert fake.calls[0].body is made.body
    assert reply.body == (await fake.post(made)).body
    assert reply.notes.alterations == ()


async def test_stream_that_needs_nothing_is_the_engines_own_object():
    fake = FakeEngine(chunks=[b"not even", b" a frame"])
    async with repairing(fake, known_profile("ours")).stream(call(stream=True)) as stream:
        assert [part async for part in stream] == [b"not even", b" a frame"]


async def test_embeddings_are_not_parsed():
    fake = FakeEngine()
    made = Call("/v1/embeddings", b'{"model": "m:1"}', "r")
    await repairing(fake, known_profile("gen1")).post(made)
    assert made.known is None


async def test_everything_else_is_delegated():
    fake = FakeEngine()
    engine = repairing(fake)
    await engine.start()
    await engine.wait_ready(1)
    assert engine.status == fake.status
    assert await engine.list_models() == fake.cards
    assert (await engine.load_model("m:1"))["status"] == "loaded"
    assert (await engine.unload_model("m:1"))["status"] == "unloaded"
    await engine.aclose()
    assert fake.started
    assert fake.closed


async def test_error_with_status_200_is_raised():
    class Hidden(FakeEngine):
        def answer(self, call):
            return {"error": {"message": "model broke", "type": "server_error", "code": "engine_failed"}}

    with pytest.raises(EngineFailedError, match="model broke"):
        await repairing(Hidden()).post(call())


async def test_refusal_names_the_parameter_before_the_engine_is_asked():
    fake = FakeEngine()
    with pytest.raises(UnsupportedParameterError) as caught:
        await repairing(fake, known_profile("gen3")).post(call(logprobs=True))
    assert caught.value.param == "logprobs"
    assert fake.calls == []


async def test_bare_stream_gets_role_id_finish_reason_usage_and_done():
    bare = [frame({"choices": [{"delta": {"content": text}}]}) for text in ("Hel", "lo")]
    fake = FakeEngine(chunks=[*bare, DONE])
    chunks = await streamed(repairing(fake, BROKEN), call(stream=True, stream_options={"include_usage": True}))
    assert len({each["id"] for each in chunks}) == 1
    assert all(each["object"] == "chat.completion.chunk" and each["created"] and each["model"] for each in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hel"}
    assert "role" not in chunks[1]["choices"][0]["delta"]
    assert text_of(chunks) == "Hello"
    assert reasons_of(chunks) == ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


async def test_usage_frame_is_sent_last_and_only_when_asked_for():
    fake = FakeEngine(chunks=content_chunks("Hi"))
    engine = repairing(fake, BROKEN)
    assert all(each["choices"] for each in await streamed(engine, call(stream=True)))
    chunks = await streamed(engine, call(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["usage"] == USAGE


@pytest.mark.parametrize(
    "chunks",
    [
        content_chunks("Hel")[:2],
        [frame({"choices": [{"delta": {"content": "x"}}]}), b"data: {broken\n\n"],
        [
            frame({"choices": [{"delta": {"content": "x"}}]}),
            frame({"error": {"message": "no", "type": "server_error"}}),
        ],
        [DONE],
        [],
        [frame([1])],
    ],
    ids=["cut", "nonsense", "error frame", "nothing but the end", "nothing", "no chunk"],
)
async def test_stream_that_does_not_end_well_is_a_failure(chunks):
    with pytest.raises(EngineFailedError):
        await streamed(repairing(FakeEngine(chunks=chunks), BROKEN), call(stream=True))


async def test_error_in_mid_stream_comes_after_what_was_good():
    fake = FakeEngine(chunks=[*content_chunks("Hel", "lo")[:3], EngineTimeoutError("silent", limit_s=1.0)])
    seen = []
    with pytest.raises(EngineTimeoutError):
        async with repairing(fake, BROKEN).stream(call(stream=True)) as stream:
            seen += [part async for part in stream]
    async with repairing(fake, BROKEN).stream(call(stream=True)) as stream:
        assert b"assistant" in await anext(aiter(stream))


@pytest.mark.parametrize("texts", [["one STOP two"], ["one S", "TOP two"], [*"one STOP two"]])
async def test_stop_is_enforced_in_a_stream_wherever_it_is_cut(texts):
    fake = FakeEngine(chunks=content_chunks(*texts))
    engine = repairing(fake, replace(CONFORMING, stop="ignored"))
    chunks = await streamed(engine, call(stream=True, stop=["STOP"], stream_options={"include_usage": True}))
    assert text_of(chunks) == "one "
    assert reasons_of(chunks) == ["stop"]
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def test_text_that_only_begins_like_a_stop_arrives_whole():
    fake = FakeEngine(chunks=content_chunks("one ST", "O"))
    chunks = await streamed(repairing(fake, replace(CONFORMING, stop="ignored")), call(stream=True, stop="STOP"))
    assert text_of(chunks) == "one STO"


async def test_choices_are_asked_for_one_by_one_and_put_together():
    fake = Scripted("a", "b", "c")
    reply = await repairing(fake, known_profile("ours")).post(call(n=3, seed=5))
    answer = json.loads(reply.body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted(choice["message"]["content"] for choice in answer["choices"]) == ["a", "b", "c"]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert sorted(each.parsed["seed"] for each in fake.calls) == [5, 6, 7]
    assert all("n" not in each.parsed for each in fake.calls)
    assert reply.notes.alterations == ("n: answered by 3 requests",)


async def test_failure_of_one_choice_fails_all_and_ends_the_others():
    class OneFails(FakeEngine):
        async def post(self, call):
            if call.parsed.get("seed") == 2:
                raise EngineFailedError("broke")
            async with self._called(call):
                await asyncio.Event().wait()

    fake = OneFails()
    with pytest.raises(EngineFailedError):
        await repairing(fake, known_profile("ours")).post(call(n=3, seed=1))
    assert fake.active == 0
    assert fake.calls
    assert all(each.cancelled for each in fake.calls)


async def test_streamed_choices_interleave_under_one_id():
    fake = Scripted("aaa", "bbb")
    body = call(n=2, stream=True, stream_options={"include_usage": True})
    chunks = await streamed(repairing(fake, known_profile("ours")), body)
    assert len({each["id"] for each in chunks}) == 1
    assert {text_of(chunks, 0), text_of(chunks, 1)} == {"aaa", "bbb"}
    assert reasons_of(chunks) == ["stop", "stop"]
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert sum(not each["choices"] for each in chunks) == 1


async def test_leaving_an_interleaved_stream_ends_every_request():
    fake = FakeEngine(chunks=content_chunks("Hi"), gate=None)
    engine = repairing(fake, known_profile("ours"))
    async with engine.stream(call(n=3, stream=True)) as stream:
        await anext(aiter(stream))
    assert fake.active == 0


async def test_calls_in_the_text_become_tool_calls():
    fake = Scripted(f"<tool_call>{WEATHER}</tool_call>")
    reply = await repairing(fake, known_profile("gen1")).post(call(tools=TOOLS))
    choice = json.loads(reply.body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    made = choice["message"]["tool_calls"][0]
    assert (made["type"], made["function"]) == ("function", {"name": "weather", "arguments": '{"city":"Rome"}'})
    assert made["id"].startswith("call_")
    assert "tools: calls read from the text" in reply.notes.alterations


async def test_wrong_call_is_asked_for_once_more_with_the_error():
    wrong = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    fake = Scripted(wrong, f"<tool_call>{WEATHER}</tool_call>")
    reply = await repairing(fake, known_profile("gen1")).post(call(tools=TOOLS))
    assert json.loads(reply.body)["choices"][0]["finish_reason"] == "tool_calls"
    assert "'city' is a required property" in fake.calls[1].parsed["messages"][-1]["content"]


async def test_call_that_stays_wrong_is_left_as_text_or_refused_where_one_is_demanded():
    wrong = '<tool_call>{"name": "rain", "arguments": {}}</tool_call>'
    fake = Scripted(wrong)
    reply = await repairing(fake, known_profile("gen1")).post(call(tools=TOOLS))
    choice = json.loads(reply.body)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (wrong, "stop")
    assert any(each.startswith("tools: left as text") for each in reply.notes.alterations)
    assert len(fake.calls) == 2
    with pytest.raises(EngineFailedError, match="valid tool call"):
        await repairing(fake, known_profile("gen1")).post(call(tools=TOOLS, tool_choice="required"))


@pytest.mark.parametrize("text", [WEATHER, f"<tool_call>{WEATHER}</tool_call>", f"[TOOL_CALLS] [{WEATHER}]"])
async def test_calls_in_a_streamed_text_become_tool_calls(text):
    chunks = await streamed(repairing(Scripted(text), known_profile("gen1")), call(tools=TOOLS, stream=True))
    assert text_of(chunks) == ""
    deltas = [each for made in chunks for choice in made["choices"] for each in choice["delta"].get("tool_calls", ())]
    assert [each["index"] for each in deltas] == [0]
    assert deltas[0]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert reasons_of(chunks) == ["tool_calls"]


@pytest.mark.parametrize("text", ["Just text, with <tools> in it.", '{"answer": 42}', "```json\n{}\n```"])
async def test_streamed_text_beside_tools_stays_text(text):
    chunks = await streamed(repairing(Scripted(text), known_profile("gen1")), call(tools=TOOLS, stream=True))
    assert text_of(chunks) == text
    assert reasons_of(chunks) == ["stop"]


async def test_tool_deltas_get_index_type_and_reason():
    first = {"tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": ""}}]}
    second = {"tool_calls": [{"function": {"arguments": "{}"}}]}
    third = {"tool_calls": [{"id": "b", "function": {"name": "weather", "arguments": "{}"}}]}
    parts = [frame(chunk(delta)) for delta in (first, second, third)]
    fake = FakeEngine(chunks=[*parts, frame(chunk({}, "stop")), DONE])
    chunks = await streamed(repairing(fake, known_profile("gen3")), call(tools=TOOLS, stream=True))
    deltas = [each for made in chunks for choice in made["choices"] for each in choice["delta"].get("tool_calls", ())]
    assert [each["index"] for each in deltas] == [0, 0, 1]
    assert [each.get("type") for each in deltas] == ["function", None, "function"]
    assert reasons_of(chunks) == ["tool_calls"]


async def test_structured_stream_is_checked_before_it_ends():
    engine = repairing(Scripted('{"a": 1}'), known_profile("ours"))
    chunks = await streamed(engine, call(response_format=FORMAT, stream=True))
    assert text_of(chunks) == '{"a": 1}'
    assert reasons_of(chunks) == ["stop"]


async def test_structured_stream_that_is_wrong_ends_with_an_error_and_no_finish():
    engine = repairing(Scripted('{"a": "x"}'), known_profile("ours"))
    seen = b""
    with pytest.raises(StructuredOutputError, match="breaks 'type'"):  # noqa: PT012 - what came before it counts too
        async with engine.stream(call(response_format=FORMAT, stream=True)) as stream:
            async for part in stream:
                seen += part
    assert b'finish_reason":"' not in seen
    assert b"[DONE]" not in seen


async def test_structured_stream_of_an_engine_without_schemas_is_sent_once_it_is_valid():
    engine = repairing(Scripted("no", '```json\n{"a": 1}\n```'), known_profile("gen1"))
    made = call(response_format=FORMAT, stream=True, stream_options={"include_usage": True})
    chunks = await streamed(engine, made)
    assert text_of(chunks) == '{"a": 1}'
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert reasons_of(chunks) == ["stop"]
    assert chunks[-1]["usage"]["total_tokens"] > 0
    async with engine.stream(made) as stream:
        assert "stream: sent when the answer was complete" in stream.notes.alterations


async def test_structured_stream_that_lacks_its_brackets_gets_them():
    chunks = content_chunks('{"list": [{"a": "b"}')
    chunks[-3] = frame(chunk({}, "length"))
    engine = repairing(FakeEngine(chunks=chunks), known_profile("ours"))
    made = await streamed(engine, call(response_format={"type": "json_object"}, stream=True))
    assert json.loads(text_of(made)) == {"list": [{"a": "b"}]}
    assert reasons_of(made) == ["length"]


async def test_refused_limit_is_clamped_and_asked_for_once_more():
    class Strict(FakeEngine):
        def answer(self, call):
            if call.parsed.get("max_tokens", 2048) > 500:
                return InvalidInputError("request requires 2060 total tokens")
            return super().answer(call)

    fake = Strict()
    engine = repairing(fake, known_profile("gen3"))
    await engine.list_models()
    reply = await engine.post(call())
    assert fake.calls[1].parsed["max_tokens"] == 500
    assert reply.notes.alterations == ("max_tokens: clamped to 500",)


async def test_time_for_a_whole_answer_holds_for_all_its_requests():
    made = replace(call(response_format=FORMAT), timeout_s=0.0)
    with pytest.raises(EngineTimeoutError):
        await repairing(Scripted("x"), known_profile("ours")).post(made)


async def test_text_completions_are_answered_by_chat_where_the_engine_has_no_route_for_them():
    fake = Scripted("Hello")
    engine = repairing(fake, known_profile("gen3"))
    made = Call("/v1/completions", b'{"model": "m:1", "prompt": ["a", "b"]}', "r")
    reply = await engine.post(made)
    answer = json.loads(reply.body)
    assert [choice["text"] for choice in answer["choices"]] == ["Hello", "Hello"]
    assert reply.notes.alterations == ("completions: answered by chat",)
    made = Call("/v1/completions", b'{"model": "m:1", "prompt": "a", "stream": true}', "r")
    async with engine.stream(made) as stream:
        data = b"".join([part async for part in stream])
    assert data.count(b"[DONE]") == 1
    assert b"text_completion" in data


async def test_probe_finds_what_an_engine_does(tmp_path):
    probed = await probe_profile(FakeEngine(chunks=content_chunks("Hel", "lo.")), "m:1", start=known_profile("openai"))
    found = {each.feature: each for each in probed.findings}
    assert probed.profile.json_schema == "ignored"
    assert probed.profile.n == "ignored"
    assert probed.profile.stop == "ignored"
    assert probed.profile.tools == "text"
    assert probed.profile.stream_usage == "present"
    assert found["n"].raw == "n of 2 gives 1"
    cache = ProfileCache(tmp_path / "deep" / "profiles.json")
    cache.put("http://x", "openai", "1", probed.profile)
    assert cache.get("http://x", "openai", "1") == probed.profile
    assert cache.get("http://x", "openai", "2") is None


async def test_probe_of_an_engine_that_is_away_keeps_what_was_believed():
    probed = await probe_profile(
        FakeEngine(error=EngineTimeoutError("silent", limit_s=1.0)), "m:1", start=known_profile("gen3")
    )
    assert probed.profile == known_profile("gen3")
    assert all("failed" in each.raw for each in probed.findings if not each.behaviour)


def test_cache_is_bounded_and_survives_nonsense(tmp_path):
    path = tmp_path / "profiles.json"
    now = iter(range(1000))
    cache = ProfileCache(path, clock=lambda: float(next(now)))
    for number in range(80):
        cache.put(f"http://{number}", "openai", "1", CONFORMING)
    assert cache.get("http://0", "openai", "1") is None
    assert cache.get("http://79", "openai", "1") == CONFORMING
    assert len(json.loads(path.read_bytes())["profiles"]) == 64
    assert list(tmp_path.iterdir()) == [path]
    for nonsense in (
        b"",
        b"[]",
        b'{"format": 9}',
        b'{"format": 1, "profiles": {"openai 1 http://79": {"profile": {"n": "x"}}}}',
    ):
        path.write_bytes(nonsense)
        assert cache.get("http://79", "openai", "1") is None


async def test_facts_come_from_the_lists_that_pass_by():
    fake = FakeEngine(
        cards=[ModelCard("m:1", 1, "t", "loaded", {"context_length": 512, "vision": False, "alias": "m"})]
    )
    engine = repairing(fake)
    await engine.list_models()
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    for name in ("m", "m:1"):
        with pytest.raises(UnsupportedParameterError):
            await engine.post(call(model=name, messages=image))
