"""A tool call that the token limit cut off, in the words in which Foundry Local 2.2 fails then."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fastapi_foundry.engines.base import Call
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.profile import EngineProfile, known_profile
from fastapi_foundry.errors import EngineFailedError, FoundryError, InvalidInputError
from fastapi_foundry.wire.engine_text import INVALID_TOOL_CALL
from fastapi_foundry.wire.errors import fact_from_response
from tests.support.fake_engine import FakeEngine, chunk, frame

GEN3 = known_profile("gen3")
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CUT = (
    "chat_session.cc:968 void fl::{anonymous}::ThrowInvalidToolCallWithoutRecovery(const std::string&) Model emitted an "
    "invalid tool call: Tool-call output was interrupted before the batch could be committed. Recovery requires more"
)
RETRIED = (
    "chat_session.cc:800 void fl::{anonymous}::ThrowInvalidGuidedToolRetry(const std::string&) Model emitted a "
    "malformed tool call and guided recovery did not produce a valid tool call: "
)
UNFIT = (
    "tool_call_plan.cc:30 void fl::{anonymous}::Fail(flErrorCode, std::string_view, std::string_view) tool 'weather': "
    "instance '/city', keyword '/properties/city/type': Expected integer, found string"
)
NOTE = "tools: the call was cut off at the token limit"
ROLE = frame(chunk({"role": "assistant", "content": ""}))
CALL = {"id": "c1", "type": "function", "index": 0, "function": {"name": "weather", "arguments": "{}"}}


def envelope(message: str) -> dict[str, Any]:
    return {"error": {"code": None, "message": message, "param": None, "type": "server_error"}}


def failure(message: str) -> FoundryError:
    return fact_from_response(500, json.dumps(envelope(f"Inference failed: {message}")).encode())


def repairing(fake: FakeEngine, profile: EngineProfile = GEN3) -> RepairingEngine:
    return RepairingEngine(fake, lambda: profile)


def call(**values: Any) -> Call:
    body = {"model": "m:1", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "max_tokens": 3} | values
    return Call("/v1/chat/completions", json.dumps(body).encode(), "r1")


async def whole(fake: FakeEngine, profile: EngineProfile = GEN3, **values: Any) -> tuple[dict[str, Any], list[str]]:
    reply = await repairing(fake, profile).post(call(**values))
    return json.loads(reply.body), list(reply.notes.alterations)


async def streamed(fake: FakeEngine, profile: EngineProfile = GEN3, **values: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that ends normally."""
    async with repairing(fake, profile).stream(call(stream=True, **values)) as stream:
        data = b"".join([part async for part in stream])
    *frames, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(each.removeprefix(b"data: ")) for each in frames]


class Refusing(FakeEngine):
    """Takes no limit above 500 and fails with the cut call otherwise."""

    def refuse(self, call: Call) -> None:
        if call.parsed["max_tokens"] > 500:
            raise InvalidInputError("request requires 100012 total tokens, maximum context length of 512 tokens")

    def answer(self, call):
        self.refuse(call)
        return failure(CUT)

    @asynccontextmanager
    async def stream(self, call):
        self.refuse(call)
        async with super().stream(call) as stream:
            yield stream


