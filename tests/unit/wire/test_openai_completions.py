from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastapi_foundry.errors import InvalidInputError, UnsupportedParameterError
from fastapi_foundry.wire.openai_completions import (
    CompletionStream,
    completion_answer,
    parse_completion_request,
)


def chunk(text: str | None = None, *, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choices = [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}]
    body: dict[str, Any] = {"id": "chatcmpl-1", "created": 5, "model": "m:1", "choices": choices}
    return orjson.dumps(body if usage is None else body | {"choices": [], "usage": usage})


def chat(text: str, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "created": 5,
        "model": "m:1",
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }


def frames(data: bytes) -> list[Any]:
    return [orjson.loads(part[6:]) for part in data.split(b"\n\n") if part and part != b"data: [DONE]"]


def test_each_prompt_becomes_one_chat_request_with_the_shared_parameters():
    request = parse_completion_request(
        {"model": "m", "prompt": ["a", "b"], "max_tokens": 3, "temperature": 0, "best_of": 1, "n": 1, "invented": 1}
    )
    assert request.prompts == ("a", "b")
    assert list(request.chat_bodies) == [
        {"model": "m", "max_tokens": 3, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        for prompt in ("a", "b")
    ]
    assert not request.stream


def test_a_streaming_request_asks_every_chat_for_its_usage():
    request = parse_completion_request({"model": "m", "prompt": "a", "stream": True})
    assert request.chat_bodies[0]["stream_options"] == {"include_usage": True}
    assert not request.include_usage


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": ""}, "prompt.0"),
        ({"model": "m", "prompt": ["a", 1]}, "prompt.1"),
        ({"model": "m", "prompt": ["x"] * 257}, "prompt"),
        ({"model": "m", "prompt": "x", "stream": 1}, "stream"),
        ({"model": "m", "prompt": "x", "echo": "yes"}, "echo"),
        ({"model": "m", "prompt": "x", "stream_options": 1}, "stream_options"),
        ({"model": "m", "prompt": "x", "n": 0}, "n"),
        ({"model": "m", "prompt": "x", "best_of": "two"}, "best_of"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str):
    with pytest.raises(InvalidInputError) as caught:
        parse_completion_request(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"suffix": ""}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_a_facade_over_chat_cannot_do_is_refused(change: dict[str, Any], param: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        parse_completion_request({"model": "m", "prompt": "x"} | change)
    assert caught.value.param == param


def test_answers_become_indexed_choices_and_their_usage_adds_up():
    request = parse_completion_request({"model": "m", "prompt": ["a", "b"], "echo": True})
    answer = completion_answer(request, [chat("1"), chat("2", "length")])
    assert answer["id"] == "cmpl-1"
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == ["a1", "b2"]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "length"]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}


def test_a_stream_has_one_id_echoes_once_and_ends_with_the_usage_that_was_asked_for():
    request = parse_completion_request(
        {"model": "m", "prompt": ["a", "b"], "echo": True, "stream": True, "stream_options": {"include_usage": True}}
    )
    stream = CompletionStream(request)
    data = stream.frame(0, chunk("")) + stream.frame(0, chunk("1")) + stream.frame(0, chunk(finish="stop"))
    data += stream.frame(0, chunk(usage={"prompt_tokens": 1, "completion_tokens": 1}))
    data += stream.frame(1, chunk("2")) + stream.frame(1, chunk(finish="tool_calls"))
    data += stream.frame(1, chunk(usage={"prompt_tokens": 2, "completion_tokens": 2}))
    end = stream.end()
    assert end.endswith(b"data: [DONE]\n\n")
    seen = frames(data + end)
    assert {frame["id"] for frame in seen} == {"cmpl-1"}
    texts = [(frame["choices"][0]["index"], frame["choices"][0]["text"]) for frame in seen[:-1]]
    assert texts == [(0, "a"), (0, "1"), (0, ""), (1, "b2"), (1, "")]
    assert seen[4]["choices"][0]["finish_reason"] == "stop"
    assert seen[-1]["choices"] == []
    assert seen[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def test_without_a_wish_for_usage_the_end_is_done_alone():
    stream = CompletionStream(parse_completion_request({"model": "m", "prompt": "a", "stream": True}))
    assert stream.frame(0, chunk("")) == b""
    assert stream.end() == b"data: [DONE]\n\n"


def test_an_error_frame_is_passed_on():
    stream = CompletionStream(parse_completion_request({"model": "m", "prompt": "a", "stream": True}))
    assert frames(stream.frame(0, b'{"error": {"message": "gone"}}')) == [{"error": {"message": "gone"}}]
