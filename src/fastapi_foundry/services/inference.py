"""Generation and embeddings over the ``Engine`` port.

OpenAI's requests go through as the client's bytes and come back as the engine's. The native API's are
translated to one chat request. Every generation is logged with its tokens and its time, never with its text.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, Engine, NotedStream, Reply
from fastapi_foundry.errors import EngineFailedError, ModelNotAllowedError, ModelNotFoundError
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.services.generations import (
    Generation,
    Generations,
    NullLimits,
    NullUsage,
    TokenLimits,
    UseRecorder,
)
from fastapi_foundry.services.model_access import allows_name, unseen
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.relay import Relay
from fastapi_foundry.services.usage import UNKNOWN_MODEL
from fastapi_foundry.wire import sse
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.native import GenerateRequest
from fastapi_foundry.wire.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    with_usage_requested,
)

__all__ = ["GenerationEnd", "GenerationPiece", "InferenceDefaults", "InferenceService", "OpenAIRequest"]

CHAT_PATH: Final = "/v1/chat/completions"
_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class InferenceDefaults:
    """What the native API fills in: ``foundry_ai`` of the settings."""

    model: str
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A validated request of OpenAI's API together with the bytes that it came as."""

    path: str
    raw: bytes
    parsed: dict[str, Any]
    checked: ChatCompletionRequest | CompletionRequest | EmbeddingRequest
    request_id: str
    principal: Principal = LOCAL

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return not isinstance(self.checked, EmbeddingRequest) and bool(self.checked.stream)


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


