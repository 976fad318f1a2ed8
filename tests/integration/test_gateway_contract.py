"""The contract on the wire, looked at byte by byte: streams, and every bad input."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.http import Answer, ask, event_stream
from tests.support.processes import ProductProcess

MODEL = "foundry-demo:1"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What are you?"}]}


def chat(gateway: ProductProcess, **extra: Any) -> Answer:
    return ask(gateway.url, "/v1/chat/completions", CHAT | extra)


def test_an_answer_has_every_field_of_the_contract(shared_gateway: ProductProcess) -> None:
    answer = chat(shared_gateway, max_tokens=4)
    body = answer.json
    assert answer.status == 200
    assert answer.headers["x-request-id"]
    assert body["object"] == "chat.completion"
    assert body["id"]
    assert body["created"] > 1_700_000_000
    choice = body["choices"][0]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert chat(shared_gateway, max_tokens=1).json["id"] != body["id"]


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_keeps_the_contract(shared_gateway: ProductProcess, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    with event_stream(shared_gateway.url, "/v1/chat/completions", CHAT | {"max_tokens": 5} | options) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-request-id"]
        events = list(stream.events())
    assert events.count("[DONE]") == 1
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    if usage:
        assert with_usage == [chunks[-1]]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 5
    else:
        assert with_usage == []
        assert all(chunk["choices"] for chunk in chunks)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"model": NaN}', None),
        (b'{"model": "\xff\xfe"}', None),
        (b'{"model": "x\\ud800"}', None),
        (b"[" * 100_000, None),
        (b"{}", "model"),
        (json.dumps(CHAT | {"model": 5}).encode(), "model"),
        (json.dumps({"model": MODEL}).encode(), "messages"),
        (json.dumps(CHAT | {"messages": []}).encode(), "messages"),
        (json.dumps(CHAT | {"messages": "hi"}).encode(), "messages"),
        (json.dumps(CHAT | {"messages": [{"role": "pirate", "content": "x"}]}).encode(), "messages.0.role"),
        (json.dumps(CHAT | {"max_tokens": -1}).encode(), "max_tokens"),
        (json.dumps(CHAT | {"max_tokens": 0}).encode(), "max_tokens"),
        (json.dumps(CHAT | {"max_tokens": 10**12}).encode(), "max_tokens"),
        (json.dumps(CHAT | {"max_tokens": "many"}).encode(), "max_tokens"),
        (json.dumps(CHAT | {"temperature": -1}).encode(), "temperature"),
        (json.dumps(CHAT | {"stream": "yes"}).encode(), "stream"),
    ],
)
def test_bad_input_is_400_in_openais_form(shared_gateway: ProductProcess, raw: bytes, param: str | None) -> None:
    answer = ask(shared_gateway.url, "/v1/chat/completions", raw)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert error["code"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
    ],
)
def test_bad_input_is_400_in_the_native_form(shared_gateway: ProductProcess, body: dict[str, Any], param: str) -> None:
    answer = ask(shared_gateway.url, "/api/v1/generate", body)
    assert answer.status == 400
    problem = answer.json
    assert (problem["error"], problem["status_code"], problem["param"]) == ("Invalid input", 400, param)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_404_before_any_event(shared_gateway: ProductProcess, stream: bool) -> None:
    answer = chat(shared_gateway, model="no-such-model", stream=stream)
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert answer.headers["content-type"] == "application/json"
    native = ask(shared_gateway.url, "/api/v1/generate", {"prompt": "x", "model": "no-such-model", "stream": stream})
    assert (native.status, native.json["error"]) == (404, "Model not available")
    assert "no-such-model" in native.json["detail"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_400_with_both_numbers(shared_gateway: ProductProcess, stream: bool) -> None:
    answer = chat(shared_gateway, messages=[{"role": "user", "content": "word " * 20_000}], stream=stream)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert len(re.findall(r"\d+", error["message"])) >= 2


def test_max_tokens_beyond_the_context_is_clamped(shared_gateway: ProductProcess) -> None:
    answer = chat(shared_gateway, max_tokens=1_000_000, stop=["a"], temperature=0)
    assert answer.status == 200


def test_a_body_of_50_mb_is_413(shared_gateway: ProductProcess) -> None:
    raw = b'{"model":"' + b"x" * (50 * 1024 * 1024) + b'"}'
    answer = ask(shared_gateway.url, "/v1/chat/completions", raw)
    assert (answer.status, answer.json["error"]["code"]) == (413, "body_too_large")
    native = ask(shared_gateway.url, "/api/v1/generate", raw)
    assert (native.status, native.json["status_code"]) == (413, 413)


def test_no_error_shows_the_inside(shared_gateway: ProductProcess) -> None:
    answers = [
        chat(shared_gateway, model="no-such-model"),
        chat(shared_gateway, messages=[{"role": "user", "content": "word " * 20_000}]),
        ask(shared_gateway.url, "/v1/embeddings", {"model": MODEL, "input": "x"}),
        chat(shared_gateway, logprobs=True),
    ]
    for answer in answers:
        assert answer.status >= 400
        text = answer.body.decode()
        assert not re.search(r"Traceback|\.(py|cc|cpp|h)\b|127\.0\.0\.1|/root|/home|/tmp", text), text


def test_a_million_characters_in_a_string_are_taken_or_refused_in_words(shared_gateway: ProductProcess) -> None:
    answer = chat(shared_gateway, user="u" * 1_000_000, max_tokens=1)
    assert answer.status == 200
    assert chat(shared_gateway, model="m" * 1_000_000).status == 400
