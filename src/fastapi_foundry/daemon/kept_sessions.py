"""Sessions of the engine that stay open after their answer, each with its KV cache; bounded in number and in time.

A session belongs to one request at a time: taken out, it is known to nobody else. Any thread may call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import orjson

__all__ = ["KeepLimits", "KeptSession", "KeptSessions", "cache_bytes"]

_MIB: Final = 1024 * 1024
_LOOKS_PER_LIFE: Final = 4
# Models for CPUs keep their cache in float32; those for GPUs take half of it.
_CACHE_VALUE_BYTES: Final = 4

Session = TypeVar("Session")


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """What may stay open in one runner.

    Attributes:
        sessions: How many at most, those at work included; 0 keeps none.
        memory_mb: For the KV caches of all of them, in MiB.
        idle_s: Seconds without a request after which one is closed.
    """

    sessions: int = 4
    memory_mb: int = 512
    idle_s: float = 300.0

    def sessions_for(self, cache_size_bytes: int) -> int:
        """How many sessions may be open when each takes that much; 0 where it is not known."""
        if cache_size_bytes <= 0:
            return 0
        return min(self.sessions, self.memory_mb * _MIB // cache_size_bytes)


@dataclass(slots=True)
class KeptSession(Generic[Session]):
    """An open session.

    Attributes:
        session: The engine's.
        key: Of the conversation in it; empty before its first answer.
        tokens: In its KV cache.
        read_s: Seconds that one token of a prompt took when it was read in whole; 0 before that.
        idle_since: Monotonic seconds.
    """

    session: Session
    key: bytes = b""
    tokens: int = 0
    read_s: float = 0.0
    idle_since: float = 0.0


class KeptSessions(Generic[Session]):
    """The open sessions of one runner.

    Args:
        limit: How many at most, those at work included.
        idle_s: Seconds after which an idle one is closed.
        close: Closes one; gives its memory back.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        limit: int,
        idle_s: float,
        close: Callable[[Session], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._close = close
        self._clock = clock
        self._lock = threading.Lock()
        self._at_work = 0
        # The one that has been idle longest first.
        self._idle: dict[bytes, KeptSession[Session]] = {}
        if limit:
            threading.Thread(target=self._expire_for_ever, name="kept sessions", daemon=True).start()

    def take(self, keys: Sequence[tuple[int, bytes]]) -> tuple[int, KeptSession[Session]] | None:
        """The session of the first key that there is one for, with that key's number; the caller's from now on."""
        with self._lock:
            for number, key in keys:
                kept = self._idle.pop(key, None)
                if kept is not None:
                    self._at_work += 1
                    return number, kept
        return None

    def admit(self) -> bool:
        """Whether one more may be opened; makes room by closing the one that has been idle longest."""
        with self._lock:
            if self._at_work >= self._limit:
                return False
            self._at_work += 1
            over = self._at_work + len(self._idle) - self._limit
            leaving = [self._idle.pop(key) for key in list(self._idle)[: max(0, over)]]
        self._close_all(leaving)
        return True

    def put(self, kept: KeptSession[Session]) -> None:
        """Take back a session after a good answer; its ``key`` says what it holds now."""
        kept.idle_since = self._clock()
        with self._lock:
            self._at_work -= 1
            twin = self._idle.pop(kept.key, None)
            self._idle[kept.key] = kept
        self._close_all([twin] if twin is not None else [])

    def drop(self, kept: KeptSession[Session] | None) -> None:
        """Close a session at work; None where it could not even be opened."""
        with self._lock:
            self._at_work -= 1
        self._close_all([kept] if kept is not None else [])

    def expire(self) -> int:
        """Close what has been idle too long; how many."""
        latest = self._clock() - self._idle_s
        with self._lock:
            old = [key for key, kept in self._idle.items() if kept.idle_since <= latest]
            leaving = [self._idle.pop(key) for key in old]
        self._close_all(leaving)
        return len(leaving)

    def _expire_for_ever(self) -> None:
        while True:
            time.sleep(self._idle_s / _LOOKS_PER_LIFE)
            self.expire()

    def _close_all(self, leaving: Sequence[KeptSession[Session]]) -> None:
        for kept in leaving:
            self._close(kept.session)


def cache_bytes(path: Path) -> int:
    """The size of a KV cache for the whole context of the model in that directory; 0 when its files do not say.

    The engine makes it that large for a session that stays open. Blocks on one small file.
    """
    try:
        model = orjson.loads((path / "genai_config.json").read_bytes())["model"]
        decoder = model["decoder"]
        each = [decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]]
        layers, heads, size = (int(value) for value in each)
        tokens = int(model["context_length"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return 0
    return max(0, 2 * layers * heads * size * tokens * _CACHE_VALUE_BYTES)
