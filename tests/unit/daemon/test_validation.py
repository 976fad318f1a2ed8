from __future__ import annotations

from typing import Any

import pytest

from fastapi_foundry.daemon.validation import check_chat, check_embeddings
from fastapi_foundry.errors import InvalidInputError, UnsupportedParameterError

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 0, "top_p": 1, "seed": -1, "max_tokens": 2**62, "stop": "x", "n": 1, "top_k": 40},
        {"stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}},
        {"temperature": None, "max_tokens": None, "stop": None, "tools": None, "tool_choice": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
            ]
        },
        {"messages": [{"role": "assistant", "content": None, "refusal": "no"}]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        {"logit_bias": {}, "presence_penalty": 0.0, "frequency_penalty": 0, "logprobs": False, "top_logprobs": 0},
        {"anything": {"unknown": True}},
    ],
)
def test_what_openai_accepts_and_the_engine_can_do_passes(change: dict[str, Any]):
    check_chat(GOOD | change)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": {}}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.0.tool_calls.0"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
                ]
            },
            "messages.0.tool_calls.0",
        ),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"n": 0}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream_options": []}, "stream_options"),
        ({"logprobs": 1}, "logprobs"),
        ({"tools": ["x"]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: dict[str, Any], param: str):
    with pytest.raises(InvalidInputError) as caught:
        check_chat(GOOD | change)
    assert caught.value.param == param
    assert not isinstance(caught.value, UnsupportedParameterError)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 3}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content.0"),
    ],
)
def test_what_the_engine_would_ignore_is_refused_as_unsupported(change: dict[str, Any], param: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        check_chat(GOOD | change)
    assert caught.value.param == param


@pytest.mark.parametrize("value", ["x", ["x", "y"]])
def test_good_embedding_requests_pass(value: object):
    check_embeddings({"model": "m", "input": value, "encoding_format": "base64"})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["x", " "]}, "input.1"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": 8}, "dimensions"),
    ],
)
def test_bad_embedding_requests_are_refused_by_name(change: dict[str, Any], param: str):
    with pytest.raises(InvalidInputError) as caught:
        check_embeddings({"model": "m"} | change)
    assert caught.value.param == param
