from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    model_entry,
    with_usage_requested,
)
from fastapi_foundry.wire.validation import parse_object, validate

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}


def refused(model: Any, body: dict[str, Any]) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        validate(model, body)
    return caught.value


@pytest.mark.parametrize(
    "extra",
    [
        {"messages": [{"role": role, "content": "x"} for role in ("developer", "system", "user", "assistant")]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "url": {}}]}]},
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "", "tool_call_id": "c1"},
            ]
        },
        {"messages": [{"role": "assistant", "content": None, "refusal": "no"}]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": "auto"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}}},
        {"stop": "x", "seed": -5, "n": 2, "temperature": 0, "top_p": 1, "max_completion_tokens": 1},
        {"stop": ["a", "b"], "logprobs": True, "top_logprobs": 3, "user": "u", "logit_bias": {"5": -100}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": None, "temperature": None, "max_tokens": None, "stop": None, "tools": None},
        {"never_heard_of": {"x": [1]}, "keep_alive": "5m"},
    ],
)
def test_chat_takes_what_openai_takes(extra: dict[str, Any]) -> None:
    validate(ChatCompletionRequest, CHAT | extra)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "alien", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages.1.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"stop": [1]}, "stop.0"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"1": 200}}, "logit_bias.1"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "other"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [TOOL]}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"user": 5}, "user"),
    ],
)
def test_chat_names_the_field_that_is_wrong(extra: dict[str, Any], param: str) -> None:
    fact = refused(ChatCompletionRequest, CHAT | extra)
    assert fact.param == param
    assert f"'{param}'" in fact.message


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_chat_names_the_field_that_is_missing(missing: str) -> None:
    fact = refused(ChatCompletionRequest, {key: value for key, value in CHAT.items() if key != missing})
    assert (fact.param, fact.code) == (missing, "missing_required_parameter")


def test_an_error_never_repeats_what_the_client_wrote() -> None:
    fact = refused(ChatCompletionRequest, CHAT | {"messages": [{"role": "user", "content": {"secret": "s3cr3t"}}]})
    assert "s3cr3t" not in fact.message


@pytest.mark.parametrize("prompt", ["x", "", ["x", "y"], [1, 2], [[1], [2]]])
def test_completions_takes_every_kind_of_prompt(prompt: Any) -> None:
    validate(CompletionRequest, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": []}, "prompt"),
        ({"model": "m", "prompt": 5}, "prompt"),
        ({"model": "m", "prompt": ["x", 5]}, "prompt.1"),
        ({"model": "m", "prompt": "x", "logprobs": 9}, "logprobs"),
        ({"model": "m", "prompt": "x", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "x"}, "model"),
    ],
)
def test_completions_names_the_field_that_is_wrong(body: dict[str, Any], param: str) -> None:
    assert refused(CompletionRequest, body).param == param


@pytest.mark.parametrize("value", ["x", ["x"], [1, 2], [[1, 2], [3]]])
def test_embeddings_takes_every_kind_of_input(value: Any) -> None:
    validate(EmbeddingRequest, {"model": "m", "input": value, "encoding_format": "base64"})


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["x", ""]}, "input.1"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
    ],
)
def test_embeddings_names_the_field_that_is_wrong(extra: dict[str, Any], param: str) -> None:
    assert refused(EmbeddingRequest, {"model": "m"} | extra).param == param


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no body"),
        (b"{", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":1e999}', "not valid JSON"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "not valid JSON"),
        (b"[]", "not an array"),
        (b'"x"', "not a string"),
        (b"null", "not null"),
        (b"5", "not a number"),
        (b"true", "not a boolean"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_words(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_object(body)


def test_asking_for_usage_keeps_everything_else() -> None:
    body = b' \n{ "model": "m", "stream": true }'
    assert orjson.loads(with_usage_requested(body)) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_model_entry_starts_with_openais_fields_and_never_lets_the_engine_replace_them() -> None:
    entry = model_entry("m:1", 5, "us", "loaded", {"alias": "m", "object": "bogus"})
    assert list(entry) == ["id", "object", "created", "owned_by", "state", "alias"]
    assert entry["object"] == "model"
