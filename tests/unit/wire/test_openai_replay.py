from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from fastapi_foundry.wire.openai_replay import replayed, replayed_frames
from fastapi_foundry.wire.sse import SSEDecoder

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"id": 1}'}}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chat(*messages: dict[str, Any], reason: str = "stop", logprobs: Any = None, **more: Any) -> bytes:
    choices = [
        {"index": index, "message": {"role": "assistant", "refusal": None, **message}, "logprobs": logprobs}
        | {"finish_reason": reason}
        for index, message in enumerate(messages)
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m:1", "system_fingerprint": "x"}
    return orjson.dumps(head | {"choices": choices, "usage": USAGE} | more)


def frames(body: bytes, *, include_usage: bool = False) -> list[dict[str, Any]]:
    """The chunks; that the end is there, once and last, is checked here."""
    found = list(replayed_frames(body, created=77, include_usage=include_usage))
    events = [event.data for frame in found for event in SSEDecoder().feed(frame)]
    assert len(events) == len(found), "each frame is a whole one"
    assert events[-1] == b"[DONE]"
    return [orjson.loads(data) for data in events[:-1]]


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The message that a client makes of them."""
    message: dict[str, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                for name, value in choice["delta"].items():
                    message[name] = message[name] + value if message.get(name) is not None and value else value
    return message


def test_a_whole_answer_gets_an_id_and_a_time_of_its_own_and_keeps_the_rest():
    body = chat({"content": 'the "id": "chatcmpl-1"', "tool_calls": [CALL]})
    first, second = (orjson.loads(replayed(body, created=77)) for _ in range(2))
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", first["id"])
    assert first["id"] != second["id"]
    assert first["created"] == 77
    assert first | {"id": "chatcmpl-1", "created": 5} == orjson.loads(body)
    text = orjson.loads(replayed(b'{"id":"cmpl-1","object":"text_completion","choices":[]}', created=1))
    assert text["id"].startswith("cmpl-")


@pytest.mark.parametrize("text", ["", "Hi", "é😀" * 500, "x" * 10_000])
def test_a_stream_says_what_the_answer_says(text):
    chunks = frames(chat({"content": text}))
    assert joined(chunks) == {"role": "assistant", "content": text, "refusal": None}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {(chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", 77, "m:1")
    }
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len(chunks) <= 10
    assert not any("usage" in chunk for chunk in chunks)


def test_the_usage_comes_last_and_only_when_asked_for():
    *chunks, last = frames(chat({"content": "Hi"}), include_usage=True)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(chunk["usage"] is None for chunk in chunks)


def test_tool_calls_carry_their_index():
    second = CALL | {"id": "call_2"}
    chunks = frames(chat({"content": None, "tool_calls": [CALL, second]}, reason="tool_calls"))
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls == [{**CALL, "index": 0}, {**second, "index": 1}]
    assert chunks[0]["choices"][0]["delta"]["content"] is None
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_several_choices_and_unknown_fields_of_a_message_are_kept():
    chunks = frames(chat({"content": "one"}, {"content": "two", "reasoning_content": "because"}))
    assert joined(chunks, 0)["content"] == "one"
    assert joined(chunks, 1) == {
        "role": "assistant", "content": "two", "refusal": None, "reasoning_content": "because"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x" * 200, None])
def test_the_probabilities_go_out_once(text):
    logprobs = {"content": [{"token": "x", "logprob": -1.0}], "refusal": None}
    chunks = frames(chat({"content": text}, logprobs=logprobs))
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks].count(logprobs) == 1


def test_text_completions_stream_as_such():
    body = orjson.dumps(
        {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m:1", "usage": USAGE}
        | {"choices": [{"index": 0, "text": "y" * 300, "logprobs": None, "finish_reason": "length"}]}
    )
    *chunks, last = frames(body, include_usage=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "y" * 300
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert {chunk["object"] for chunk in [*chunks, last]} == {"text_completion"}
    assert last["usage"] == USAGE
