"""Generation and embeddings over the ``Engine`` port.

OpenAI's requests go through as the client's bytes and come back as the engine's, unless the cache of answers has them.
The native API's are translated to one chat request (``services/generation``). Every generation is logged with its tokens
and its time, never with its text.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Final

import orjson

from fastapi_foundry.engines.base import Call, Engine, NotedStream, Notes, Reply
from fastapi_foundry.errors import ModelNotAllowedError, ModelNotFoundError
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.services.cached_answers import CachedAnswers, CacheSlot
from fastapi_foundry.services.express_exchange import usage_of
from fastapi_foundry.services.generation import (
    GenerationEnd,
    GenerationPiece,
    GenerationStream,
    InferenceDefaults,
    chat_body,
    generation_of,
    pieces_of,
)
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
from fastapi_foundry.services.openai_request import CHAT_PATH, OpenAIRequest
from fastapi_foundry.services.relay import Relay
from fastapi_foundry.services.response_cache import CacheStatus
from fastapi_foundry.services.truncation import Truncation, is_asked
from fastapi_foundry.services.turns import Turns, Wish
from fastapi_foundry.services.usage import UNKNOWN_MODEL
from fastapi_foundry.wire.native import GenerateRequest
from fastapi_foundry.wire.openai import ChatCompletionRequest

__all__ = ["GenerationEnd", "GenerationPiece", "InferenceDefaults", "InferenceService", "OpenAIRequest"]

# What the client reads of the answer's usage was used once, by whoever asked first.
_NOTHING_USED: Final = {"prompt_tokens": 0, "completion_tokens": 0}


class InferenceService:
    """The use cases of generation.

    Args:
        engine: What runs the models.
        models: Knows which names exist.
        defaults: For what a native request leaves out.
        usage: Where use is recorded.
        limits: Where tokens are held against limits.
        turns: The queues before the engines; without them every request is sent at once.
        truncation: Shortens conversations that ask for it; without it they go through as they are.
        cached: The cache of answers, where there is one.
        clock: Monotonic seconds.

    Attributes:
        generations: The books.
    """

    def __init__(
        self,
        engine: Engine,
        models: ModelsService,
        defaults: InferenceDefaults,
        *,
        usage: UseRecorder | None = None,
        limits: TokenLimits | None = None,
        turns: Turns | None = None,
        truncation: Truncation | None = None,
        cached: CachedAnswers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._models = models
        self._defaults = defaults
        self._clock = clock
        self._turns = turns
        self._truncation = truncation
        self._cached = cached
        self.generations = Generations(
            usage or NullUsage(), limits or NullLimits(), is_known=self._is_listed, clock=clock
        )

    async def complete(self, request: OpenAIRequest) -> Reply:
        """Answer a request of OpenAI's API as a whole; the engine's bytes, and what happened on the way.

        Raises:
            ModelNotFoundError: When no model has that name.
            ModelNotAllowedError: When its sender may not use it.
            FoundryError: What the engine found wrong, or what is wrong with the engine.
        """
        request = self._prepared(request)
        model_id = await self._model_for(request)
        slot = self._slot_of(request, model_id)
        with self._recorded(request, model_id) as generation:
            if slot is None:
                reply = await self._ask(request, model_id)
            else:
                asked = slot.request
                reply = await slot.reply(lambda: self._ask(asked, model_id))
            if not _came_from_cache(generation, reply.notes):
                generation.usage = usage_of(reply.body)
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
        request = self._prepared(request)
        model_id = await self._model_for(request)
        slot = self._slot_of(request, model_id)
        with self._recorded(request, model_id) as generation:
            if slot is not None and (kept := slot.stream()) is not None:
                _came_from_cache(generation, kept.notes)
                yield kept
                generation.status = "ok"
            else:
                async with self._asked_stream(request, model_id, generation, slot) as stream:
                    yield stream

    async def generate(
        self,
        request: GenerateRequest,
        *,
        request_id: str,
        principal: Principal = LOCAL,
        wish: Wish | None = None,
    ) -> GenerationEnd:
        """Generate a whole text.

        Raises:
            ModelNotFoundError: When no model has that name.
            ModelNotAllowedError: When its sender may not use it.
            FoundryError: What the engine found wrong, or what is wrong with the engine.
        """
        begun = self._clock()
        upstream = self._chat_request(request, request_id, principal, wish, stream=False)
        reply = await self.complete(upstream)
        return generation_of(reply, upstream.checked.model, self._clock() - begun)

    @asynccontextmanager
    async def generate_stream(
        self,
        request: GenerateRequest,
        *,
        request_id: str,
        principal: Principal = LOCAL,
        wish: Wish | None = None,
    ) -> AsyncIterator[GenerationStream]:
        """Generate a text piece by piece, with one ``GenerationEnd`` last; raises as ``stream`` does."""
        begun = self._clock()
        upstream = self._chat_request(request, request_id, principal, wish, stream=True)
        async with (
            self.stream(upstream) as frames,
            aclosing(pieces_of(frames, upstream.checked.model, lambda: self._clock() - begun)) as pieces,
        ):
            yield GenerationStream(pieces, frames.notes)

    async def _ask(self, request: OpenAIRequest, model_id: str) -> Reply:
        """The engine's own answer, when it is the request's turn."""
        async with self._turn(request, model_id) as queued_s:
            call, truncated = await self._fitted(request, request.call())
            reply = await self._engine.post(call)
        if not queued_s and not truncated:
            return reply
        return replace(reply, notes=replace(reply.notes, queued_s=queued_s, truncated=truncated))

    @asynccontextmanager
    async def _asked_stream(
        self, request: OpenAIRequest, model_id: str, generation: Generation, slot: CacheSlot | None
    ) -> AsyncIterator[NotedStream]:
        """The engine's own stream, when it is the request's turn; kept for the next one if there is a slot for it."""
        keeper = None if slot is None else slot.keeper()
        asked = (request if slot is None else slot.request).streaming_call()
        async with self._turn(request, model_id) as queued_s:
            call, truncated = await self._fitted(request, asked)
            async with self._engine.stream(call) as reply:
                notes = reply.notes
                if queued_s or truncated or slot is not None:
                    cache = "" if slot is None else str(CacheStatus.MISS)
                    notes = replace(notes, queued_s=queued_s, truncated=truncated, cache=cache)
                _came_from_cache(generation, notes)
                relay = Relay(reply, hide_usage=not request.wants_usage, meter=generation.meter)
                try:
                    await relay.begin()
                    generation.first_byte_s = self._clock() - generation.begun
                    passed = relay.frames() if keeper is None else keeper.passing(relay.frames())
                    async with aclosing(passed) as frames:
                        yield NotedStream(frames, reply.headers, notes)
                    generation.status = "ok" if relay.ended_well else "failed"
                finally:
                    generation.usage, generation.content_frames = relay.usage, relay.content_frames
                if keeper is not None and relay.ended_well:
                    keeper.keep(relay.usage, notes)

    def _prepared(self, request: OpenAIRequest) -> OpenAIRequest:
        """The request without what means something here alone.

        Raises:
            InvalidInputError: That makes no sense.
        """
        parsed = request.parsed
        if self._truncation is None or request.path != CHAT_PATH:
            return request
        if request.truncation is None and "truncation" not in parsed:
            return request
        asked = "auto" if is_asked(parsed, request.truncation) else None
        if "truncation" in parsed:
            request = request.with_parsed({key: value for key, value in parsed.items() if key != "truncation"})
        return replace(request, truncation=asked)

    async def _fitted(self, request: OpenAIRequest, call: Call) -> tuple[Call, str]:
        """The call as it fits into its model's context, and what was left out of it."""
        if self._truncation is None or request.truncation is None:
            return call, ""
        # Counting is the engine's work, and loads the model if need be, so it is done when it is the request's turn.
        fitted, cut = await self._truncation.fitted(call)
        return fitted, "" if cut is None else cut.header

    def _slot_of(self, request: OpenAIRequest, model_id: str) -> CacheSlot | None:
        return None if self._cached is None else self._cached.slot_of(request, model_id)

    def _chat_request(
        self, request: GenerateRequest, request_id: str, principal: Principal, wish: Wish | None, *, stream: bool
    ) -> OpenAIRequest:
        body = chat_body(request, self._defaults, stream=stream)
        checked = ChatCompletionRequest.model_validate(body)
        return OpenAIRequest(CHAT_PATH, orjson.dumps(body), body, checked, request_id, principal, wish or Wish())

    async def _model_for(self, request: OpenAIRequest) -> str:
        """The full id of the model that is asked for, if its sender may use it."""
        name, principal = request.checked.model, request.principal
        try:
            model_id = await self._models.require_known(name)
        except ModelNotFoundError as fact:
            self.generations.refused(principal, UNKNOWN_MODEL)
            raise unseen(fact, principal, name) from None
        if not allows_name(principal, name, self._models.last_known):
            self.generations.refused(principal, model_id)
            raise ModelNotAllowedError(principal.name, name)
        return model_id

    def _turn(self, request: OpenAIRequest, model_id: str) -> AbstractAsyncContextManager[float]:
        if self._turns is None:
            return nullcontext(0.0)
        return self._turns.turn(request.checked.model, model_id, request.principal, request.wish)

    def _is_listed(self, model_id: str) -> bool:
        return any(model_id == card.id or model_id in card.names for card in self._models.last_known)

    def _recorded(self, request: OpenAIRequest, model_id: str) -> AbstractContextManager[Generation]:
        return self.generations.recorded(request.principal, model_id, request.path, request.parsed)


def _came_from_cache(generation: Generation, notes: Notes) -> bool:
    """Whether the answer was not made for this request, which has used nothing then."""
    generation.cache = notes.cache
    if notes.cache not in {CacheStatus.HIT, CacheStatus.SHARED}:
        return False
    generation.usage = _NOTHING_USED
    return True
