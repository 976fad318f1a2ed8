"""The cache of answers as requests meet it: who may use it, what is asked of the engine, and what is kept of that."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from fastapi_foundry.engines.base import NotedStream, Notes, Reply
from fastapi_foundry.services.admission import Priority
from fastapi_foundry.services.cache_rules import CacheUse, cache_key, cache_use
from fastapi_foundry.services.openai_request import CHAT_PATH, OpenAIRequest
from fastapi_foundry.services.response_cache import CachedAnswer, CacheStatus, ResponseCache
from fastapi_foundry.services.usage import LOCAL_KEY
from fastapi_foundry.wire.openai_joining import AnswerJoiner
from fastapi_foundry.wire.openai_replay import replayed, replayed_frames

__all__ = ["CacheSlot", "CachedAnswers", "StreamKeeper"]

_EVERYBODY: Final = ""


class CachedAnswers:
    """Finds each request its place in the cache.

    Args:
        cache: Holds the answers.
        engine_of: Who answers for a model's name now, as a text that differs where the answers may.
        shared: Whether keys get each other's answers.
        max_entry_bytes: What a stream may take to be kept.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        cache: ResponseCache,
        engine_of: Callable[[str], str],
        *,
        shared: bool,
        max_entry_bytes: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cache: Final = cache
        self._engine_of = engine_of
        self._shared = shared
        self._max_entry_bytes = max_entry_bytes
        self._now = now
        self._epoch = 0

    def forget_all(self) -> None:
        """What has been answered is no longer true, what is being answered right now included."""
        self._epoch += 1
        self.cache.clear()

    def slot_of(self, request: OpenAIRequest, model_id: str) -> CacheSlot | None:
        """The place of a request's answer; None where it has nothing to do with the cache.

        What is to be left out of a conversation depends on what its engine counts, so such requests have none.
        """
        wish = request.wish
        use = cache_use(request.path, request.parsed, asked=wish.cache, cache_control=wish.cache_control)
        if not use or request.truncation is not None:
            return None
        key = cache_key(
            request.path,
            request.parsed,
            model_id=model_id,
            engine=f"{self._epoch} {self._engine_of(request.checked.model)}",
            scope=_EVERYBODY if self._shared else request.principal.key_id or LOCAL_KEY,
        )
        # What another parser may read otherwise must not make an answer for what is read here.
        asked = request.with_parsed(request.parsed)
        return CacheSlot(self.cache, key, use, asked, self._max_entry_bytes, self._now)


class CacheSlot:
    """The place of one request's answer.

    Attributes:
        request: What is to be asked of the engine instead of the client's own bytes.
    """

    __slots__ = ("_cache", "_key", "_max_entry_bytes", "_now", "_use", "request")

    def __init__(
        self,
        cache: ResponseCache,
        key: bytes,
        use: CacheUse,
        request: OpenAIRequest,
        max_entry_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._key = key
        self._use = use
        self.request = request
        self._max_entry_bytes = max_entry_bytes
        self._now = now

    async def reply(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """The answer that is kept, or that an equal request gets at this moment, or what ``ask`` gives.

        Raises:
            FoundryError: As ``ask`` does.
        """
        made: list[Reply] = []

        async def make() -> bytes:
            made.append(await ask())
            return made[-1].body

        answer = await self._through(make)
        if not made:
            return Reply(replayed(answer.body, created=int(self._now())), notes=_notes(answer))
        reply = made[-1]
        if not _is_to_be_kept(reply.notes):
            self._cache.forget(self._key)
        return replace(reply, notes=replace(reply.notes, cache=str(CacheStatus.MISS)))

    def stream(self) -> NotedStream | None:
        """The answer that is kept as a stream; None where the engine has to be asked."""
        kept = self._cache.find(self._key) if self._use.read else None
        if kept is None:
            return None
        try:
            frames = b"".join(
                replayed_frames(kept.body, created=int(self._now()), include_usage=self.request.wants_usage)
            )
        except (KeyError, TypeError, ValueError):
            return None  # some engine's whole answers are not what its streams are
        return NotedStream(_once(frames), {}, _notes(kept))

    def keeper(self) -> StreamKeeper | None:
        """For the engine's stream; None where it is not to be kept."""
        if not self._use.write:
            return None
        joiner = AnswerJoiner(is_text=self.request.path != CHAT_PATH, max_chars=self._max_entry_bytes)
        return StreamKeeper(joiner, lambda body: self._cache.put(self._key, body))

    async def _through(self, make: Callable[[], Awaitable[bytes]]) -> CachedAnswer:
        wish = self.request.wish
        if wish.priority is Priority.NORMAL and wish.max_wait_s is None:
            return await self._cache.through(self._key, make, read=self._use.read, write=self._use.write)
        # Who is in a hurry must not wait for the turn of who has time, nor for longer than it wants to.
        kept = self._cache.find(self._key) if self._use.read else None
        return kept or await self._cache.through(self._key, make, read=False, write=self._use.write)


class StreamKeeper:
    """Reads a stream in passing, and keeps what it came to.

    Args:
        put: Keeps a whole answer.
    """

    def __init__(self, joiner: AnswerJoiner, put: Callable[[bytes], object]) -> None:
        self._joiner = joiner
        self._put = put

    async def passing(self, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The frames as they are."""
        async with aclosing(frames):
            async for run in frames:
                self._joiner.feed(run)
                yield run

    def keep(self, usage: Mapping[str, Any], notes: Notes) -> None:
        """The stream has ended well."""
        if _is_to_be_kept(notes) and (body := self._joiner.answer(usage)) is not None:
            self._put(body)


def _is_to_be_kept(notes: Notes) -> bool:
    """Whether it was the model's own answer, and not that of another one which stood in for it."""
    return not notes.fallback


def _notes(answer: CachedAnswer) -> Notes:
    return Notes(cache=str(answer.status), age_s=answer.age_s)


async def _once(frames: bytes) -> AsyncGenerator[bytes, None]:
    yield frames
