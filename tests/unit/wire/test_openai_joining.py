from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastapi_foundry.wire.openai_joining import AnswerJoiner
from fastapi_foundry.wire.openai_replay import replayed_frames
from fastapi_foundry.wire.sse import DONE, encode_json

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "ä"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "go", "arguments": "{}"}},
]


def chat(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "logprobs": None, "finish_reason": reason, "message": {"role": "assistant"} | message}
    head = {"id": "c1", "created": 1, "model": "m:1", "object": "chat.completion"}
    return head | {"choices": [choice], "usage": USAGE}


def text(words: str) -> dict[str, Any]:
    choice = {"index": 0, "logprobs": None, "finish_reason": "length", "text": words}
    return {"id": "c1", "created": 1, "model": "m:1", "object": "text_completion", "choices": [choice], "usage": USAGE}


def joined(frames: bytes, *, is_text: bool = False, max_chars: int = 10_000, piece: int = 7) -> dict[str, Any] | None:
    joiner = AnswerJoiner(is_text=is_text, max_chars=max_chars)
    for at in range(0, len(frames), piece):
        joiner.feed(frames[at : at + piece])
    answer = joiner.answer(USAGE)
    return None if answer is None else orjson.loads(answer)


def frames(*choices: dict[str, Any]) -> bytes:
    head = {"id": "c1", "created": 1, "model": "m:1", "object": "chat.completion.chunk"}
    return b"".join(encode_json(head | {"choices": [choice]}) for choice in choices) + DONE


@pytest.mark.parametrize(
    "answer",
    [
        chat({"content": "Hello, wörld. " * 40, "refusal": None}),
        chat({"content": "", "refusal": None}, "length"),
        chat({"content": None, "refusal": "No."}),
        chat({"content": "So.", "refusal": None, "reasoning_content": "Hm."}),
        chat({"content": None, "refusal": None, "tool_calls": CALLS}, "tool_calls"),
        text("Once upon a time " * 20),
        text(""),
    ],
)
@pytest.mark.parametrize("include_usage", [False, True])
def test_the_frames_of_an_answer_are_that_answer_again(answer: dict[str, Any], include_usage: bool) -> None:
    is_text = answer["object"] == "text_completion"
    sent = b"".join(replayed_frames(orjson.dumps(answer), created=9, include_usage=include_usage))
    again = joined(sent, is_text=is_text)
    assert again is not None
    assert again["id"] != answer["id"]
    assert again | {"id": "c1", "created": 1} == answer


@pytest.mark.parametrize(
    "choices",
    [
        [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],  # no end
        [{"index": 1, "delta": {"content": "a"}, "finish_reason": "stop"}],
        [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": []}}],
        [{"index": 0, "delta": {"content": ["a"]}, "finish_reason": "stop"}],
        [{"index": 0, "delta": {"audio": {"id": "a"}}, "finish_reason": "stop"}],
        [{"index": 0, "delta": {"tool_calls": [{"id": "a"}]}, "finish_reason": "tool_calls"}],
        [{"index": 0, "delta": {"content": "a" * 101}, "finish_reason": "stop"}],
    ],
)
def test_of_what_it_does_not_know_it_makes_no_answer(choices: list[dict[str, Any]]) -> None:
    assert joined(frames(*choices), max_chars=100) is None


def test_nor_of_what_is_no_answer() -> None:
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert joined(frames(end)) is not None
    assert joined(b'data: {"error": {"message": "it broke"}}\n\n' + frames(end)) is None
    assert joined(b"data: nonsense\n\n" + frames(end)) is None
    joiner = AnswerJoiner(is_text=False, max_chars=100)
    joiner.feed(frames(end))
    assert joiner.answer({}) is None
