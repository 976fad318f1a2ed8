"""The models in memory: started once however many ask, ended for others' sake or for idleness, put aside when they fail.

One event loop owns all of it. A model's ``Slot`` holds its runners; requests wait there for a place. ``Room`` lets
runners in and ends them, ``Upkeep`` looks after them in between. Every change of state is made in a synchronous step, so
no lock is needed and nobody sees a half-made one.
"""

from __future__ import annotations

import asyncio
import functools
import math
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi_foundry.daemon.keep_alive import take_keep_alive
from fastapi_foundry.daemon.launch import RUNNER_MODULE
from fastapi_foundry.daemon.loader import Loader, own_names
from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.placement import Bounds
from fastapi_foundry.daemon.room import Room
from fastapi_foundry.daemon.runner_call import End, RunnerCall
from fastapi_foundry.daemon.slot import PoolLimits, Replica, Slot
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.daemon.upkeep import Upkeep
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineUnavailableError,
    FoundryError,
    QueueFullError,
)
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["RunnerPool"]

logger = get_logger(__name__)


class RunnerPool:
    """Loads, lends and unloads models.

    Args:
        limits: See ``PoolLimits``.
        scratch: Directory for the runners' own data; swept at start, so it belongs to this service alone.
        book: What is known of models' memory.
        names: Every name of a model, in lower case, that the settings may mean it by.
        clock: Monotonic seconds.
        runner_module: What a runner is; tests of the pool take a double.
    """

    def __init__(
        self,
        limits: PoolLimits,
        scratch: Path,
        book: MemoryBook,
        names: Callable[[LocalModel], Collection[str]] = own_names,
        clock: Callable[[], float] = time.monotonic,
        runner_module: str = RUNNER_MODULE,
    ) -> None:
        self._limits = limits
        self._scratch = scratch
        self._clock = clock
        self._book = book
        self._slots: dict[str, Slot] = {}
        self.room = Room(self._slots, Bounds(limits.max_loaded_models, limits.memory_budget_mb), book, clock)
        self._upkeep = Upkeep(self._slots, self.room, book, clock)
        self._loader = Loader(limits, scratch, book, self.room, self._upkeep, names, clock, runner_module)

    def slots(self) -> Mapping[str, Slot]:
        """Every slot by model id; for reading."""
        return self._slots

    def expires_in_s(self, model_id: str) -> float | None:
        """Seconds until a model ends for being idle; None while it is in use, or where it stays or is not loaded."""
        slot = self._slots.get(model_id)
        if slot is None or not slot.replicas or slot.active or slot.queued:
            return None
        at = max(slot.expires(replica) for replica in slot.replicas)
        return None if at == math.inf else max(0.0, at - self._clock())

    async def load(
        self, model: LocalModel, *, pin: bool | None = None, keep_alive_s: float | None = None
    ) -> tuple[Slot, bool]:
        """Load a model because somebody asked for exactly that; forgives its past failures.

        Args:
            model: The model.
            pin: Whether it must stay in memory until it is unloaded; None leaves that as it is.
            keep_alive_s: Seconds that it stays without a request, counted from now; None for what holds already.

        Returns:
            Its slot, and whether it was loaded already.

        Raises:
            ModelFilesError: Its files cannot be used.
            ModelUnavailableError: It does not load, or there is no room for it.
        """
        slot = self._slot(model)
        slot.failures.forgive()
        already = bool(slot.ready)
        if not already:
            await self._loader.loaded(slot)
        slot.pinned = slot.pinned if pin is None else pin
        slot.keep_alive_s = slot.keep_alive_s if keep_alive_s is None else keep_alive_s
        for replica in slot.replicas:
            replica.last_used = self._clock()
            self._upkeep.settled(slot, replica)
        return slot, already

    @asynccontextmanager
    async def call(self, model: LocalModel, operation: str, body: dict[str, Any]) -> AsyncIterator[RunnerCall]:
        """A request inside a runner of the model, which is started if need be; leaving early cancels it.

        Waits for the load and for a place, in the order of arrival. ``keep_alive`` is taken out of ``body`` and holds
        for the model until another request says otherwise.

        Raises:
            InvalidInputError: ``keep_alive`` is wrong.
            QueueFullError: As many wait as may.
            ModelUnavailableError: It was put aside, does not load, or does not fit.
            ModelFilesError: Its files cannot be used.
        """
        slot = self._slot(model)
        keep_alive_s = take_keep_alive(body)
        places = slot.places * max(1, len(slot.ready))
        if slot.queued + slot.active >= self._limits.max_queued_per_model + places:
            raise QueueFullError(
                f"{slot.queued} requests wait for the model '{model.id}' already.",
                # A rough second for each round of waiting requests.
                retry_after_s=max(1.0, slot.queued / places),
            )
        call = await self._taken_up(slot, operation, body, keep_alive_s)
        try:
            yield call
        finally:
            call.cancel()

    async def unload(self, model_id: str, reason: FoundryError | None = None) -> bool:
        """End a model's runners; requests inside end with ``reason``. Unpins it. Waits until the processes are gone.

        Returns:
            Whether there was anything to unload.
        """
        slot = self._slots.get(model_id)
        if slot is None:
            return False
        loading = slot.loading
        if loading is not None:
            loading.cancel()
            await asyncio.wait([loading])
        slot.pinned, slot.keep_alive_s = False, None
        fact = reason or EngineFailedError("The model was unloaded while it worked on this request.")
        for replica in list(slot.replicas):
            self.room.end(slot, replica, "somebody asked for it", fact)
        # Who waits for a place has not been worked on, so it lets the model in again.
        self._loader.serve_waiting(slot)
        return await self.room.ended(model_id) or loading is not None

    async def close(self) -> None:
        """End every runner; nothing can be loaded afterwards."""
        self._loader.closed = True
        self._upkeep.stop()
        going = EngineUnavailableError("The service is shutting down.")
        for slot in self._slots.values():
            slot.fail_waiting(going)
        await asyncio.gather(*(self.unload(model_id, going) for model_id in list(self._slots)))
        await self._book.save()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what earlier runners left behind; blocks. Call it before the first load."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        make_private_directory(self._scratch)

    def forget(self, model_id: str) -> None:
        """Drop an unloaded model's slot, its history with it."""
        slot = self._slots.get(model_id)
        if slot is not None and not (slot.replicas or slot.loading or slot.wanted):
            del self._slots[model_id]

    # Requests.

    async def _taken_up(
        self, slot: Slot, operation: str, body: dict[str, Any], keep_alive_s: float | None
    ) -> RunnerCall:
        """A call that a runner works on, or that has ended.

        A runner that dies before it took a request up has done nothing of it, so the next one gets it, once.
        """
        repeated = False
        while True:
            replica = await self._place(slot)
            if replica not in slot.replicas or not replica.runner.alive:
                # It died or was unloaded between the gift of the place and its use.
                slot.give_back(replica)
                continue
            slot.keep_alive_s = slot.keep_alive_s if keep_alive_s is None else keep_alive_s
            call = replica.runner.call(operation, body, functools.partial(self._settled, slot, replica))
            try:
                await call.taken_up()
            except BaseException:
                call.cancel()
                raise
            if call.end is None or not call.end.untouched or repeated:
                return call
            repeated = True
            logger.warning("request repeated on a new runner", model_id=slot.model.id, dead_pid=replica.runner.pid)

    async def _place(self, slot: Slot) -> Replica:
        if slot.full:
            self._loader.grow(slot)
        try:
            return await slot.place()
        except asyncio.CancelledError:
            self._loader.give_up_unwanted(slot)
            raise

    def _settled(self, slot: Slot, replica: Replica, end: End) -> None:
        replica.last_used = self._clock()
        if end.fact is None:
            slot.failures.note_answer()
        slot.give_back(replica)
        if not replica.active:
            self.room.announce()
            if replica in slot.replicas:
                self._upkeep.settled(slot, replica)

    def _slot(self, model: LocalModel) -> Slot:
        slot = self._slots.get(model.id)
        if slot is None:
            default = self._limits.idle_unload_s
            slot = Slot(model, self._limits.max_active_per_model, math.inf if default is None else default)
            self._slots[model.id] = slot
        slot.model = model
        return slot
