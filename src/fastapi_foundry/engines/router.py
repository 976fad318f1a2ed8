"""Several engines as one: each request goes to an engine that has the model, and on to the next when that fails.

Before the first byte of an answer has gone out, a failure of the engine leads to the next target of the route:
the other replicas, the least busy first, then the fallbacks in their order. Never afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi_foundry.engines.base import Call, Engine, EngineReport, EngineStatus, ModelCard, Notes, Reply, ReplyStream
from fastapi_foundry.engines.breaker import Breaker
from fastapi_foundry.engines.routes import RouteTable, Target
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineUnavailableError,
    FoundryError,
    ModelLoadingError,
    ModelNotFoundError,
    ModelUnavailableError,
    QueueFullError,
)
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings import FOUNDRY, ModelRouteSettings

__all__ = ["RoutedEngine", "Router"]

logger = get_logger(__name__)

_LIST_S: Final = 1.5
_LEAST_S: Final = 0.1
# What another engine, or another model of a chain, may do better. A wrong request stays wrong everywhere.
_WORTH_ANOTHER: Final = (
    EngineError,
    ModelUnavailableError,
    QueueFullError,
    ModelNotFoundError,
    ContextLengthExceededError,
)


@dataclass(slots=True)
class RoutedEngine:
    """An engine and what the router knows of it.

    Attributes:
        weight: Its share of the work among replicas.
        active: Requests that are with it now.
        turn: Grows with each request, the slower the greater its weight; the engine with the lowest is next.
    """

    name: str
    engine: Engine
    weight: float = 1.0
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


class _Way:
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


class _Noted:
    """A stream with the notes of its way."""

    def __init__(self, reply: ReplyStream, notes: Notes) -> None:
        self.headers = reply.headers
        self.notes = notes
        self._reply = reply

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._reply)


class Router:
    """An ``Engine`` made of engines; see ``engines.base.Engine`` for what each method promises.

    Args:
        engines: In the order of preference; the first is Foundry Local.
        aliases: Names of one's own, checked already.
        patience_s: How long a model may be loading before a request for it fails, in seconds.
        ready_s: How long a request waits for Foundry Local to be started, in seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engines: list[RoutedEngine],
        aliases: Mapping[str, ModelRouteSettings],
        *,
        patience_s: float,
        ready_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = {routed.name: routed for routed in engines}
        self._table = RouteTable(aliases, {name: [] for name in self._engines})
        self._patience_s = patience_s
        self._ready_s = ready_s
        self._clock = clock

    @property
    def engines(self) -> Mapping[str, RoutedEngine]:
        """What there is, by name."""
        return self._engines

    @property
    def status(self) -> EngineStatus:
        """Foundry Local's, unless another engine can be used and it cannot."""
        foundry, *others = (routed.engine.status for routed in self._engines.values())
        if foundry.state.is_usable:
            return foundry
        return next((status for status in others if status.state.is_usable), foundry)

    def reports(self) -> list[EngineReport]:
        """How each engine is now; never waits."""
        return [
            EngineReport(
                name=routed.name,
                status=routed.engine.status,
                breaker=str(routed.breaker.state),
                retry_after_s=round(routed.breaker.retry_after_s, 1),
                active=routed.active,
                models=len(self._table.cards[routed.name]),
            )
            for routed in self._engines.values()
        ]

    async def start(self) -> None:
        """Begin discovery and supervision of all in the background; returns at once."""
        for routed in self._engines.values():
            await routed.engine.start()

    async def aclose(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(routed.engine.aclose() for routed in self._engines.values()))

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until Foundry Local is ready."""
        await self._engines[FOUNDRY].engine.wait_ready(timeout_s)

    async def list_models(self) -> list[ModelCard]:
        """Every engine's models, asked at the same time; one that does not answer keeps its last list.

        Raises:
            FoundryError: None of them answers; the first one's reason.
        """
        answers = await asyncio.gather(*map(self._list, self._engines.values()), return_exceptions=True)
        for name, answer in zip(self._engines, answers, strict=True):
            if isinstance(answer, list):
                self._table.update(name, answer)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(failures) == len(answers):
            raise failures[0]
        return self._table.public_cards()

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model on the first engine of its route."""
        target = self._table.groups(model)[0][0]
        return await self._engines[target.engine].engine.load_model(target.model)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model from the first engine of its route."""
        target = self._table.groups(model)[0][0]
        return await self._engines[target.engine].engine.unload_model(target.model)

    async def post(self, call: Call) -> Reply:
        """Have ``call`` answered by the first target that can; see ``Engine.post``."""
        way = await self._way(call)
        while (target := await way.next()) is not None:
            routed = self._engines[target.engine]
            try:
                with routed.lease():
                    reply = await routed.engine.post(way.call_for(target))
            except _WORTH_ANOTHER as fact:
                way.failed(target, fact)
                continue
            notes = way.notes(target, reply.notes)
            return reply if notes is reply.notes else replace(reply, notes=notes)
        raise way.failure

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ReplyStream]:
        """Stream from the first target that begins to answer; see ``Engine.stream``."""
        way = await self._way(call)
        while (target := await way.next()) is not None:
            routed = self._engines[target.engine]
            begun = False
            try:
                with routed.lease():
                    async with routed.engine.stream(way.call_for(target)) as reply:
                        begun = True
                        yield _Noted(reply, way.notes(target, reply.notes))
                        return
            except _WORTH_ANOTHER as fact:
                if begun:
                    raise
                way.failed(target, fact)
        raise way.failure

    async def _way(self, call: Call) -> _Way:
        try:
            groups = self._table.groups(call.model)
        except ModelNotFoundError:
            await self._learn_names()
            groups = self._table.groups(call.model)
        return _Way(self._engines, groups, call, self._patience_s, self._clock)

    async def _learn_names(self) -> None:
        """Ask the engines for their models; before any of them can tell, wait for Foundry Local to be ready.

        Raises:
            EngineUnavailableError: It does not become ready in time.
        """
        try:
            await self.list_models()
        except EngineError:
            await self.wait_ready(self._ready_s)
            await self.list_models()

    async def _list(self, routed: RoutedEngine) -> list[ModelCard]:
        status = routed.engine.status
        if len(self._engines) > 1 and not status.state.is_usable:
            # Nobody waits for one engine's list while there are others.
            raise EngineUnavailableError(f"The engine '{routed.name}' is not ready: {status.reason}.", url=status.url)
        async with asyncio.timeout(_LIST_S):
            return await routed.engine.list_models()
