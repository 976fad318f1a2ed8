"""Where Foundry Local departs from OpenAI's contract, repaired inside a runner; nothing here touches the engine.

Measured with foundry-local-sdk 2.2.1. Requests are made such that the engine does what they say; answers
and chunks are touched only where something is wrong with them.
"""

from __future__ import annotations

import base64
import secrets
import time
from array import array
from collections.abc import Mapping
from typing import Any, Final

from fastapi_foundry.errors import InvalidInputError

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "CallIndexes",
    "cut_answer",
    "embeddings_answer",
    "engine_request",
    "repair_answer",
    "usage_chunk",
    "wanted_tokens",
]

DEFAULT_MAX_TOKENS: Final = 2048

# What the engine understands; everything else would be ignored by it at best.
_KNOWN_TO_ENGINE: Final = (
    "do_sample",
    "messages",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
)


def wanted_tokens(body: Mapping[str, Any]) -> int | None:
    """The bound on the answer in tokens that the request asks for; None when it leaves it open."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.get(key)
        if value is not None:
            return int(value)
    return None


def engine_request(body: Mapping[str, Any], *, model_id: str, max_tokens: int) -> dict[str, Any]:
    """The request in the engine's dialect.

    Text parts are joined, a ``json_schema`` is unwrapped from its name, ``strict`` leaves the tools, penalties
    of zero are dropped, and what the engine does not know is left out.

    Raises:
        InvalidInputError: A ``json_schema`` format without a schema.
    """
    request = {key: body[key] for key in _KNOWN_TO_ENGINE if body.get(key) is not None}
    request["messages"] = [_engine_message(message) for message in body["messages"]]
    if "response_format" in request:
        request["response_format"] = _engine_format(request["response_format"])
        if request["response_format"] is None:
            del request["response_format"]
    if "tools" in request:
        request["tools"] = [_engine_tool(tool) for tool in request["tools"]]
        if not request["tools"] or request.get("tool_choice") == "none":
            request.pop("tools")
            request.pop("tool_choice", None)
    else:
        request.pop("tool_choice", None)
    return request | {"model": model_id, "max_tokens": max_tokens}


def repair_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """A whole chat answer as the contract wants it; changed in place and returned."""
    for choice in answer["choices"]:
        message = choice["message"]
        message.setdefault("content", None)
        message.setdefault("refusal", None)
        choice.setdefault("logprobs", None)
        if message.get("tool_calls"):
            choice["finish_reason"] = "tool_calls"
            message["content"] = message["content"] or None
            for call in message["tool_calls"]:
                call.setdefault("type", "function")
                call.pop("index", None)
        elif choice.get("finish_reason") is None:
            choice["finish_reason"] = "stop"
    return answer


def cut_answer(model_id: str, usage: Mapping[str, Any]) -> dict[str, Any]:
    """The answer that OpenAI gives where the engine fails: the token limit came before the end of a tool call."""
    message = {"role": "assistant", "content": "", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    return _new_head("chat.completion", model_id) | {"choices": [choice], "usage": usage}


class CallIndexes:
    """Gives the tool-call deltas of one stream their ``index``, and its last chunk ``tool_calls``."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._by_id: dict[str, int] = {}
        self._latest = 0

    def repair_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """The chunk with what is missing; changed in place and returned."""
        self._head = self._head or {key: value for key, value in chunk.items() if key != "choices"}
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                call["index"] = self._index_of(call)
                if call.get("id"):
                    call.setdefault("type", "function")
            if choice.get("finish_reason") is not None and self._by_id:
                choice["finish_reason"] = "tool_calls"
        return chunk

    def cut_off(self, model_id: str, usage: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The chunks that end a stream as ``cut_answer`` ends an answer; with a usage frame unless that is None."""
        delta = {} if self._head else {"role": "assistant", "content": ""}
        head = self._head or _new_head("chat.completion.chunk", model_id)
        reason = "tool_calls" if self._by_id else "length"
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        frames = [head | {"choices": [choice]}]
        return frames if usage is None else [*frames, head | {"choices": [], "usage": usage}]

    def _index_of(self, call: Mapping[str, Any]) -> int:
        call_id = call.get("id")
        if call_id:
            self._latest = self._by_id.setdefault(call_id, len(self._by_id))
        return self._latest


def usage_chunk(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The last frame of a stream whose caller asked for its usage, from the engine's closing answer."""
    return {
        "id": answer["id"],
        "object": "chat.completion.chunk",
        "created": answer["created"],
        "model": answer["model"],
        "system_fingerprint": answer.get("system_fingerprint"),
        "choices": [],
        "usage": answer["usage"],
    }


def embeddings_answer(answer: Mapping[str, Any], body: Mapping[str, Any], model_id: str) -> dict[str, Any]:
    """The engine's embeddings as vectors of unit length, in the order of the inputs and the encoding asked for."""
    encode = body.get("encoding_format") == "base64"
    data = []
    for index, entry in enumerate(sorted(answer["data"], key=lambda entry: entry["index"])):
        vector = _unit(entry["embedding"])
        embedding: Any = base64.b64encode(array("f", vector).tobytes()).decode() if encode else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    counted = answer.get("usage") or {}
    usage = {name: int(counted.get(name, 0)) for name in ("prompt_tokens", "total_tokens")}
    return {"object": "list", "data": data, "model": model_id, "usage": usage}


def _unit(vector: list[float]) -> list[float]:
    length = sum(value * value for value in vector) ** 0.5
    # Rounding to what base64 can carry makes both encodings the same numbers.
    return list(array("f", (value / length for value in vector))) if length else vector


def _new_head(kind: str, model_id: str) -> dict[str, Any]:
    made = {"id": f"chatcmpl-{secrets.token_hex(8)}", "object": kind, "created": int(time.time())}
    return made | {"model": model_id, "system_fingerprint": None}


def _engine_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or part.get("refusal") or "" for part in content)
    repaired = {key: value for key, value in message.items() if key != "content" and value is not None}
    repaired["content"] = content
    # The engine takes any word as a role and gives it to the template, which may then drop the message.
    if repaired["role"] == "developer":
        repaired["role"] = "system"
    return repaired


def _engine_format(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind != "json_schema":
        return dict(wanted)
    wrapper = wanted.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, Mapping) and "schema" in wrapper else wrapper
    if not isinstance(schema, Mapping):
        raise InvalidInputError(
            "'response_format.json_schema.schema' must be a JSON Schema object.", param="response_format.json_schema"
        )
    return {"type": "json_schema", "json_schema": dict(schema)}


def _engine_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if key != "strict"}
    function.setdefault("description", "")
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}
