"""OpenAI's chunks and answers made from the engine's pieces of text; pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["ChatAnswer", "detailed_usage"]


class ChatAnswer:
    """One answer on its way: its chunks, or the whole of it, in the shape that the engine gives its own."""

    def __init__(self, model_id: str) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(8)}"
        self._created = int(time.time())
        self._model = model_id
        head = orjson.dumps(self._head("chat.completion.chunk"))[:-1]
        self._before = head + b',"choices":[{"index":0,"delta":{"'
        self._texts: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self._texts)

    @property
    def reasoning_pieces(self) -> int:
        """How many pieces of it were reasoning."""
        return len(self._reasoning)

    def first_chunk(self) -> bytes:
        """The chunk that names the speaker."""
        return self._before + b'role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'

    def chunk(self, text: str, *, reasoning: bool) -> bytes:
        """The chunk for one more piece."""
        (self._reasoning if reasoning else self._texts).append(text)
        name = b"reasoning_content" if reasoning else b"content"
        return self._before + name + b'":' + orjson.dumps(text) + b'},"logprobs":null,"finish_reason":null}]}'

    def last_chunk(self, finish_reason: str) -> bytes:
        """The chunk that says why it ended."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason}
        return orjson.dumps(self._head("chat.completion.chunk") | {"choices": [choice]})

    def usage_chunk(self, usage: Mapping[str, Any]) -> bytes:
        """The last frame where the caller asked for its usage."""
        return orjson.dumps(self._head("chat.completion.chunk") | {"choices": [], "usage": usage})

    def whole(self, finish_reason: str, usage: Mapping[str, Any]) -> bytes:
        """The answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return orjson.dumps(self._head("chat.completion") | {"choices": [choice], "usage": usage})

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return head | {"system_fingerprint": None}


def detailed_usage(
    *, prompt_tokens: int, completion_tokens: int, cached_tokens: int, reasoning_tokens: int
) -> dict[str, Any]:
    """OpenAI's ``usage``."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }
