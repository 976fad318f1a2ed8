"""One request whose answer is repaired: asked, checked, put together from several where it takes several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi_foundry.engines.base import Call, Notes, ReplyStream
from fastapi_foundry.engines.repair import fan_out
from fastapi_foundry.engines.repair.answers import parse_answer, repair_answer
from fastapi_foundry.engines.repair.cut_calls import CUT_OFF
from fastapi_foundry.engines.repair.joining import chunks_of, joined
from fastapi_foundry.engines.repair.profile import EngineProfile
from fastapi_foundry.engines.repair.requests import Plan
from fastapi_foundry.engines.repair.streams import ChunkRepair, repaired_events
from fastapi_foundry.engines.repair.structured import StructuredFormat, ask_until_valid, is_grammar_failure
from fastapi_foundry.engines.repair.tool_calls import with_calls
from fastapi_foundry.engines.repair.transport import Transport
from fastapi_foundry.errors import EngineTimeoutError, FoundryError
from fastapi_foundry.wire import sse

__all__ = ["Work"]


class Work:
    """See the module.

    Args:
        transport: Sends requests.
        call: The client's request.
        plan: What becomes of it.
        profile: How the engine behaves.
        form: The format of the answer, where one was asked for.

    Attributes:
        below: What the engine underneath noted.
        headers: The engine's, once it has answered.
    """

    def __init__(
        self, transport: Transport, call: Call, plan: Plan, profile: EngineProfile, form: StructuredFormat | None
    ) -> None:
        self._transport = transport
        self._call = call
        self._plan = plan
        self._profile = profile
        self._form = form
        self._deadline = None if call.timeout_s is None else time.monotonic() + call.timeout_s
        self._notes: list[str] = list(plan.alterations)
        if form is not None and form.prepares:
            self._notes.append(form.prepares)
        self.below = Notes()
        self.headers: Mapping[str, str] = {}

    @property
    def notes(self) -> Notes:
        """What the engine underneath noted, and everything that was changed here, each once."""
        return replace(self.below, alterations=tuple(dict.fromkeys((*self.below.alterations, *self._notes))))

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        if self._plan.choices > 1:
            return await fan_out.gather_answers(self._choice, self._plan.choices)
        return await self._choice(None)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream, frame by frame, with its ``[DONE]``."""
        plan = self._plan
        if plan.choices > 1:
            chunks = fan_out.interleave(self._open_choice, plan.choices, wants_usage=plan.wants_usage)
        else:
            chunks = self._chunks(plan.request)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield sse.encode_json(chunk)
        yield sse.DONE

    async def _choice(self, index: int | None) -> dict[str, Any]:
        request = self._plan.request if index is None else fan_out.request_for_choice(self._plan.request, index)
        if self._form is not None:
            answer, notes = await ask_until_valid(self._ask, request, self._form)
            self._notes += notes
            return answer
        answer = await self._ask(request)
        if self._plan.tools_as_text:
            self._notes += await with_calls(answer, request, self._ask)
        return answer

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        call = self._call
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise EngineTimeoutError("The engine did not answer in time.", limit_s=call.timeout_s or 0.0)
            call = replace(call, timeout_s=left_s)
        if self._profile.usage == "missing":
            answer = await self._ask_by_stream(request)
            self._notes += repair_answer(answer, replace(self._plan, request=request))
            return answer
        reply = await self._transport.post(call, request, self._profile)
        self.below, self.headers = reply.notes, reply.headers
        # Another choice may answer without.
        self._notes += reply.notes.alterations
        answer = parse_answer(reply.body)
        self._notes += repair_answer(answer, replace(self._plan, request=request))
        return answer

    async def _ask_by_stream(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer put together from a stream, whose chunks count the tokens that the engine does not tell.

        It also ends the engine's work when the client leaves, which such an engine does for streams alone.
        """
        asked = {**request, "stream": True}
        plan = replace(self._plan, request=asked, stops=(), tools_as_text=False, structured="", wants_usage=True)
        left_s = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            async with (
                asyncio.timeout(left_s),
                self._transport.stream(self._call, asked, self._profile) as (source, sent),
            ):
                self.below, self.headers = source.notes, source.headers
                self._notes += source.notes.alterations
                repair = ChunkRepair(replace(plan, request=sent.parsed))
                async with aclosing(repaired_events(aiter(source), repair)) as events:
                    answer = await joined(events)
                if repair.estimates_usage:
                    self._notes.append("usage: counted from the chunks")
                if repair.cut_off:
                    self._notes += CUT_OFF.alterations
                return answer
        except TimeoutError as error:
            limit_s = self._call.timeout_s or 0.0
            raise EngineTimeoutError(f"The engine did not answer within {limit_s:g} s.", limit_s=limit_s) from error

    @asynccontextmanager
    async def _open_choice(self, index: int) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        async with aclosing(self._chunks(fan_out.request_for_choice(self._plan.request, index))) as chunks:
            yield chunks

    async def _chunks(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        if self._form is not None and not self._form.held_by_grammar:
            # What has gone out cannot be repaired, and nothing but the prompt keeps this model to its schema.
            self._notes.append("stream: sent when the answer was complete")
            whole = {key: value for key, value in request.items() if key not in ("stream", "stream_options")}
            answer, notes = await ask_until_valid(self._ask, whole, self._form)
            self._notes += notes
            for chunk in chunks_of(answer, wants_usage=self._plan.wants_usage):
                yield chunk
            return
        async with self._opened(request) as (source, sent):
            self.below, self.headers = source.notes, source.headers
            repair = ChunkRepair(replace(self._plan, request=sent.parsed), self._form)
            async with aclosing(repaired_events(aiter(source), repair)) as events:
                async for chunk in events:
                    yield chunk

    @asynccontextmanager
    async def _opened(self, request: Mapping[str, Any]) -> AsyncIterator[tuple[ReplyStream, Call]]:
        asked = request if self._form is None else self._form.asking(request, 1)
        async with AsyncExitStack() as opened:
            try:
                made = await opened.enter_async_context(self._transport.stream(self._call, asked, self._profile))
            except FoundryError as error:
                if self._form is None or not is_grammar_failure(error):
                    raise
                loose = self._form.asking_loosely(request)
                made = await opened.enter_async_context(self._transport.stream(self._call, loose, self._profile))
            yield made
