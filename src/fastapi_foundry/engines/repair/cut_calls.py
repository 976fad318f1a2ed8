"""A tool call that the token limit cut off: Foundry Local fails there, where OpenAI's answer ends with ``length``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Notes
from fastapi_foundry.engines.repair.answers import estimated_prompt_tokens, estimated_tokens, new_id
from fastapi_foundry.engines.repair.joining import chunks_of
from fastapi_foundry.errors import EngineFailedError, FoundryError
from fastapi_foundry.wire import sse
from fastapi_foundry.wire.engine_text import is_cut_tool_call

__all__ = ["CUT_OFF", "cut_answer", "cut_frames", "cut_usage", "is_cut_call"]

CUT_OFF: Final = Notes(
    alterations=("tools: the call was cut off at the token limit", "usage: the prompt is estimated from the text")
)
"""What is said of such an answer."""

# What a request without a bound of its own stands for, as measured with Foundry Local 2.2.
_DEFAULT_MAX_TOKENS: Final = 2048


def is_cut_call(error: FoundryError, request: Mapping[str, Any]) -> bool:
    """Whether the engine failed because a tool call of this request has more tokens than it may have."""
    if not isinstance(error, EngineFailedError) or not request.get("tools"):
        return False
    return is_cut_tool_call(str(error.context.get("engine_body", "")))


def cut_usage(request: Mapping[str, Any]) -> dict[str, int]:
    """The usage of such an answer to the request that was sent: all the tokens that it might have."""
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or _DEFAULT_MAX_TOKENS
    prompt = estimated_prompt_tokens(request) + estimated_tokens(orjson.dumps(request["tools"]).decode())
    return {"prompt_tokens": prompt, "completion_tokens": limit, "total_tokens": prompt + limit}


def cut_answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer in place of the failure; nothing of the call is known."""
    message = {"role": "assistant", "content": "", "refusal": None}
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.get("model"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": cut_usage(request),
    }


async def cut_frames(request: Mapping[str, Any], *, wants_usage: bool) -> AsyncGenerator[bytes, None]:
    """The same as the frames of a stream, for one that failed before its first chunk."""
    for chunk in chunks_of(cut_answer(request), wants_usage=wants_usage):
        yield sse.encode_json(chunk)
    yield sse.DONE
