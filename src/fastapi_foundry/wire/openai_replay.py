"""A whole answer of OpenAI's API given again: with an id and a time of its own, whole or as the frames of a stream.

Pure functions; ``created`` is in seconds since 1970.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.wire.sse import DONE, encode_json

__all__ = ["replayed", "replayed_frames"]

_MOST_PIECES: Final = 8
_LEAST_PIECE: Final = 64  # characters


def replayed(body: bytes, *, created: int) -> bytes:
    """The same answer with a fresh ``id`` and ``created``; everything else as it was."""
    answer = orjson.loads(body)
    return orjson.dumps(answer | _identity(answer, created))


def replayed_frames(body: bytes, *, created: int, include_usage: bool) -> Iterator[bytes]:
    """A whole answer of chat or of text completions as the frames of a stream, the last one ``[DONE]``."""
    answer = orjson.loads(body)
    text = answer.get("object") == "text_completion"
    head = {key: value for key, value in answer.items() if key not in {"choices", "usage"}}
    head |= _identity(answer, created)
    head["object"] = "text_completion" if text else "chat.completion.chunk"
    # OpenAI's own streams carry a null usage until the last frame, where it is asked for.
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    for choice in answer["choices"]:
        for part in _text_parts(choice) if text else _chat_parts(choice):
            yield encode_json(head | {"choices": [{"index": choice.get("index", 0), **part}]} | usage)
    if include_usage:
        yield encode_json(head | {"choices": [], "usage": answer.get("usage")})
    yield DONE


def _chat_parts(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Role, whatever else the message holds, text in pieces, tool calls, the end."""
    message = dict(choice["message"])
    content, calls = message.pop("content", None), message.pop("tool_calls", None) or ()
    logprobs = choice.get("logprobs")
    # The figures of all tokens go out with the first text, or with the end where there is none.
    pieces = _pieces(content) if isinstance(content, str) else []
    opening = {"role": "assistant", **message, "content": None if content is None else ""}
    yield {"delta": opening, "logprobs": None, "finish_reason": None}
    for at, piece in enumerate(pieces):
        yield {"delta": {"content": piece}, "logprobs": None if at else logprobs, "finish_reason": None}
    for index, call in enumerate(calls):
        yield {"delta": {"tool_calls": [{**call, "index": index}]}, "logprobs": None, "finish_reason": None}
    yield {"delta": {}, "logprobs": None if pieces else logprobs, "finish_reason": choice["finish_reason"]}


def _text_parts(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    logprobs = choice.get("logprobs")
    pieces = _pieces(choice["text"])
    for at, piece in enumerate(pieces):
        yield {"text": piece, "logprobs": None if at else logprobs, "finish_reason": None}
    yield {"text": "", "logprobs": None if pieces else logprobs, "finish_reason": choice["finish_reason"]}


def _pieces(text: str) -> list[str]:
    """A few pieces that make up ``text``."""
    size = max(_LEAST_PIECE, -(-len(text) // _MOST_PIECES))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _identity(answer: Mapping[str, Any], created: int) -> dict[str, Any]:
    prefix = "cmpl" if answer.get("object") == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "created": created}
