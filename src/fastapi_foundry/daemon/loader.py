"""Bringing runners in: one load under way for each model, its failures, and what happens when a runner is lost."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from fastapi_foundry.daemon.launch import launch_runner
from fastapi_foundry.daemon.memory import MIB, ProcessMemory
from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.room import Obstacle, Room
from fastapi_foundry.daemon.runner_end import RunnerStartError
from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.daemon.slot import PoolLimits, Replica, Slot
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.daemon.upkeep import Upkeep
from fastapi_foundry.errors import EngineUnavailableError, FoundryError, ModelFilesError, ModelUnavailableError
from fastapi_foundry.observability.logging import get_logger

__all__ = ["Loader", "own_names"]

logger = get_logger(__name__)

_RETRY_AFTER_S: Final = 5.0


def own_names(model: LocalModel) -> Collection[str]:
    """The names that a model has by itself, in lower case."""
    return (model.id.casefold(), model.alias.casefold())


class Loader:
    """Starts runners for slots, and sees to those that wait when one comes or is lost.

    Args:
        limits: See ``PoolLimits``.
        scratch: Directory for the runners' own data.
        book: Gets what loads are measured to take.
        room: Lets runners in.
        upkeep: Hears of new runners.
        names: Every name of a model, in lower case, that the settings may mean it by.
        clock: Monotonic seconds.
        runner_module: What a runner is.

    Attributes:
        closed: Whether nothing is to be loaded any more.
    """

    def __init__(
        self,
        limits: PoolLimits,
        scratch: Path,
        book: MemoryBook,
        room: Room,
        upkeep: Upkeep,
        names: Callable[[LocalModel], Collection[str]],
        clock: Callable[[], float],
        runner_module: str,
    ) -> None:
        self.closed = False
        self._limits = limits
        self._scratch = scratch
        self._book = book
        self._room = room
        self._upkeep = upkeep
        self._names = names
        self._clock = clock
        self._runner_module = runner_module
        self._keys = itertools.count(1)

    def serve_waiting(self, slot: Slot) -> None:
        """See to it that whoever waits for a place gets one, or learns why not."""
        slot.hand_out()
        if slot.queued:
            try:
                self.grow(slot)
            except FoundryError as fact:
                slot.fail_waiting(fact)

    def _configure(self, slot: Slot) -> None:
        """Read the settings again: the catalogue may have given the model a further name."""
        names = self._names(slot.model)
        replicas = self._limits.model_replicas
        slot.max_replicas = next((replicas[name] for name in names if name in replicas), self._limits.replicas)
        slot.always_pinned = not self._limits.pinned_models.isdisjoint(names)

    async def loaded(self, slot: Slot) -> None:
        """Wait for the load that is under way or begins now; it outlives any one waiter."""
        loading = self._first_load(slot)
        slot.explicit += 1
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _unloaded_meanwhile(slot) from None
        finally:
            slot.explicit -= 1
            self.give_up_unwanted(slot)

    def grow(self, slot: Slot) -> None:
        """Start a runner if one more is needed; raises what makes waiting for the first one pointless."""
        ready = len(slot.ready)
        if not ready:
            self._first_load(slot)
        elif slot.loading is None and ready < slot.max_replicas and not self.closed:
            failures = slot.failures
            if not (failures.put_aside or failures.cool_down_s(self._clock())) and self._room.admit_further(slot):
                self._begin(slot)

    def _first_load(self, slot: Slot) -> asyncio.Task[None]:
        """The one load under way, else a new one; raises why there cannot be one."""
        if self.closed:
            raise EngineUnavailableError("The service is shutting down.")
        if slot.loading is not None:
            return slot.loading
        slot.failures.check(slot.model.id, self._clock())
        if slot.model.problem:
            raise ModelFilesError(f"The model '{slot.model.id}' cannot be loaded: {slot.model.problem}", param="model")
        self._configure(slot)
        return self._begin(slot)

    def _begin(self, slot: Slot) -> asyncio.Task[None]:
        slot.loading = asyncio.create_task(self._load(slot), name=f"load {slot.model.id}")
        slot.loading.add_done_callback(functools.partial(self._load_has_ended, slot))
        return slot.loading

    def give_up_unwanted(self, slot: Slot) -> None:
        """End a load that still waits for room when nobody waits for it any more; one that has begun goes on."""
        if slot.loading is not None and slot.reserved_mb is None and not slot.wanted:
            slot.loading.cancel()
            slot.loading = None

    async def _load(self, slot: Slot) -> None:
        """Bring one runner in; whoever waits for the model is served, or told why not."""
        try:
            await self._bring_in(slot)
        except BaseException as error:
            if self._load_is_over(slot) and not slot.ready:
                slot.fail_waiting(_unloaded_meanwhile(slot) if isinstance(error, asyncio.CancelledError) else error)
            raise
        self._load_is_over(slot)
        self.serve_waiting(slot)

    def _load_is_over(self, slot: Slot) -> bool:
        """False for a load that was given up, which is not the slot's any more."""
        if slot.loading is not asyncio.current_task():
            return False
        slot.loading, slot.reserved_mb = None, None
        self._room.announce()
        return True

    def _load_has_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            # Every waiter may have gone; an error that nobody reads would be complained about.
            task.exception()
        if slot.loading is task:
            # It was cancelled before it had begun, so none of its own lines has run.
            slot.loading, slot.reserved_mb = None, None
            self._room.announce()
            if not slot.ready:
                slot.fail_waiting(_unloaded_meanwhile(slot))

    async def _bring_in(self, slot: Slot) -> None:
        model_id, started = slot.model.id, self._clock()
        obstacle = Obstacle()
        logger.log_model_operation(model_id, "load", "begin", 0.0)
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                if slot.reserved_mb is None:
                    await self._room.admit(slot, obstacle)
                runner = await launch_runner(
                    slot.model,
                    limits=self._limits,
                    scratch=self._scratch,
                    on_exit=lambda ended: self._exited(slot, ended),
                    on_stuck=lambda stuck: self._stuck(slot, stuck),
                    module=self._runner_module,
                )
        except RunnerStartError as error:
            raise self._load_failed(slot, started, str(error)) from error
        except TimeoutError:
            raise self._load_timed_out(slot, started, obstacle.words) from None
        self._take_in(slot, runner, started)

    def _take_in(self, slot: Slot, runner: RunnerProcess, started: float) -> None:
        now = self._clock()
        memory = ProcessMemory.of(runner.pid) or ProcessMemory(0.0, 0.0)
        replica = Replica(next(self._keys), runner, memory, last_used=now, load_duration_s=now - started)
        slot.replicas.append(replica)
        slot.failures.note_loaded()
        self._book.note_loaded(slot.model, memory.rss_mb)
        self._book.note_peak(slot.model, memory.peak_mb)
        self._upkeep.settled(slot, replica)
        logger.log_model_operation(
            slot.model.id,
            "load",
            "ok",
            replica.load_duration_s,
            runner_pid=runner.pid,
            memory_mb=round(memory.rss_mb, 1),
            size_mb=round(slot.model.files.size_bytes / MIB, 1) if slot.model.files else None,
            network=runner.ready.get("network"),
            replicas=len(slot.replicas),
        )

    # What goes wrong.

    def _load_failed(self, slot: Slot, started: float, reason: str) -> ModelUnavailableError:
        logger.log_model_operation(slot.model.id, "load", "failed", self._clock() - started, error=reason)
        self._note(slot, slot.failures.note_failed_load(self._clock(), reason))
        fact = ModelUnavailableError(slot.model.id, f"{reason}.".replace("..", "."))
        fact.retry_after_s = None if slot.failures.put_aside else slot.failures.cool_down_s(self._clock())
        return fact

    def _load_timed_out(self, slot: Slot, started: float, obstacle: str) -> ModelUnavailableError:
        limit = f"{self._limits.load_timeout_s:g} s"
        if slot.reserved_mb is not None:
            return self._load_failed(slot, started, f"it did not load within {limit}")
        reason = f"no room for it became free within {limit}: {obstacle}."
        logger.log_model_operation(slot.model.id, "load", "failed", self._clock() - started, error=reason)
        return ModelUnavailableError(slot.model.id, reason, retry_after_s=_RETRY_AFTER_S)

    def _exited(self, slot: Slot, runner: RunnerProcess) -> None:
        replica = next((each for each in slot.replicas if each.runner is runner), None)
        if replica is None:
            return
        slot.replicas.remove(replica)
        self._book.note_peak(slot.model, replica.memory.peak_mb)
        logger.error(
            "runner died",
            model_id=slot.model.id,
            runner_pid=runner.pid,
            status=runner.status,
            last_words=runner.last_words,
        )
        self._note(slot, slot.failures.note_death(self._clock(), runner.fault or "its process ended unexpectedly"))
        self._room.announce()
        self.serve_waiting(slot)

    def _stuck(self, slot: Slot, runner: RunnerProcess) -> None:
        for replica in slot.replicas:
            if replica.runner is runner:
                replica.retiring = True
                logger.warning("runner is to be replaced", model_id=slot.model.id, runner_pid=runner.pid)
                self.serve_waiting(slot)

    def _note(self, slot: Slot, is_put_aside: bool) -> None:  # noqa: FBT001 - what a failure returned
        if is_put_aside:
            logger.error("model put aside", model_id=slot.model.id, reason=slot.failures.put_aside)


def _unloaded_meanwhile(slot: Slot) -> ModelUnavailableError:
    return ModelUnavailableError(slot.model.id, "it was unloaded while it loaded.")
