"""A cache of whole answers in memory, bounded in bytes and time; equal requests under way are asked once.

Which requests may use it and under which key: ``services/cache_rules``. How an answer is given again:
``wire/openai_replay``. One event loop, no tasks of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fastapi_foundry.services.cache_rules import is_complete

__all__ = ["CacheLimits", "CacheReport", "CacheStatus", "CachedAnswer", "ResponseCache"]

# What an entry takes besides its key and its body, in the table and for its time (measured: 130 to 195 bytes).
_ENTRY_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Bounds: the section ``cache`` of the settings.

    Attributes:
        max_bytes: Most bytes of all entries, keys and overhead included.
        max_entry_bytes: Largest body that is kept.
        ttl_s: For how long an answer is kept, in seconds.
    """

    max_bytes: int = 67_108_864
    max_entry_bytes: int = 1_048_576
    ttl_s: float = 3600.0


class CacheStatus(StrEnum):
    """Where an answer came from."""

    HIT = "hit"  # it was kept
    MISS = "miss"  # it was asked for
    SHARED = "shared"  # it was asked for by an equal request that was under way already


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer, and where it came from.

    Attributes:
        body: As the engine gave it; ``wire/openai_replay`` makes it unique where it is no miss.
        age_s: Seconds since it was made; 0 unless it was kept.
    """

    body: bytes
    status: CacheStatus
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheReport:
    """How the cache does; the counts are since the start."""

    entries: int
    bytes: int
    hits: int
    misses: int
    shared: int
    evicted: int


@dataclass(slots=True)
class _Flight:
    """A request under way, and those that wait for its answer.

    Each is told the answer, or None: that it is to ask itself, as the next to lead where the flight goes on.
    """

    waiting: deque[asyncio.Future[bytes | None]] = field(default_factory=deque)
    unfit: bool = False


class ResponseCache:
    """Whole answers by key.

    Args:
        limits: See ``CacheLimits``.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: CacheLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        # The least recently used first; each with the time of its making.
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}
        self._bytes = 0
        self._hits = self._misses = self._shared = self._evicted = 0

    async def through(
        self, key: bytes, make: Callable[[], Awaitable[bytes]], *, read: bool = True, write: bool = True
    ) -> CachedAnswer:
        """The answer that is kept, or that an equal request under way gets, or what ``make`` gives, which is kept.

        Where the request that others wait for fails or is cancelled, one of them asks instead; where its answer is
        none to be kept (see ``is_complete``), each of them asks for itself.

        Args:
            read: False: make it anew.
            write: False: do not keep it, and share it with nobody.

        Raises:
            BaseException: What ``make`` raises; that is never kept.
        """
        if read and (kept := self.find(key)) is not None:
            return kept
        if not (read and write):
            self._misses += 1
            body = await make()
            if write:
                self.put(key, body)
            return CachedAnswer(body, CacheStatus.MISS)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
        elif (body_or_none := await self._follow(key, flight)) is not None:
            self._shared += 1
            return CachedAnswer(body_or_none, CacheStatus.SHARED)
        self._misses += 1
        return CachedAnswer(await (make() if flight.unfit else self._lead(key, flight, make)), CacheStatus.MISS)

    def find(self, key: bytes) -> CachedAnswer | None:
        """What is kept under ``key`` and not too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        body, made_at = entry
        age_s = self._clock() - made_at
        if age_s >= self._limits.ttl_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return CachedAnswer(body, CacheStatus.HIT, age_s)

    def put(self, key: bytes, body: bytes) -> bool:
        """Keep an answer if it is one to be kept; whether it can be given to others."""
        if not is_complete(body):
            return False
        if len(body) > self._limits.max_entry_bytes or _size(key, body) > self._limits.max_bytes:
            return True
        if key in self._entries:
            self._drop(key)
        now = self._clock()
        self._entries[key] = (body, now)
        self._bytes += _size(key, body)
        self._make_room(now)
        return True

    def forget(self, key: bytes) -> None:
        """Do not keep that answer, if it is kept."""
        if key in self._entries:
            self._drop(key)

    def clear(self) -> None:
        """Forget all answers."""
        self._entries.clear()
        self._bytes = 0

    def report(self) -> CacheReport:
        """How it does."""
        return CacheReport(len(self._entries), self._bytes, self._hits, self._misses, self._shared, self._evicted)

    async def _lead(self, key: bytes, flight: _Flight, make: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            body = await make()
            flight.unfit = not self.put(key, body)
        except BaseException:
            self._pass_on(key, flight)
            raise
        del self._flights[key]
        for waiter in flight.waiting:
            if not waiter.done():
                waiter.set_result(None if flight.unfit else body)
        return body

    async def _follow(self, key: bytes, flight: _Flight) -> bytes | None:
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        flight.waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            told_to_lead = not waiter.cancelled() and waiter.done() and waiter.result() is None
            if told_to_lead and not flight.unfit:
                self._pass_on(key, flight)
            elif waiter in flight.waiting:
                flight.waiting.remove(waiter)
            raise

    def _pass_on(self, key: bytes, flight: _Flight) -> None:
        """Have another lead, the one that has waited for longest; end the flight where there is none."""
        while flight.waiting:
            waiter = flight.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        del self._flights[key]

    def _make_room(self, now: float) -> None:
        """Drop what was not asked for the longest: while there is too much, and as far as it is too old."""
        while self._entries:
            key, (_, made_at) = next(iter(self._entries.items()))
            expired = now - made_at >= self._limits.ttl_s
            if not expired and self._bytes <= self._limits.max_bytes:
                return
            self._evicted += not expired
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        body, _ = self._entries.pop(key)
        self._bytes -= _size(key, body)


def _size(key: bytes, body: bytes) -> int:
    return sys.getsizeof(key) + sys.getsizeof(body) + _ENTRY_BYTES
