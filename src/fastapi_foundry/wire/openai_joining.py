"""The frames of a stream of OpenAI's API as the one whole answer that they make up. No input or output."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.wire.sse import SSEDecoder

__all__ = ["AnswerJoiner"]

_HEAD: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_DONE: Final = b"[DONE]"


class AnswerJoiner:
    """Joins the frames of one choice; of whatever it does not know how to join it makes no answer.

    Args:
        is_text: Whether they are of text completions, and not of chat.
        max_chars: Longest text that is kept in memory, all of its kinds together.
    """

    def __init__(self, *, is_text: bool, max_chars: int) -> None:
        self._is_text = is_text
        self._room = max_chars
        self._decoder = SSEDecoder()
        self._head: dict[str, Any] = {}
        self._texts: dict[str, io.StringIO] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason: str | None = None
        self._gave_up = False

    def feed(self, frames: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._gave_up:
            return
        try:
            for event in self._decoder.feed(frames):
                if event.data != _DONE:
                    self._take(orjson.loads(event.data))
        except (ValueError, TypeError, KeyError, AttributeError):
            self._give_up()

    def answer(self, usage: Mapping[str, Any]) -> bytes | None:
        """The whole answer with that usage; None where there is none to be made."""
        if self._gave_up or self._reason is None or not usage:
            return None
        texts = {name: text.getvalue() for name, text in self._texts.items()}
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._reason}
        if self._is_text:
            kind, choice["text"] = "text_completion", texts.get("text", "")
        else:
            kind, choice["message"] = "chat.completion", {"role": "assistant", "content": None, "refusal": None} | texts
            if self._calls:
                choice["message"]["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return orjson.dumps(self._head | {"object": kind, "choices": [choice], "usage": usage})

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise ValueError("the engine failed")
        self._head |= {name: chunk[name] for name in _HEAD if name in chunk}
        choices = chunk.get("choices") or ()
        if len(choices) > 1:
            raise ValueError("several choices")
        for choice in choices:
            if choice.get("index") or choice.get("logprobs"):
                raise ValueError("more than one choice, or figures of tokens")
            self._reason = choice.get("finish_reason") or self._reason
            if self._is_text:
                self._add("text", choice["text"])
            else:
                self._take_delta(choice.get("delta") or {})

    def _take_delta(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if value is None or name == "role":
                continue
            if name == "tool_calls":
                for call in value:
                    self._take_call(call)
            elif isinstance(value, str):
                self._add(name, value)
            else:
                raise TypeError(name)

    def _take_call(self, delta: Mapping[str, Any]) -> None:
        empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        call = self._calls.setdefault(delta["index"], empty)
        call["id"] = call["id"] or delta.get("id")
        for name, value in (delta.get("function") or {}).items():
            self._take_room(value or "")
            call["function"][name] += value or ""

    def _add(self, name: str, text: str) -> None:
        self._take_room(text)
        self._texts.setdefault(name, io.StringIO()).write(text)

    def _take_room(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise ValueError("too long")

    def _give_up(self) -> None:
        self._gave_up = True
        self._texts.clear()
        self._calls.clear()
