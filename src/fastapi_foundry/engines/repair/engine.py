"""An engine that behaves as OpenAI's API says, over one that does not quite."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import (
    Call,
    Engine,
    EngineStatus,
    ModelCard,
    NotedStream,
    Notes,
    Reply,
    ReplyStream,
    TokenCount,
)
from fastapi_foundry.engines.catalog import Catalog, DownloadProgress
from fastapi_foundry.engines.direct import DirectLine
from fastapi_foundry.engines.repair.completions import complete_text, stream_text
from fastapi_foundry.engines.repair.learning import LearnedProfile
from fastapi_foundry.engines.repair.profile import EngineProfile, ModelFacts
from fastapi_foundry.engines.repair.requests import Plan, is_plain, passes_plain_requests, plan_chat, refuse_unsupported
from fastapi_foundry.engines.repair.structured import prepare_format
from fastapi_foundry.engines.repair.transport import Transport, noted
from fastapi_foundry.engines.repair.work import Work

__all__ = ["RepairingEngine"]

_CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_UNKNOWN: Final = ModelFacts()
_BY_CHAT: Final = Notes(alterations=("completions: answered by chat",))


class RepairingEngine:
    """An ``Engine`` over another; see ``engines.base.Engine`` for what each method promises.

    A request that needs no repair, and its answer, pass through as the bytes they are.

    Args:
        engine: What is repaired; owned from here on.
        profile: How it behaves, as far as is known by now; asked for every request. A ``LearnedProfile`` is told of
            answers too, and closed with the engine.
        facts: What is known of a model by its name. Without it, the lists of models that pass by are remembered.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Callable[[], EngineProfile],
        *,
        facts: Callable[[str], ModelFacts] | None = None,
    ) -> None:
        self._engine = engine
        self._profile = profile
        self._facts = facts or self._remembered
        self._models: dict[str, ModelFacts] = {}
        self._transport = Transport(engine, self._facts)
        self._learned = profile if isinstance(profile, LearnedProfile) else None
        self._judged: EngineProfile | None = None
        self._passes_plain = False

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        return self._engine.status

    def direct_line(self) -> DirectLine | None:
        """See ``Engine.direct_line``; a profile that is still to be learned has to see an answer first."""
        profile = self._profile()
        if not self._passes_plain_at(profile) or (self._learned is not None and self._learned.wants_an_answer):
            return None
        return self._engine.direct_line()

    async def start(self) -> None:
        """Begin discovery and supervision in the background; returns at once."""
        await self._engine.start()

    async def aclose(self) -> None:
        """Close the engine underneath."""
        if self._learned is not None:
            await self._learned.aclose()
        await self._engine.aclose()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the engine is ready; see ``Engine.wait_ready``."""
        await self._engine.wait_ready(timeout_s)

    async def list_models(self) -> list[ModelCard]:
        """What can be used now; what the list says about the models is remembered."""
        cards = await self._engine.list_models()
        self._models = _facts_of(cards)
        return cards

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model and wait until it is ready; the engine's own answer."""
        return await self._engine.load_model(model)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model and wait until its memory is returned; the engine's own answer."""
        return await self._engine.unload_model(model)

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        """What can be downloaded; see ``Engine.catalog``."""
        return await self._engine.catalog(refresh=refresh)

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Download a model; see ``Engine.download``."""
        return self._engine.download(model)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download and wait until it has ended; the engine's own answer."""
        return await self._engine.cancel_download(model)

    async def count_tokens(self, call: Call) -> TokenCount | None:
        """How long the prompt is; see ``Engine.count_tokens``."""
        return await self._engine.count_tokens(call)

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``.

        Raises:
            UnsupportedParameterError: What is asked for cannot be honoured here.
            StructuredOutputError: No answer kept to the format that was asked for.
        """
        reply = await self._post(call, self._profile())
        self._note_answer(call)
        return reply

    async def _post(self, call: Call, profile: EngineProfile) -> Reply:
        if call.path == _COMPLETIONS and profile.completions == "missing":
            body = await complete_text(call, lambda chat: self.post(replace(call, path=_CHAT).with_parsed(chat)))
            return Reply(body, notes=_BY_CHAT)
        plan = self._plan(call, profile)
        if plan is None or not plan.touches_answer:
            reply = await self._transport.post(call, _changed(call, plan), profile)
            return reply if plan is None else noted(reply, plan.alterations)
        form = await prepare_format(plan.request, profile) if plan.structured else None
        work = Work(self._transport, call, plan, profile, form)
        answer = await work.answer()
        return Reply(orjson.dumps(answer), work.headers, work.notes)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ReplyStream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``. Raises as ``post`` does."""
        profile = self._profile()
        if call.path == _COMPLETIONS and profile.completions == "missing":
            frames = stream_text(call, lambda chat: self.stream(replace(call, path=_CHAT).with_parsed(chat)))
            async with _opened(frames) as made:
                made.notes = _BY_CHAT
                yield made
            return
        plan = self._plan(call, profile)
        if plan is None or not plan.touches_answer:
            async with self._transport.stream(call, _changed(call, plan), profile) as (source, _):
                self._note_answer(call)
                if plan is None or not plan.alterations:
                    yield source
                else:
                    notes = replace(source.notes, alterations=source.notes.alterations + plan.alterations)
                    yield NotedStream(aiter(source), source.headers, notes)
            return
        form = await prepare_format(plan.request, profile) if plan.structured else None
        work = Work(self._transport, call, plan, profile, form)
        async with _opened(work.frames()) as made:
            self._note_answer(call)
            made.headers, made.notes = work.headers, work.notes
            yield made

    def _note_answer(self, call: Call) -> None:
        if self._learned is not None and call.path == _CHAT:
            self._learned.answered(call.model)

    def _plan(self, call: Call, profile: EngineProfile) -> Plan | None:
        if call.path == _CHAT:
            if self._passes_plain_at(profile) and is_plain(call.parsed):
                return None
            return plan_chat(call.parsed, profile, self._facts(call.model))
        if call.path == _COMPLETIONS:
            refuse_unsupported(call.parsed, profile)
        return None

    def _passes_plain_at(self, profile: EngineProfile) -> bool:
        if profile is not self._judged:
            self._judged, self._passes_plain = profile, passes_plain_requests(profile)
        return self._passes_plain

    def _remembered(self, model: str) -> ModelFacts:
        return self._models.get(model, _UNKNOWN)


def _changed(call: Call, plan: Plan | None) -> Mapping[str, Any] | None:
    """The request where the plan changed it; None where the call's own bytes will do."""
    return None if plan is None or plan.request is call.parsed else plan.request


@asynccontextmanager
async def _opened(frames: AsyncGenerator[bytes, None]) -> AsyncIterator[NotedStream]:
    """A stream whose first frame has come, so that an early failure is raised here."""
    async with aclosing(frames):
        first = await anext(frames, b"")

        async def all_frames() -> AsyncIterator[bytes]:
            yield first
            async for frame in frames:
                yield frame

        yield NotedStream(all_frames(), {}, Notes())


def _facts_of(cards: list[ModelCard]) -> dict[str, ModelFacts]:
    facts: dict[str, ModelFacts] = {}
    for card in cards:
        length, vision = card.extra.get("context_length"), card.extra.get("vision")
        known = ModelFacts(
            length if isinstance(length, int) and length > 0 else None, vision if isinstance(vision, bool) else None
        )
        facts[card.id] = known
        if isinstance(alias := card.extra.get("alias"), str):
            facts.setdefault(alias, known)
    return facts
