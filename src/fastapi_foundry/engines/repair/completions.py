"""``/v1/completions`` for engines that have chat alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson

from fastapi_foundry.engines.base import Call, Reply, ReplyStream
from fastapi_foundry.engines.repair.answers import parse_answer
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.openai_completions import CompletionStream, completion_answer, parse_completion_request
from fastapi_foundry.wire.sse import SSEDecoder

__all__ = ["complete_text", "stream_text"]


async def complete_text(call: Call, ask: Callable[[Mapping[str, Any]], Awaitable[Reply]]) -> bytes:
    """Answer a completions request by one chat per prompt, one after the other.

    Raises:
        InvalidInputError: The request is wrong, or asks for what chat cannot give.
        FoundryError: What ``ask`` raises.
    """
    request = parse_completion_request(call.parsed)
    return orjson.dumps(
        completion_answer(request, [parse_answer((await ask(chat)).body) for chat in request.chat_bodies])
    )


async def stream_text(
    call: Call, open_chat: Callable[[Mapping[str, Any]], AbstractAsyncContextManager[ReplyStream]]
) -> AsyncGenerator[bytes, None]:
    """As ``complete_text``, as the frames of a stream."""
    request = parse_completion_request(call.parsed)
    frames = CompletionStream(request)
    for index, chat in enumerate(request.chat_bodies):
        async with open_chat(chat) as source:
            decoder, ended = SSEDecoder(), False
            async for part in source:
                for event in decoder.feed(part):
                    if event.data == b"[DONE]":
                        ended = True
                    elif b'"error"' in event.data and "error" in orjson.loads(event.data):
                        raise fact_from_error_event(event.data)
                    elif frame := frames.frame(index, event.data):
                        yield frame
            if not ended:
                raise EngineFailedError("The engine's stream ended before the answer did.")
    yield frames.end()
