"""What was used within the last minute, counted in Redis by several processes together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastapi_foundry.errors import ConfigurationError, LimitExceededError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.limit_gates import Gate
from fastapi_foundry.services.limit_windows import WINDOW_S

if TYPE_CHECKING:
    from limits.aio.storage.redis import RedisStorage
    from redis.asyncio import BlockingConnectionPool

__all__ = ["NoSharedWindows", "SharedWindows"]

logger = get_logger(__name__)

_PREFIX: Final = "fastapi-foundry"
_TIMEOUT_S: Final = 0.5
_PUSH_S: Final = 0.1
_ASK_AGAIN_S: Final = 1.0
_COMPLAIN_S: Final = 60.0
_MOST_CONNECTIONS: Final = 16
_KEPT_PREVIOUS: Final = 20_000


SharedLevel = tuple[Gate, str, int, int]
"""Whose window of which kind, what is left in it, and seconds until all of it is free again."""


class NoSharedWindows:
    """Nothing is shared."""

    in_use: Final = False

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def take(self, gates: Sequence[Gate], requests: int) -> tuple[LimitExceededError | None, list[SharedLevel]]:
        """Nobody to ask."""
        del gates, requests
        return None, []

    def add(self, name: str, amount: int) -> None:
        """Nobody to tell."""


class _Wish(NamedTuple):
    """What one window is asked for; a cost of 0 asks whether there is room for anything, and takes nothing."""

    gate: Gate
    kind: str
    limit: int
    cost: int

    @property
    def name(self) -> str:
        return f"{self.gate.name}:{self.kind}"


class SharedWindows:
    """The count of this minute and, weighted by how much of it the last 60 seconds still hold, of the one before.

    When Redis does not answer, nothing is asked here until it does again: each process then goes by what it has let in
    itself, which it counts all along. The log says so once a minute.

    Args:
        url: Of Redis, with its password.
        now: Seconds since 1970; the processes' clocks should agree to the second.

    Raises:
        ConfigurationError: What talks to Redis is not installed.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self._pool, self._storage, self._failures = _connected(url)
        self._now = now
        self._away = False
        self._complained_at = float("-inf")
        self._unpushed: dict[str, int] = {}
        self._previous: dict[str, int] = {}
        self._minute = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def in_use(self) -> bool:
        """Whether they are to be asked."""
        return not self._away

    async def start(self) -> None:
        """Begin to push what is added; does not wait for Redis."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Push what is left, if that can be done at once, and let go of the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._away:
            await self._push()
        with suppress(*self._failures):
            await self._pool.disconnect()

    async def take(self, gates: Sequence[Gate], requests: int) -> tuple[LimitExceededError | None, list[SharedLevel]]:
        """Take so many requests out of each minute if all of them have room; else why not, and how full they are.

        Waits half a second for Redis at most.
        """
        wishes = [
            _Wish(gate, kind, limit, cost)
            for gate in gates
            for kind, limit, cost in (
                ("requests", gate.limits.requests_per_minute, requests),
                ("tokens", gate.limits.tokens_per_minute, 0),
            )
            if limit is not None
        ]
        if not wishes:
            return None, []
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._take(wishes)
        except self._failures as error:
            self._lost(error)
            return None, []

    def add(self, name: str, amount: int) -> None:
        """Count what has been used already; Redis learns of it a tenth of a second later."""
        if not self._away:
            self._unpushed[name] = self._unpushed.get(name, 0) + amount

    async def _take(self, wishes: Sequence[_Wish]) -> tuple[LimitExceededError | None, list[SharedLevel]]:
        minute, passed_s = divmod(self._now(), WINDOW_S)
        self._begin(int(minute))
        names = [f"{wish.name}:{int(minute)}" for wish in wishes]
        counts = await asyncio.gather(
            *(
                self._storage.incr(name, 2 * WINDOW_S, wish.cost) if wish.cost else self._storage.get(name)
                for name, wish in zip(names, wishes, strict=True)
            )
        )
        before = await self._counts_before([wish.name for wish in wishes], int(minute) - 1)
        refusal: LimitExceededError | None = None
        levels: list[SharedLevel] = []
        for wish, count, earlier in zip(wishes, counts, before, strict=True):
            this = count - wish.cost + self._unpushed.get(wish.name, 0)
            used, most = this + earlier * (1 - passed_s / WINDOW_S), wish.limit - (wish.cost or 1)
            if used > most and refusal is None:
                refusal = wish.gate.too_many(wish.kind, wish.limit, _wait_s(this, earlier, most, passed_s))
            left = max(0, int(wish.limit - used - wish.cost))
            reset_s = (2 * WINDOW_S if this or wish.cost else WINDOW_S) - passed_s
            levels.append((wish.gate, wish.kind, left, round(reset_s)))
        if refusal is not None:
            taken = [(name, wish.cost) for name, wish in zip(names, wishes, strict=True) if wish.cost]
            await asyncio.gather(*(self._storage.incr(name, 2 * WINDOW_S, -cost) for name, cost in taken))
        return refusal, levels

    async def _counts_before(self, names: Sequence[str], minute: int) -> list[int]:
        """The counts of the last minute, which do not change any more and are asked for once."""
        missing = [name for name in names if name not in self._previous]
        found = await asyncio.gather(*(self._storage.get(f"{name}:{minute}") for name in missing))
        new = dict(zip(missing, found, strict=True))
        counts = [self._previous[name] if name in self._previous else new[name] for name in names]
        if minute + 1 == self._minute:  # else another one has begun meanwhile
            if len(self._previous) > _KEPT_PREVIOUS:
                self._previous.clear()
            self._previous |= new
        return counts

    def _begin(self, minute: int) -> None:
        if minute != self._minute:
            self._minute = minute
            self._previous.clear()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_ASK_AGAIN_S if self._away else _PUSH_S)
            if self._away:
                await self._ask_again()
            elif self._unpushed:
                await self._push()

    async def _push(self) -> None:
        taken, self._unpushed = self._unpushed, {}
        minute = int(self._now() // WINDOW_S)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.gather(
                    *(self._storage.incr(f"{name}:{minute}", 2 * WINDOW_S, amount) for name, amount in taken.items())
                )
        except self._failures as error:
            self._lost(error)

    async def _ask_again(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answers = await self._storage.check()
        except self._failures:
            answers = False
        if answers:
            self._away = False
            logger.info("limits are shared again")
        elif time.monotonic() - self._complained_at >= _COMPLAIN_S:
            self._complain("no answer")

    def _lost(self, error: BaseException) -> None:
        # What has not been pushed is of a time that will be over when Redis is back.
        self._unpushed.clear()
        if not self._away:
            self._away = True
            if time.monotonic() - self._complained_at >= _COMPLAIN_S:
                self._complain(type(error).__name__)

    def _complain(self, why: str) -> None:
        self._complained_at = time.monotonic()
        logger.warning("limits are counted by each process for itself: redis does not answer", reason=why)


def _wait_s(this: int, before: int, most: int, passed_s: float) -> float:
    """Seconds until the weighted count is no more than ``most``, if nothing is added."""
    if this <= most and before:
        return max(0.0, WINDOW_S * (1 - (most - this) / before) - passed_s)
    rest_s = WINDOW_S - passed_s
    return rest_s + (WINDOW_S * (1 - max(0, most) / this) if this else 0.0)


def _connected(url: str) -> tuple[BlockingConnectionPool, RedisStorage, tuple[type[Exception], ...]]:
    """The library's storage on connections made when they are needed, and what its failures look like."""
    try:
        import redis.asyncio  # noqa: PLC0415 - an optional extra
        from limits.aio.storage.redis import RedisStorage  # noqa: PLC0415 - as above
        from redis.backoff import NoBackoff  # noqa: PLC0415 - as above
    except ImportError as error:
        reason = "needs the extra 'redis': pip install 'fastapi-foundry[redis]'"
        raise ConfigurationError("limits.storage_url", "settings", reason) from error
    options: dict[str, Any] = {
        "max_connections": _MOST_CONNECTIONS,
        "timeout": _TIMEOUT_S,
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        # A request waits; the next one tries again.
        "retry": redis.asyncio.retry.Retry(NoBackoff(), 0),
    }
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, **options)
    # The library passes on what its annotations do not know. It is not given the address, which it would keep.
    given: Any = {"connection_pool": pool}
    storage = RedisStorage("async+redis://pool:1", implementation="redispy", key_prefix=_PREFIX, **given)
    return pool, storage, (redis.asyncio.RedisError, OSError, TimeoutError)
