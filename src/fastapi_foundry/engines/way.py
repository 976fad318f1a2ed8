"""Which targets one request is tried at, and in which order: the least busy replica first, then the fallbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from fastapi_foundry.engines.base import Call, Engine, Notes
from fastapi_foundry.engines.breaker import Breaker
from fastapi_foundry.engines.routes import Target
from fastapi_foundry.errors import EngineUnavailableError, FoundryError, ModelLoadingError
from fastapi_foundry.observability.logging import get_logger

__all__ = ["MANY_PLACES", "RoutedEngine", "Way"]

logger = get_logger(__name__)

MANY_PLACES: Final = 1024
"""For an engine that queues or batches by itself."""

_LEAST_S: Final = 0.1


@dataclass(slots=True)
class RoutedEngine:
    """An engine and what the router knows of it.

    Attributes:
        weight: Its share of the work among replicas.
        places: How many requests of a model, by one of these names, it takes at the same time.
        active: Requests that are with it now.
        turn: Grows with each request, the slower the greater its weight; the engine with the lowest is next.
    """

    name: str
    engine: Engine
    weight: float = 1.0
    places: Callable[[tuple[str, ...]], int] = lambda _names: MANY_PLACES
    breaker: Breaker = field(default_factory=Breaker)
    active: int = 0
    turn: float = 0.0

    def load(self, share: float) -> tuple[float, float]:
        """How busy it is, for its weight; whose turn it is decides between equals."""
        return self.active / (self.weight * share), self.turn

    def allows(self) -> bool:
        """Whether it is worth a try while there are others."""
        return self.breaker.allows() and self.engine.status.state.is_usable

    def lease(self) -> _Lease:
        """One request is with it for as long as the block lasts; how that ends tells the breaker."""
        return _Lease(self)


class _Lease:
    __slots__ = ("_routed",)

    def __init__(self, routed: RoutedEngine) -> None:
        self._routed = routed

    def __enter__(self) -> None:
        self._routed.active += 1
        self._routed.breaker.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._routed.active -= 1
        if error is None:
            self._routed.breaker.succeeded()
        elif isinstance(error, FoundryError):
            self._routed.breaker.failed(error)
        else:
            self._routed.breaker.abandoned()


class Way:
    """The targets of one request, in the order in which they are tried, and what came of those tried."""

    def __init__(
        self,
        engines: Mapping[str, RoutedEngine],
        groups: list[list[Target]],
        call: Call,
        patience_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._groups = [list(group) for group in groups]
        self._call = call
        self._clock = clock
        self._deadline = clock() + (patience_s if call.timeout_s is None else call.timeout_s)
        self._loading: tuple[Target, float] | None = None
        self._fallen: list[str] = []
        self._failure: FoundryError | None = None

    @property
    def failure(self) -> FoundryError:
        """Why nobody answered: what the last target said."""
        return self._failure or EngineUnavailableError("No engine could be asked in time.")

    async def next(self) -> Target | None:
        """The next target; waits only for a model that is loading where there is nobody else. None at the end."""
        if self._failure is not None and self._clock() >= self._deadline:
            return None
        while self._groups and not self._groups[0]:
            self._groups.pop(0)
        if self._groups:
            group = self._groups[0]
            if len(group) == len(self._groups) == 1:
                return group.pop()
            best = min(group, key=self._rank)
            if self._engines[best.engine].allows() or not self._has_better():
                if len(group) > 1:
                    self._take_turn(group, best)
                group.remove(best)
                return best
            self._groups.pop(0)
            self._fallen += [f"{target.qualified}: {self._why_not(target)}" for target in group]
            return await self.next()
        if self._loading is None:
            return None
        target, pause_s = self._loading
        self._loading = None
        await asyncio.sleep(min(pause_s, max(0.0, self._deadline - self._clock())))
        return target if self._clock() < self._deadline else None

    def failed(self, target: Target, fact: FoundryError) -> None:
        """``target`` did not answer."""
        self._failure = fact
        if isinstance(fact, ModelLoadingError):
            self._loading = (target, fact.retry_after_s or 1.0)
        else:
            self._fallen.append(f"{target.qualified}: {fact.code}")
            logger.warning("engine did not answer", target=target.qualified, code=fact.code, error=fact.message)

    def call_for(self, target: Target) -> Call:
        """The request as this target gets it: its own bytes wherever the model's name is the same."""
        call = self._call
        if target.model != call.model:
            call = call.with_parsed({**call.parsed, "model": target.model})
        if self._failure is not None and call.timeout_s is not None:
            call = replace(call, timeout_s=max(_LEAST_S, self._deadline - self._clock()))
        return call

    def notes(self, target: Target, notes: Notes) -> Notes:
        """What the answer has to say of its way."""
        engine = target.engine if len(self._engines) > 1 else ""
        return replace(notes, engine=engine, fallback=tuple(self._fallen)) if engine or self._fallen else notes

    def _take_turn(self, group: list[Target], best: Target) -> None:
        """Move ``best`` back in the order; who was away for long does not get all that it missed."""
        routed = self._engines[best.engine]
        latest = max(self._engines[target.engine].turn for target in group)
        routed.turn = max(routed.turn, latest - 1.0) + 1.0 / (routed.weight * best.weight)

    def _rank(self, target: Target) -> tuple[bool, tuple[float, float]]:
        routed = self._engines[target.engine]
        return not routed.allows(), routed.load(target.weight)

    def _has_better(self) -> bool:
        """Whether a later group holds somebody who is worth a try."""
        return any(self._engines[target.engine].allows() for group in self._groups[1:] for target in group)

    def _why_not(self, target: Target) -> str:
        routed = self._engines[target.engine]
        state = routed.engine.status.state
        return f"breaker {routed.breaker.state}" if state.is_usable else str(state)
