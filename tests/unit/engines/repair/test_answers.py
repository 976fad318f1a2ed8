from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_foundry.engines.repair.answers import parse_answer, raise_hidden_error, repair_answer, usage_of
from fastapi_foundry.engines.repair.json_text import find_json
from fastapi_foundry.engines.repair.profile import known_profile
from fastapi_foundry.engines.repair.requests import Plan
from fastapi_foundry.engines.repair.structured import MAX_ASKED, ask_until_valid, prepare_format
from fastapi_foundry.engines.repair.text_gate import TextGate
from fastapi_foundry.engines.repair.tool_text import check_calls, find_calls, may_begin_call
from fastapi_foundry.errors import EngineFailedError, FoundryError, InvalidInputError, StructuredOutputError

PLAN = Plan(request={"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 9})
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


def answer(text: str | None, *, finish_reason: str | None = None, **message) -> dict:
    return {"choices": [{"message": {"content": text, **message}, "finish_reason": finish_reason}]}


def test_bare_answer_gets_everything_that_clients_expect():
    made = answer("Hello")
    notes = repair_answer(made, PLAN)
    choice = made["choices"][0]
    assert made["id"].startswith("chatcmpl-")
    assert (made["object"], made["model"]) == ("chat.completion", "m")
    assert made["created"] > 1_700_000_000
    assert made["usage"]["total_tokens"] == made["usage"]["prompt_tokens"] + made["usage"]["completion_tokens"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert notes == ["usage: estimated from the text"]


def test_right_answer_stays_as_it_is():
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    right = {"id": "a", "object": "chat.completion", "created": 3, "model": "m", "choices": [choice], "usage": usage}
    made = json.loads(json.dumps(right))
    assert repair_answer(made, PLAN) == []
    assert made == right


def test_finish_reason_is_length_when_the_limit_was_reached_and_tool_calls_when_there_are_some():
    made = answer("x") | {"usage": {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 1}}
    repair_answer(made, PLAN)
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["total_tokens"] == 10
    made = answer("", finish_reason="stop", tool_calls=[{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}])
    repair_answer(made, PLAN)
    choice = made["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    call = choice["message"]["tool_calls"][0]
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["arguments"], "index" in call) == ("function", '{"a":1}', False)


def test_text_ends_before_the_first_stop_sequence():
    made = answer("one two three", finish_reason="length")
    notes = repair_answer(made, replace(PLAN, stops=("three", "two")))
    assert made["choices"][0]["message"]["content"] == "one "
    assert made["choices"][0]["finish_reason"] == "stop"
    assert "stop: text cut by the gateway" in notes


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"text": "x"}]}', b"nonsense"])
def test_answer_that_is_none_is_the_engines_failure(body):
    with pytest.raises(EngineFailedError):
        parse_answer(body)


def test_error_with_status_200_is_the_error_that_it_is():
    with pytest.raises(InvalidInputError, match="too long"):
        raise_hidden_error(b' {"error": {"message": "too long", "type": "invalid_request_error", "code": null}}')
    with pytest.raises(FoundryError):
        raise_hidden_error(b'{"error":"it broke"}')
    raise_hidden_error(b'{"error": null, "choices": []}')
    raise_hidden_error(b'{"id": "x", "error": {}}')


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": "5"}, 3])
def test_usage_that_counts_nothing_is_no_usage(usage):
    assert usage_of(usage) is None


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        ('{"a": 1}', {"a": 1}, ""),
        (' \n{"a": 1}\n\n ', {"a": 1}, ""),
        ('```json\n{"a": 1}\n```', {"a": 1}, "fences removed"),
        ("Here it is:\n```\n[1]\n```\nDone.", [1], "fences removed"),
        ('Sure! {"a": {"b": 2}} I hope so.', {"a": {"b": 2}}, "text around removed"),
        ('{"a": [1, 2], "b": ["x"', {"a": [1, 2], "b": ["x"]}, "brackets closed"),
        ('{"a": {"b": "}"},', {"a": {"b": "}"}}, "brackets closed"),
    ],
)
def test_json_is_found(text, value, how):
    found = next(iter(find_json(text)))
    assert (found.value, found.how) == (value, how)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        '{"a": "cut',
        '{"a": 12',
        '{"a": tru',
        '{"a":',
        '{"a": [1}',
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": {"b": 1} x',
    ],
)
def test_json_that_lost_more_than_brackets_is_not_made_up(text):
    assert [found.value for found in find_json(text)] == []


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), st.lists, max_leaves=5))
def test_json_is_read_as_it_stands(value):
    text = json.dumps(value)
    assert [(found.value, found.how) for found in find_json(text)] == [(value, "")]


@given(st.text(alphabet="abX", max_size=30), st.integers(1, 4))
def test_gate_passes_exactly_what_comes_before_the_mark(text, size):
    gate = TextGate(["aXb", "bb"])
    passed = "".join(gate.feed(text[at : at + size]) for at in range(0, len(text), size))
    places = [place for mark in ("aXb", "bb") if (place := text.find(mark)) >= 0]
    if gate.found is None:
        assert not places
        assert passed + gate.flush() == text
    else:
        assert passed == text[: min(places)]
        assert gate.flush().startswith(gate.found)


@pytest.mark.parametrize(
    ("text", "around"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", ""),
        (f"I will look. <tool_call>{CALL}</tool_call>", "I will look."),
        (f"<tool_call>{CALL}", ""),
        (f"[TOOL_CALLS] [{CALL}]", ""),
        (f"functools[{CALL}]", ""),
        (f"```json\n{CALL}\n```", ""),
        (CALL, ""),
        ('{"name": "weather", "parameters": {"city": "Rome"}}', ""),
        ('{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}}', ""),
    ],
)
async def test_calls_are_read_from_every_form(text, around):
    found = find_calls(text, [WEATHER])
    assert found.calls == (("weather", {"city": "Rome"}),)
    assert found.text == around
    assert await check_calls(found, [WEATHER]) == ""


