"""The native API's requests as chat requests, and chat's answers as texts. Nothing here asks an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import NO_NOTES, NotedStream, Notes, Reply
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.wire import sse
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.native import GenerateRequest

__all__ = [
    "GenerationEnd",
    "GenerationPiece",
    "GenerationStream",
    "InferenceDefaults",
    "chat_body",
    "generation_of",
    "pieces_of",
]

_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class InferenceDefaults:
    """What the native API fills in: ``foundry_ai`` of the settings."""

    model: str
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationPiece:
    """A piece of the model's text."""

    content: str


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """What a generation came to; ``duration`` in seconds, ``content`` empty when it was streamed."""

    model: str
    usage: dict[str, Any]
    finish_reason: str | None
    duration: float
    content: str = ""
    notes: Notes = NO_NOTES


@dataclass(frozen=True, slots=True)
class GenerationStream:
    """The pieces of a text, to be iterated once, and what happened before the first."""

    pieces: AsyncIterator[GenerationPiece | GenerationEnd]
    notes: Notes

    def __aiter__(self) -> AsyncIterator[GenerationPiece | GenerationEnd]:
        return self.pieces


def chat_body(request: GenerateRequest, defaults: InferenceDefaults, *, stream: bool) -> dict[str, Any]:
    """The chat request that a native one means."""
    messages: list[dict[str, str]] = [{"role": "user", "content": request.prompt}]
    if request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    body: dict[str, Any] = {
        "model": request.model or defaults.model,
        "messages": messages,
        "temperature": defaults.temperature if request.temperature is None else request.temperature,
        "max_tokens": request.max_tokens or defaults.max_tokens,
    }
    body |= request.model_dump(include={"top_p", "seed", "stop"}, exclude_none=True)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def generation_of(reply: Reply, model: str, duration_s: float) -> GenerationEnd:
    """The text of a whole answer of ``model``, unless the answer names it otherwise.

    Raises:
        EngineFailedError: It holds none.
    """
    answer = orjson.loads(reply.body)
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineFailedError("The engine's answer holds no text.") from error
    return GenerationEnd(
        model=str(answer.get("model") or model),
        usage=answer.get("usage") or dict(_NO_USAGE),
        finish_reason=choice.get("finish_reason"),
        duration=duration_s,
        content=content,
        notes=reply.notes,
    )


async def pieces_of(
    frames: NotedStream, model: str, elapsed_s: Callable[[], float]
) -> AsyncGenerator[GenerationPiece | GenerationEnd, None]:
    """The text in a stream of chat's frames, and at last what it came to.

    Raises:
        FoundryError: The engine's own error event as a fact; ``EngineFailedError`` when its stream makes no sense.
    """
    decoder = sse.SSEDecoder()
    usage: dict[str, Any] = dict(_NO_USAGE)
    finish_reason: str | None = None
    async for chunk in frames:
        for data in _events(decoder, chunk):
            model, usage = data.get("model") or model, data.get("usage") or usage
            for choice in data.get("choices") or ():
                finish_reason = choice.get("finish_reason") or finish_reason
                if content := (choice.get("delta") or {}).get("content"):
                    yield GenerationPiece(content)
    yield GenerationEnd(model=model, usage=usage, finish_reason=finish_reason, duration=elapsed_s())


def _events(decoder: sse.SSEDecoder, chunk: bytes) -> list[dict[str, Any]]:
    """The chat chunks that ``chunk`` completes."""
    found = []
    try:
        for event in decoder.feed(chunk):
            if event.data == b"[DONE]":
                continue
            data = orjson.loads(event.data)
            if not isinstance(data, dict):
                raise EngineFailedError("The engine's stream holds something that is no chunk.")
            if "error" in data:
                raise fact_from_error_event(event.data)
            found.append(data)
    except ValueError as error:
        raise EngineFailedError("The engine's stream cannot be read.") from error
    return found
