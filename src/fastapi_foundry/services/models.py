"""Which models there are and in which state; loading and unloading them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi_foundry.engines.base import Engine, ModelCard
from fastapi_foundry.engines.catalog import Catalog, DownloadProgress
from fastapi_foundry.engines.via import gateways_passed
from fastapi_foundry.errors import EngineError, ModelNotFoundError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings import QUALIFIER

__all__ = ["ModelsService"]

logger = get_logger(__name__)

_FRESH_S: Final = 1.0
_SHOWN_NAMES: Final = 5


class ModelsService:
    """The engine's model list, read at most once in a second however many ask.

    Args:
        engine: Whose models these are.
        changed: Called when a model has been loaded, unloaded or downloaded through this, or may have been.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._clock = clock
        self._cards: list[ModelCard] = []
        self._ids: dict[str, str] = {}
        self._fetched_at = float("-inf")
        self._fetching: asyncio.Task[list[ModelCard]] | None = None

    @property
    def last_known(self) -> list[ModelCard]:
        """The list as it was last read, whatever its age; never waits."""
        return self._cards

    async def cards(self, *, fresh: bool = False) -> list[ModelCard]:
        """Every usable model, at most a second old; ``fresh`` reads it anew.

        Raises:
            EngineError: When the engine does not tell.
        """
        if not fresh and self._clock() - self._fetched_at < _FRESH_S:
            return self._cards
        if gateways_passed():
            # Not shared: the gateway that asks may be one that a fetch under way is waiting for. Nor fresh for
            # anybody else: what only that gateway could tell is not in it.
            return await self._fetch(is_fresh=False)
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        # Shielded: one caller's disconnect must not take the answer from the others.
        return await asyncio.shield(self._fetching)

    async def get(self, name: str) -> ModelCard:
        """The model of that id or alias.

        Raises:
            ModelNotFoundError: When there is none.
            EngineError: When the engine does not tell.
        """
        for fresh in (False, True):
            for card in await self.cards(fresh=fresh):
                if name == card.id or name in card.names or name == card.extra.get("alias"):
                    return card
        raise self._not_found(name)

    def known_id(self, name: str) -> str | None:
        """The full id of a name that is known already; None where it has to be looked for."""
        return self._ids.get(name)

    def state_of(self, model_id: str) -> str:
        """A model's state as it was last told; never waits. What is old is read anew in the background."""
        if self._clock() - self._fetched_at >= _FRESH_S and self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        return next((card.state for card in self._cards if card.id == model_id), "unknown")

    async def require_known(self, name: str) -> str:
        """The full id of a known name, without any waiting; one that was not known before is looked for once.

        While the engine does not tell its models nothing is refused here, and the name is returned as it is: the
        call itself then says what is wrong.

        Raises:
            ModelNotFoundError: When the engine has no model of that name.
        """
        if name in self._ids:
            return self._ids[name]
        try:
            # However fresh the list is, the model may have come since: registered or downloaded a moment ago.
            await self.cards(fresh=True)
        except EngineError:
            return name
        if name in self._ids:
            return self._ids[name]
        if QUALIFIER in name:
            return name  # an engine may know more names than it lists, so it has the last word
        raise self._not_found(name)

    async def load(self, name: str) -> dict[str, Any]:
        """Load a model and wait until it is ready; the engine's own answer.

        Raises:
            FoundryError: The engine's reason.
        """
        return await self._operation("load", name)

    async def unload(self, name: str) -> dict[str, Any]:
        """Unload a model and wait until its memory is returned; the engine's own answer.

        Raises:
            FoundryError: The engine's reason.
        """
        return await self._operation("unload", name)

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        """What can be downloaded, by every engine that offers something.

        Args:
            refresh: Wait, bounded, for news of the network.
        """
        return await self._engine.catalog(refresh=refresh)

    @asynccontextmanager
    async def download(self, name: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        """Download a model; entering waits until the engine has taken the job, the last item carries the full id.

        Raises:
            FoundryError: The engine's reason.
        """
        logger.info("download asked for", model_id=name)
        try:
            async with self._engine.download(name) as progress:
                yield progress
        finally:
            self._fetched_at = float("-inf")
            self._changed()

    async def cancel_download(self, name: str) -> dict[str, Any]:
        """End a download and wait until it has ended; the engine's own answer.

        Raises:
            FoundryError: The engine's reason.
        """
        return await self._engine.cancel_download(name)

    async def _operation(self, operation: str, name: str) -> dict[str, Any]:
        model_id = await self.require_known(name)
        begun = self._clock()
        logger.log_model_operation(model_id=model_id, operation=operation, status="begin", duration=0.0)
        status, answer = "failed", {}
        try:
            answer = await (self._engine.load_model(name) if operation == "load" else self._engine.unload_model(name))
            status = "ok"
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        finally:
            # What the list said before is not true any more.
            self._fetched_at = float("-inf")
            self._changed()
            logger.log_model_operation(
                model_id=model_id,
                operation=operation,
                status=status,
                duration=self._clock() - begun,
                memory_mb=answer.get("memory_mb"),
            )
        return answer

    async def _fetch(self, *, is_fresh: bool = True) -> list[ModelCard]:
        cards = await self._engine.list_models()
        self._cards = cards
        aliases = {alias: card.id for card in cards if isinstance(alias := card.extra.get("alias"), str)}
        self._ids = aliases | {name: card.id for card in cards for name in (*card.names, card.id)}
        if is_fresh:
            self._fetched_at = self._clock()
        return cards

    def _fetched(self, task: asyncio.Task[list[ModelCard]]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # Seen by whoever waited; when nobody does any more it is of no interest.

    def _not_found(self, name: str) -> ModelNotFoundError:
        names = sorted(card.id for card in self._cards)
        if not names:
            return ModelNotFoundError(name, "There are no models yet.")
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        return ModelNotFoundError(name, f"Available: {', '.join(names[:_SHOWN_NAMES])}{more}.")
