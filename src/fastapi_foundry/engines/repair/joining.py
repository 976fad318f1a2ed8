"""The chunks of a stream as one whole answer, and the other way round."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

__all__ = ["chunks_of", "joined"]


async def joined(chunks: AsyncIterator[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole answer of one choice that the repaired chunks of a stream with usage make up."""
    head: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    reason: str | None = None
    async for chunk in chunks:
        head |= {key: value for key, value in chunk.items() if key != "choices"}
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            delta = choice["delta"]
            if delta.get("content") is not None:
                message["content"] = (message["content"] or "") + delta["content"]
            for call in delta.get("tool_calls") or ():
                _join_call(calls, call)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}]
    return head | {"object": "chat.completion", "choices": choices}


def _join_call(calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    function = delta.get("function") or {}
    call = calls.setdefault(delta["index"], {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call["id"] = call["id"] or delta.get("id")
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def chunks_of(answer: Mapping[str, Any], *, wants_usage: bool) -> list[dict[str, Any]]:
    """A whole answer of one choice as the chunks of a stream."""
    head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    choice = answer["choices"][0]
    message = {key: value for key, value in choice["message"].items() if value is not None}
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    made = [
        head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in (({"content": None, **message}, None), ({}, choice["finish_reason"]))
    ]
    return [*made, head | {"choices": [], "usage": answer["usage"]}] if wants_usage else made