class InferenceService:
    """The use cases of generation.

    Args:
        engine: What runs the models.
        models: Knows which names exist.
        defaults: For what a native request leaves out.
        usage: Where use is recorded.
        limits: Where tokens are held against limits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        models: ModelsService,
        defaults: InferenceDefaults,
        *,
        usage: UseRecorder | None = None,
        limits: TokenLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._models = models
        self._defaults = defaults
        self._clock = clock
        self._generations = Generations(
            usage or NullUsage(), limits or NullLimits(), is_known=self._is_listed, clock=clock
        )

    async def complete(self, request: OpenAIRequest) -> Reply:
        """Answer a request of OpenAI's API as a whole; the engine's bytes, and what happened on the way.

        Raises:
            ModelNotFoundError: When no model has that name.
            ModelNotAllowedError: When its sender may not use it.
            FoundryError: What the engine found wrong, or what is wrong with the engine.
        """
        with self._recorded(request, await self._model_for(request)) as generation:
            reply = await self._engine.post(Call(request.path, request.raw, request.request_id, known=request.parsed))
            generation.usage = _usage_of(reply.body)
            generation.status = "ok"
        return reply

    @asynccontextmanager
    async def stream(self, request: OpenAIRequest) -> AsyncIterator[NotedStream]:
        """Stream the answer to a request of OpenAI's API: whole SSE frames, the engine's bytes.

        Entering waits for the first bytes, so that an early failure is raised before anything is sent.
        The usage frame is always asked of the engine, for the log, and kept from clients that did not ask for it.

        Raises:
            ModelNotFoundError: When no model has that name.
            ModelNotAllowedError: When its sender may not use it.
            FoundryError: What the engine found wrong; while iterating, what went wrong since.
        """
        checked = request.checked
        wants_usage = not isinstance(checked, EmbeddingRequest) and checked.usage_requested
        model_id = await self._model_for(request)
        call = _streaming_call(request, wants_usage=wants_usage)
        with self._recorded(request, model_id) as generation:
            async with self._engine.stream(call) as reply:
                relay = Relay(reply, hide_usage=not wants_usage, meter=generation.meter)
                try:
                    await relay.begin()
                    generation.first_byte_s = self._clock() - generation.begun
                    async with aclosing(relay.frames()) as frames:
                        yield NotedStream(frames, reply.headers, reply.notes)
                    generation.status = "ok" if relay.ended_well else "failed"
                finally:
                    generation.usage, generation.content_frames = relay.usage, relay.content_frames

    async def generate(
        self, request: GenerateRequest, *, request_id: str, principal: Principal = LOCAL
    ) -> GenerationEnd:
        """Generate a whole text.

        Raises:
            ModelNotFoundError: When no model has that name.
            ModelNotAllowedError: When its sender may not use it.
            FoundryError: What the engine found wrong, or what is wrong with the engine.
        """
        begun = self._clock()
        upstream = self._chat_request(request, request_id, principal, stream=False)
        answer = orjson.loads((await self.complete(upstream)).body)
        try:
            choice = answer["choices"][0]
            content = choice["message"].get("content") or ""
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine's answer holds no text.") from error
        return GenerationEnd(
            model=str(answer.get("model") or upstream.checked.model),
            usage=answer.get("usage") or dict(_NO_USAGE),
            finish_reason=choice.get("finish_reason"),
            duration=self._clock() - begun,
            content=content,
        )

    @asynccontextmanager
    async def generate_stream(
        self, request: GenerateRequest, *, request_id: str, principal: Principal = LOCAL
    ) -> AsyncIterator[AsyncIterator[GenerationPiece | GenerationEnd]]:
        """Generate a text piece by piece, with one ``GenerationEnd`` last; raises as ``stream`` does."""
        begun = self._clock()
        upstream = self._chat_request(request, request_id, principal, stream=True)
        async with (
            self.stream(upstream) as frames,
            aclosing(self._pieces(frames, upstream.checked.model, begun)) as pieces,
        ):
            yield pieces

    async def _pieces(
        self, frames: NotedStream, model: str, begun: float
    ) -> AsyncGenerator[GenerationPiece | GenerationEnd, None]:
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
        yield GenerationEnd(model=model, usage=usage, finish_reason=finish_reason, duration=self._clock() - begun)

    def _chat_request(
        self, request: GenerateRequest, request_id: str, principal: Principal, *, stream: bool
    ) -> OpenAIRequest:
        messages: list[dict[str, str]] = [{"role": "user", "content": request.prompt}]
        if request.system:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {
            "model": request.model or self._defaults.model,
            "messages": messages,
            "temperature": self._defaults.temperature if request.temperature is None else request.temperature,
            "max_tokens": request.max_tokens or self._defaults.max_tokens,
        }
        body |= request.model_dump(include={"top_p", "seed", "stop"}, exclude_none=True)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        checked = ChatCompletionRequest.model_validate(body)
        return OpenAIRequest(CHAT_PATH, orjson.dumps(body), body, checked, request_id, principal)

    async def _model_for(self, request: OpenAIRequest) -> str:
        """The full id of the model that is asked for, if its sender may use it."""
        name, principal = request.checked.model, request.principal
        try:
            model_id = await self._models.require_known(name)
        except ModelNotFoundError as fact:
            self._generations.refused(principal, UNKNOWN_MODEL)
            raise unseen(fact, principal, name) from None
        if not allows_name(principal, name, self._models.last_known):
            self._generations.refused(principal, model_id)
            raise ModelNotAllowedError(principal.name, name)
        return model_id

    def _is_listed(self, model_id: str) -> bool:
        return any(model_id == card.id or model_id in card.names for card in self._models.last_known)

    def _recorded(self, request: OpenAIRequest, model_id: str) -> AbstractContextManager[Generation]:
        return self._generations.recorded(request.principal, model_id, request.path, request.parsed)


def _events(decoder: sse.SSEDecoder, chunk: bytes) -> list[dict[str, Any]]:
    """The chat chunks that ``chunk`` completes.

    Raises:
        FoundryError: The engine's own error event as a fact; ``EngineFailedError`` when it makes no sense.
    """
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


def _usage_of(body: bytes) -> dict[str, Any]:
    try:
        usage = orjson.loads(body).get("usage")
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise EngineFailedError("The engine's answer is not JSON.") from error
    return usage if isinstance(usage, dict) else {}


def _streaming_call(request: OpenAIRequest, *, wants_usage: bool) -> Call:
    """The request with its usage asked for, in the client's own bytes as far as that goes."""
    path, request_id, parsed = request.path, request.request_id, request.parsed
    if wants_usage:
        return Call(path, request.raw, request_id, known=parsed)
    asking = parsed | {"stream_options": (parsed.get("stream_options") or {}) | {"include_usage": True}}
    body = orjson.dumps(asking) if "stream_options" in parsed else with_usage_requested(request.raw)
    return Call(path, body, request_id, known=asking)
