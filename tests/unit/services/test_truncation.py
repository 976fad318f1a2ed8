from __future__ import annotations

from typing import Any

import pytest

from fastapi_foundry.engines.base import Call, TokenCount
from fastapi_foundry.errors import ContextLengthExceededError, EngineFailedError, InvalidInputError
from fastapi_foundry.services.context import ContextService, estimated_tokens
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.truncation import Truncation, droppable, is_asked, reserve_for, without
from tests.support.fake_engine import FakeEngine

CONTEXT = 512


def words(number: int, word: str = "word") -> str:
    return " ".join([word] * number)


def message(role: str, number: int = 10, **further: Any) -> dict[str, Any]:
    return {"role": role, "content": words(number)} | further


def call_of(tool: str) -> dict[str, Any]:
    calls = [{"id": tool, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result_of(tool: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": tool, "content": words(10)}


def by_words(call: Call) -> TokenCount:
    """A token for each word, and one for each message."""
    texts = [message.get("content") or "" for message in call.parsed["messages"]]
    return TokenCount(sum(len(text.split()) + 1 for text in texts), CONTEXT)


def request(*messages: dict[str, Any], **further: Any) -> Call:
    body = {"model": "m:1", "messages": list(messages), "truncation": "auto"} | further
    return Call("/v1/chat/completions", b"").with_parsed(body)


def truncation(engine: FakeEngine) -> Truncation:
    return Truncation(ContextService(engine, ModelsService(engine)))


def test_earlier_turns_go_oldest_first_and_instructions_stay():
    roles = ["system", "user", "assistant", "developer", "user", "assistant", "user"]
    assert droppable([message(role) for role in roles]) == [(1, 2), (4, 5)]


def test_a_result_goes_with_its_call_and_the_latest_exchange_stays():
    messages = [
        message("user"),
        call_of("a"),
        result_of("a"),
        message("assistant"),
        message("user"),
        call_of("b"),
        result_of("b"),
        result_of("b2"),
        call_of("c"),
        result_of("c"),
    ]
    assert droppable(messages) == [(0, 1, 2, 3), (5, 6, 7)]


def test_a_greeting_of_the_assistant_is_a_turn_of_its_own():
    assert droppable([message("assistant"), message("user"), message("assistant"), message("user")]) == [(0,), (1, 2)]


@pytest.mark.parametrize("messages", [[message("user")], [message("system")], [message("assistant")], []])
def test_there_may_be_nothing_to_leave_out(messages: list[dict[str, Any]]):
    assert droppable(messages) == []
    assert without(messages, []) == messages


async def test_a_request_that_fits_is_left_alone_but_for_the_field():
    engine = FakeEngine(counts=by_words)
    call, cut = await truncation(engine).fitted(request(message("user"), max_tokens=50))
    assert cut is None
    assert call.parsed == {"model": "m:1", "messages": [message("user")], "max_tokens": 50}


async def test_no_more_is_left_out_than_has_to_be():
    turns = [message(role, 49) for _ in range(10) for role in ("user", "assistant")]
    asked = request(message("system", 9), *turns, message("user", 9), max_tokens=100)
    call, cut = await truncation(FakeEngine(counts=by_words)).fitted(asked)
    # 412 tokens are free; 20 are for what has to stay, so three turns of 100 do fit.
    assert call.parsed["messages"] == [message("system", 9), *turns[14:], message("user", 9)]
    assert cut is not None
    assert (cut.messages, cut.tokens, cut.header) == (14, 700, "messages=14; tokens=700")


async def test_few_counts_do():
    counts = 0

    def counting(call: Call) -> TokenCount:
        nonlocal counts
        counts += 1
        return by_words(call)

    turns = [message(role, 9) for _ in range(100) for role in ("user", "assistant")]
    await truncation(FakeEngine(counts=counting)).fitted(request(*turns, message("user"), max_tokens=100))
    assert counts <= 10


async def test_the_answer_gets_what_is_left_when_all_is_left_out_that_may_be():
    asked = request(message("user", 400), message("assistant", 400), message("user", 480), max_tokens=200)
    call, cut = await truncation(FakeEngine(counts=by_words)).fitted(asked)
    assert len(call.parsed["messages"]) == 1
    assert cut is not None
    assert cut.messages == 2


async def test_what_may_not_be_left_out_and_does_not_fit_is_refused_with_its_own_length():
    asked = request(message("system", 300), message("user", 100), message("assistant", 100), message("user", 300))
    with pytest.raises(ContextLengthExceededError) as caught:
        await truncation(FakeEngine(counts=by_words)).fitted(asked)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (602, CONTEXT)


async def test_without_a_counting_engine_an_estimate_stands_for_the_count():
    turns = [message(role, 50) for _ in range(10) for role in ("user", "assistant")]
    call, cut = await truncation(FakeEngine()).fitted(request(*turns, message("user"), max_tokens=100))
    assert cut is not None
    assert 0 < len(call.parsed["messages"]) < 21
    assert estimated_tokens(call.parsed) <= CONTEXT - 100
    # What the estimate finds too long is still the engine's to refuse.
    call, cut = await truncation(FakeEngine()).fitted(request(message("user", 5000)))
    assert cut is None


async def test_an_engine_that_fails_to_count_says_so():
    engine = FakeEngine(error=EngineFailedError("no"))
    with pytest.raises(EngineFailedError):
        await truncation(engine).fitted(request(message("user")))


def test_it_is_asked_for_in_the_body_or_by_the_header():
    assert is_asked({"truncation": "auto"})
    assert is_asked({}, " Auto ")
    assert not is_asked({})
    assert not is_asked({"truncation": "disabled"}, "auto")
    for body, header, param in (({"truncation": 1}, None, "truncation"), ({}, "yes", "x-foundry-truncation")):
        with pytest.raises(InvalidInputError) as caught:
            is_asked(body, header)
        assert caught.value.param == param


def test_the_reserve_is_what_the_answer_may_have():
    assert reserve_for({"max_tokens": 100}, 4096) == 100
    assert reserve_for({"max_completion_tokens": 100, "max_tokens": 5}, 4096) == 100
    assert reserve_for({"max_tokens": 4096}, 4096) == 2048
    assert reserve_for({}, 4096) == 1024
    assert reserve_for({}, 131072) == 2048


async def test_a_measured_prompt_says_what_is_left_for_the_answer():
    engine = FakeEngine(counts=by_words)
    service = ContextService(engine, ModelsService(engine))
    size = await service.measure(request(message("user", 99)))
    assert (size.model, size.prompt_tokens, size.context_length, size.max_output_tokens, size.exact) == (
        "m:1",
        100,
        CONTEXT,
        412,
        True,
    )
    other = await service.measure(Call("/v1/chat/completions", b"").with_parsed(request().parsed | {"model": "other"}))
    assert other.model == "other:2"
    engine.counts = None
    size = await service.measure(request(message("user", 99)))
    assert (size.exact, size.context_length) == (False, CONTEXT)