async def test_whole_answer_ends_with_length_and_says_so():
    answer, notes = await whole(FakeEngine(error=failure(CUT)))
    (choice,) = answer["choices"]
    message = {"role": "assistant", "content": "", "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    assert (answer["object"], answer["model"]) == ("chat.completion", "m:1")
    assert answer["usage"]["completion_tokens"] == 3
    # The tools are a part of the prompt.
    assert answer["usage"]["prompt_tokens"] > len(json.dumps(TOOLS)) / 5
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 3
    assert notes == [NOTE, "usage: the prompt is estimated from the text"]


@pytest.mark.parametrize("usage", [True, False])
async def test_stream_keeps_its_text_and_ends_with_length(usage: bool):
    fake = FakeEngine(chunks=[ROLE, frame(chunk({"content": "Let me see."})), frame(envelope(CUT))])
    chunks = await streamed(fake, stream_options={"include_usage": usage})
    last = chunks.pop() if usage else None
    choices = [each["choices"][0] for each in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Let me see."},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
    assert {each["id"] for each in chunks} == {"c1"}
    if last is not None:
        assert (last["id"], last["choices"], last["usage"]["completion_tokens"]) == ("c1", [], 3)


async def test_calls_that_were_complete_stay_calls():
    fake = FakeEngine(chunks=[ROLE, frame(chunk({"tool_calls": [CALL]})), frame(envelope(CUT))])
    chunks = await streamed(fake)
    assert chunks[1]["choices"][0]["delta"]["tool_calls"] == [CALL]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("profile", [GEN3, replace(GEN3, finish_reason="right", tool_deltas="complete")])
@pytest.mark.parametrize("usage", [True, False])
async def test_stream_that_fails_before_its_first_chunk_is_cut_too(profile: EngineProfile, usage: bool):
    chunks = await streamed(FakeEngine(error=failure(CUT)), profile, stream_options={"include_usage": usage})
    last = chunks.pop() if usage else None
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None, "length"]
    assert last is None or last["usage"]["completion_tokens"] == 3


async def test_first_event_that_is_the_failure_is_cut_too():
    chunks = await streamed(FakeEngine(chunks=[frame(envelope(CUT))]))
    (choice,) = [each["choices"][0] for each in chunks]
    assert choice["delta"] == {"role": "assistant", "content": ""}
    assert choice["finish_reason"] == "length"
    assert chunks[0]["model"] == "m:1"


@pytest.mark.parametrize("early", [True, False])
async def test_engine_that_is_asked_by_streams_for_its_usage(early: bool):
    fake = FakeEngine(error=failure(CUT)) if early else FakeEngine(chunks=[ROLE, frame(envelope(CUT))])
    answer, notes = await whole(fake, replace(GEN3, usage="missing"))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens"] == 3
    assert notes == [NOTE, "usage: the prompt is estimated from the text"]


async def test_a_limit_that_was_clamped_is_what_was_used_up():
    answer, notes = await whole(Refusing(), max_tokens=100_000)
    assert answer["usage"]["completion_tokens"] == 500
    assert notes[-1] == "max_tokens: clamped to 500"
    streaming = Refusing(chunks=[ROLE, frame(envelope(CUT))])
    usage = (await streamed(streaming, max_tokens=100_000, stream_options={"include_usage": True}))[-1]["usage"]
    assert usage["completion_tokens"] == 500


async def test_request_without_a_limit_has_used_up_the_engines_own():
    answer, _ = await whole(FakeEngine(error=failure(CUT)), max_tokens=None)
    assert answer["usage"]["completion_tokens"] == 2048


async def test_one_choice_of_several_is_cut_and_told():
    class Once(FakeEngine):
        def answer(self, call):
            return failure(CUT) if len(self.calls) == 1 else super().answer(call)

    answer, notes = await whole(Once(), n=2)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "stop"]
    assert NOTE in notes


async def test_recovery_of_the_engine_may_be_cut_as_well():
    answer, _ = await whole(FakeEngine(error=failure(RETRIED + "Tool-call output was interrupted before the batch")))
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("message", [RETRIED + "Missing token-owned tool-call boundaries", UNFIT])
async def test_call_that_is_wrong_in_another_way_is_said_to_make_no_sense(message: str):
    with pytest.raises(EngineFailedError) as caught:
        await whole(FakeEngine(error=failure(message)))
    assert caught.value.message == INVALID_TOOL_CALL
    with pytest.raises(EngineFailedError) as caught:
        await streamed(FakeEngine(chunks=[ROLE, frame(envelope(message))]))
    assert caught.value.message == INVALID_TOOL_CALL


async def test_schema_of_a_tool_that_the_engine_refuses_is_no_call_of_the_model():
    refusal = "tool_call_plan.cc:30 void fl::{anonymous}::Fail() tools/0/function 'f'/parameters: instance '', no"
    with pytest.raises(EngineFailedError) as caught:
        await whole(FakeEngine(error=failure(refusal)))
    assert caught.value.message == "The engine failed to answer the request."


async def test_without_tools_it_is_a_failure_whatever_the_engine_says():
    with pytest.raises(EngineFailedError):
        await whole(FakeEngine(error=failure(CUT)), tools=None)
    with pytest.raises(EngineFailedError):
        await streamed(FakeEngine(chunks=[ROLE, frame(envelope(CUT))]), tools=None)
