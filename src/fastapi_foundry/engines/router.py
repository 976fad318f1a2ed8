"""Several engines as one: each request goes to an engine that has the model, and on to the next when that fails.

Before the first byte of an answer has gone out, a failure of the engine leads to the next target of the route:
the other replicas, the least busy first, then the fallbacks in their order. Never afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

from fastapi_foundry.engines.base import (
    Call,
    Engine,
    EngineReport,
    EngineStatus,
    ModelCard,
    NotedStream,
    Reply,
    ReplyStream,
    TokenCount,
)
from fastapi_foundry.engines.breaker import BreakerState
from fastapi_foundry.engines.catalog import Catalog, CatalogSource, DownloadProgress
from fastapi_foundry.engines.direct import DirectLine, DirectWay
from fastapi_foundry.engines.routes import RouteTable, Target
from fastapi_foundry.engines.way import RoutedEngine, Way
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    FoundryError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    QueueFullError,
)
from fastapi_foundry.settings import FOUNDRY, QUALIFIER, ModelRouteSettings

__all__ = ["Router"]

_LIST_S: Final = 1.5
_MOST_NAMES: Final = 10_000
# What another engine, or another model of a chain, may do better. A wrong request stays wrong everywhere.
_WORTH_ANOTHER: Final = (
    EngineError,
    ModelUnavailableError,
    QueueFullError,
    ModelNotFoundError,
    ContextLengthExceededError,
)


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
        self._names_of: dict[Target, tuple[list[ModelCard], tuple[str, ...]]] = {}

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

    def lane(self, model: str) -> tuple[str, int]:
        """The queue that a model's requests stand in, by the engines that share its work now, and their places in all.

        Names that lead to the same engine's same model share one.
        """
        try:
            groups = self._table.groups(model)
        except ModelNotFoundError:
            return model, next(iter(self._engines.values())).places((model,))
        group = groups[0]
        if len(groups) > 1 and not self._any_usable(group):
            group = next((other for other in groups[1:] if self._any_usable(other)), group)
        if len(group) == 1:
            names = self._names(group[0])
            return names[0], self._engines[group[0].engine].places(names)
        return model, sum(self._engines[target.engine].places(self._names(target)) for target in group)

    def direct_way(self, model: str) -> DirectWay | None:
        """The one engine of a model that needs no other name, and its line, where plain requests may use it now."""
        try:
            groups = self._table.groups(model)
        except ModelNotFoundError:
            return None
        target = groups[0][0]
        if len(groups) > 1 or len(groups[0]) > 1 or target.model != model:
            return None
        routed = self._engines[target.engine]
        if routed.breaker.state is not BreakerState.CLOSED:
            return None
        line = routed.engine.direct_line()
        name = routed.name if len(self._engines) > 1 else ""
        return None if line is None else DirectWay(routed, line, name)

    def direct_line(self) -> DirectLine | None:
        """None of its own: see ``direct_way``."""
        return None

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

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        """Every engine's catalogue, asked at the same time; one that does not answer is named with the reason."""
        found = await asyncio.gather(*(self._catalog(routed, refresh=refresh) for routed in self._engines.values()))
        sources = [source for catalog in found for source in catalog.sources]
        return Catalog(tuple(sources), tuple(model for catalog in found for model in catalog.models))

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Download a model with the engine that its name says, ``engine::model``; Foundry Local when it says none."""
        engine, name = self._downloader(model)
        return engine.download(name)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download and wait until it has ended; ``model`` as ``download`` takes it."""
        engine, name = self._downloader(model)
        return await engine.cancel_download(name)

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

    async def count_tokens(self, call: Call) -> TokenCount | None:
        """How long the prompt is, by the first engine of the route that can tell; see ``Engine.count_tokens``.

        A fallback is another model, which counts otherwise, so none is asked.
        """
        way = await self._way(call)
        failure: EngineError | None = None
        for target in self._table.groups(call.model)[0]:
            try:
                counted = await self._engines[target.engine].engine.count_tokens(way.call_for(target))
            except EngineError as fact:
                failure = failure or fact
                continue
            if counted is not None:
                return counted
        if failure is not None:
            raise failure
        return None

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
                        yield NotedStream(aiter(reply), reply.headers, way.notes(target, reply.notes))
                        return
            except _WORTH_ANOTHER as fact:
                if begun:
                    raise
                way.failed(target, fact)
        raise way.failure

    def _any_usable(self, group: list[Target]) -> bool:
        return any(self._engines[target.engine].allows() for target in group)

    def _names(self, target: Target) -> tuple[str, ...]:
        """What a target's model is called: qualified by its engine, and by id and alias as far as it is listed."""
        known = self._names_of.get(target)
        cards = self._table.cards[target.engine]
        if known is not None and known[0] is cards:
            return known[1]
        model, alias = target.model, ""
        for card in cards:
            own = card.extra.get("alias")
            if target.model in {card.id, own}:
                model, alias = card.id, own if isinstance(own, str) else ""
                break
        names = (f"{target.engine}{QUALIFIER}{model}", model, alias)
        if len(self._names_of) >= _MOST_NAMES:
            self._names_of.clear()
        self._names_of[target] = cards, names
        return names

    async def _way(self, call: Call) -> Way:
        try:
            groups = self._table.groups(call.model)
        except ModelNotFoundError:
            await self._learn_names()
            groups = self._table.groups(call.model)
        return Way(self._engines, groups, call, self._patience_s, self._clock)

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

    def _downloader(self, model: str) -> tuple[Engine, str]:
        engine, qualified, name = model.partition(QUALIFIER)
        if not qualified:
            return self._engines[FOUNDRY].engine, model
        if engine not in self._engines:
            known = ", ".join(self._engines)
            raise InvalidInputError(f"There is no engine '{engine}'; there are: {known}.", param="model")
        return self._engines[engine].engine, name

    async def _catalog(self, routed: RoutedEngine, *, refresh: bool) -> Catalog:
        try:
            catalog = await routed.engine.catalog(refresh=refresh)
        except FoundryError as fact:
            return Catalog((CatalogSource(routed.name, "unavailable", reason=fact.message),))
        sources = tuple(replace(source, engine=routed.name) for source in catalog.sources)
        return Catalog(sources, tuple(replace(model, engine=routed.name) for model in catalog.models))

    async def _list(self, routed: RoutedEngine) -> list[ModelCard]:
        status = routed.engine.status
        if len(self._engines) > 1 and not status.state.is_usable:
            # Nobody waits for one engine's list while there are others.
            raise EngineUnavailableError(f"The engine '{routed.name}' is not ready: {status.reason}.", url=status.url)
        try:
            async with asyncio.timeout(_LIST_S):
                return await routed.engine.list_models()
        except TimeoutError as error:
            message = f"The engine '{routed.name}' did not tell its models within {_LIST_S:g} s."
            raise EngineTimeoutError(message, limit_s=_LIST_S) from error