@pytest.mark.parametrize(
    "text", ["Hello", '{"answer": 42}', '{"name": "Ann", "arguments": {}}', "```python\nx = 1\n```"]
)
def test_text_and_json_answers_are_no_calls(text):
    assert find_calls(text, [WEATHER]) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<tool_call>{"name": "weather"', "not valid JSON"),
        ('<tool_call>{"name": "rain", "arguments": {}}</tool_call>', "no tool 'rain'"),
        ('<tool_call>{"name": "weather", "arguments": {}}</tool_call>', "'city' is a required property"),
        ('<tool_call>{"name": 3}</tool_call>', "no name"),
    ],
)
async def test_calls_that_cannot_be_made_have_a_reason(text, problem):
    found = find_calls(text, [WEATHER])
    assert problem in await check_calls(found, [WEATHER])


def test_beginning_of_a_text_tells_whether_to_wait():
    assert all(may_begin_call(text) for text in ("", " ", "`", "```", '{"na', " ["))
    assert not any(may_begin_call(text) for text in ("Hello", "`code`", "42"))


def structured(schema: dict) -> dict:
    wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"model": "m", "messages": [{"role": "user", "content": "?"}], "response_format": wrapped}


async def asked(request: dict, *texts: str, finish_reason: str = "stop", kind: str = "ours"):
    seen = []

    async def ask(made):
        seen.append(made)
        return answer(texts[min(len(seen), len(texts)) - 1], finish_reason=finish_reason)

    form = await prepare_format(request, known_profile(kind))
    try:
        made, notes = await ask_until_valid(ask, request, form)
    except StructuredOutputError as error:
        return error, seen
    return (made["choices"][0]["message"]["content"], made["choices"][0]["finish_reason"], notes), seen


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "content", "notes"),
    [
        ('{"a": 1}', '{"a": 1}', []),
        ('```json\n{"a": 1}\n```', '{"a": 1}', ["response_format: fences removed"]),
        ('{"a": "1"}', '{"a":1}', ["response_format: quoted values unquoted"]),
    ],
)
async def test_answer_that_keeps_to_the_schema_is_asked_for_once(text, content, notes):
    outcome, seen = await asked(structured(OBJECT), text)
    assert outcome == (content, "stop", notes)
    assert len(seen) == 1


async def test_wrong_answer_is_shown_with_its_error_and_asked_for_again_with_less_room():
    outcome, seen = await asked(structured(OBJECT) | {"seed": 1, "temperature": 0.9}, '{"a": 1.5}', '{"a": 2}')
    assert outcome[0] == '{"a": 2}'
    assert outcome[2] == ["response_format: asked 2 times"]
    first, second = seen
    assert second["seed"] != first["seed"]
    assert second["temperature"] < first["temperature"]
    assert second["messages"][-2]["content"] == '{"a": 1.5}'
    assert "breaks 'type'" in second["messages"][-1]["content"]
    assert "maximum" in str(second["response_format"])
    assert "maximum" not in str(first["response_format"])


@pytest.mark.parametrize("text", ['{"a": "1.0"}', '{"a": "01"}', '{"a": "one"}', '{"a": true}', '{"b": 1}'])
async def test_what_cannot_be_repaired_without_loss_is_refused_in_the_end(text):
    outcome, seen = await asked(structured(OBJECT), text)
    assert isinstance(outcome, StructuredOutputError)
    assert "breaks '" in outcome.message
    assert len(seen) == MAX_ASKED


async def test_answer_cut_by_the_limit_says_so():
    outcome, _ = await asked(structured(OBJECT), '{"a": 12', finish_reason="length")
    assert isinstance(outcome, StructuredOutputError)
    assert "max_tokens" in outcome.message
    outcome, _ = await asked(structured({"type": "integer"}), "12", finish_reason="length")
    assert isinstance(outcome, StructuredOutputError)


async def test_document_that_was_whole_before_the_limit_ended_by_itself():
    outcome, _ = await asked(structured(OBJECT), '{"a": 1}     ', finish_reason="length")
    assert outcome[:2] == ('{"a": 1}', "stop")


async def test_engine_without_schemas_gets_it_in_the_prompt():
    outcome, seen = await asked(structured(OBJECT), '{"a": 1}', kind="gen1")
    assert outcome[0] == '{"a": 1}'
    assert "response_format" not in seen[0]
    assert orjson.dumps(OBJECT).decode() in seen[0]["messages"][0]["content"]


async def test_bare_schema_is_sent_bare():
    _, seen = await asked(structured(OBJECT), '{"a": 1}', kind="gen3")
    assert seen[0]["response_format"]["json_schema"]["properties"] == OBJECT["properties"]


async def test_schema_that_the_engine_cannot_compile_is_put_into_the_prompt():
    seen = []

    async def ask(made):
        seen.append(made)
        if len(seen) == 1:
            raise EngineFailedError("The engine failed: Error creating grammar: too large")
        return answer('{"a": 1}', finish_reason="stop")

    request = structured(OBJECT)
    made, _ = await ask_until_valid(ask, request, await prepare_format(request, known_profile("ours")))
    assert made["choices"][0]["message"]["content"] == '{"a": 1}'
    assert len(seen) == 2
    assert seen[1]["messages"][0]["role"] == "system"
