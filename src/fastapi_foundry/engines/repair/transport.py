"""One request to the engine underneath: errors with status 200 found, a limit that was refused clamped.

A tool call that the limit cut off is no error but an answer that ends there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson

from fastapi_foundry.engines.base import Call, Engine, NotedStream, Notes, Reply, ReplyStream
from fastapi_foundry.engines.repair.answers import raise_hidden_error
from fastapi_foundry.engines.repair.cut_calls import CUT_OFF, cut_answer, cut_frames, is_cut_call
from fastapi_foundry.engines.repair.profile import EngineProfile, ModelFacts
from fastapi_foundry.engines.repair.requests import clamped_after
from fastapi_foundry.errors import EngineTimeoutError, EngineUnavailableError, FoundryError

__all__ = ["Transport", "noted"]


class Transport:
    """Sends requests as they are planned; raises as ``Engine`` does.

    Args:
        engine: Gets the requests.
        facts: What is known of a model by its name.
    """

    def __init__(self, engine: Engine, facts: Callable[[str], ModelFacts]) -> None:
        self._engine = engine
        self._facts = facts

    async def post(self, call: Call, request: Mapping[str, Any] | None, profile: EngineProfile) -> Reply:
        """Ask once; again with a clamped ``max_tokens`` where the engine refuses instead of clamping.

        Args:
            call: The client's own.
            request: What is sent instead of its body; None for the bytes as they are.
            profile: How the engine behaves.
        """
        try:
            return await self._post(_made(call, request))
        except FoundryError as error:
            clamped = self._clamped(call, request, error, profile)
            if clamped is None:
                raise
        return noted(await self._post(call.with_parsed(clamped)), (_clamp_note(clamped),))

    @asynccontextmanager
    async def stream(
        self, call: Call, request: Mapping[str, Any] | None, profile: EngineProfile
    ) -> AsyncIterator[tuple[ReplyStream, Call]]:
        """As ``post``, for a stream; comes with the call that was sent in the end."""
        async with AsyncExitStack() as opened:
            sent = _made(call, request)
            try:
                source = await self._open(sent, opened, call)
            except FoundryError as error:
                clamped = self._clamped(call, request, error, profile)
                if clamped is None:
                    raise
                sent = call.with_parsed(clamped)
                again = await self._open(sent, opened, call)
                source = NotedStream(aiter(again), again.headers, _added(again.notes, (_clamp_note(clamped),)))
            yield source, sent

    async def _post(self, call: Call) -> Reply:
        try:
            reply = await self._engine.post(call)
            raise_hidden_error(reply.body)
        except FoundryError as error:
            if not is_cut_call(error, call.parsed):
                raise
            return Reply(orjson.dumps(cut_answer(call.parsed)), notes=CUT_OFF)
        return reply

    async def _open(self, sent: Call, opened: AsyncExitStack, call: Call) -> ReplyStream:
        try:
            return await opened.enter_async_context(self._engine.stream(sent))
        except FoundryError as error:
            if not is_cut_call(error, sent.parsed):
                raise
        client = call.parsed
        # A client that asked for a whole answer gets one that is put together from these frames.
        wants_usage = not client.get("stream") or bool((client.get("stream_options") or {}).get("include_usage"))
        frames = await opened.enter_async_context(aclosing(cut_frames(sent.parsed, wants_usage=wants_usage)))
        return NotedStream(frames, {}, CUT_OFF)

    def _clamped(
        self, call: Call, request: Mapping[str, Any] | None, error: FoundryError, profile: EngineProfile
    ) -> dict[str, Any] | None:
        if profile.max_tokens_overflow != "refused" or isinstance(error, EngineTimeoutError | EngineUnavailableError):
            return None
        return clamped_after(call.parsed if request is None else request, error, self._facts(call.model))


def _made(call: Call, request: Mapping[str, Any] | None) -> Call:
    return call if request is None else call.with_parsed(request)


def noted(reply: Reply, alterations: tuple[str, ...]) -> Reply:
    """``reply`` with more alterations in its notes; itself where there are none."""
    return replace(reply, notes=_added(reply.notes, alterations)) if alterations else reply


def _added(notes: Notes, alterations: tuple[str, ...]) -> Notes:
    return replace(notes, alterations=notes.alterations + alterations)


def _clamp_note(request: Mapping[str, Any]) -> str:
    return f"max_tokens: clamped to {request['max_tokens']}"
