"""Room in memory: who is in, who may come in, who has to go for that. Does what ``placement`` decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fastapi_foundry.daemon.memory import ProcessMemory
from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.placement import Bounds, Evict, Fits, Need, Never, Resident, place, relieve
from fastapi_foundry.daemon.slot import Replica, Slot
from fastapi_foundry.errors import EngineFailedError, FoundryError, ModelUnavailableError
from fastapi_foundry.observability.logging import get_logger

__all__ = ["Obstacle", "Room"]

logger = get_logger(__name__)

# Between two measurements on the way of a request; a decision about a first runner always measures.
_FRESH_S = 0.5


@dataclass(slots=True)
class Obstacle:
    """What a load waits for; for its error when it has waited too long."""

    words: str = "the memory that it needs is not known yet"


class Room:
    """The one place that lets runners in and ends them.

    Args:
        slots: Every slot by model id; the pool's own, read here.
        bounds: Models and memory.
        book: Gets what is measured.
        clock: Monotonic seconds.
    """

    def __init__(
        self, slots: Mapping[str, Slot], bounds: Bounds, book: MemoryBook, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds = bounds
        self._slots = slots
        self._book = book
        self._clock = clock
        self._ending: dict[int, Resident] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._measured_at = float("-inf")

    def residents(self) -> list[Resident]:
        """Everything that takes memory, as last measured."""
        found = list(self._ending.values())
        for model_id, slot in self._slots.items():
            if slot.reserved_mb is not None:
                # No replica has the key 0.
                found.append(Resident(0, model_id, slot.reserved_mb, pinned=slot.is_pinned))
            found += [_resident(slot, replica) for replica in slot.replicas]
        return found

    def used_mb(self) -> float:
        """Memory of all runners, what is set aside for loads included."""
        return sum(resident.memory_mb for resident in self.residents())

    def measure(self, *, fresh_s: float = 0.0) -> None:
        """Measure every runner, unless that was done within the last ``fresh_s`` seconds; 40 µs each."""
        now = self._clock()
        if now - self._measured_at < fresh_s:
            return
        self._measured_at = now
        for slot in self._slots.values():
            for replica in slot.replicas:
                replica.memory = ProcessMemory.of(replica.runner.pid) or replica.memory
                self._book.note_peak(slot.model, replica.memory.peak_mb)

    async def admit(self, slot: Slot, obstacle: Obstacle) -> None:
        """Wait until the first runner of a model may load, ending idle ones for it; its memory is set aside then.

        Args:
            slot: The model's slot.
            obstacle: Kept up to date while it waits.

        Raises:
            ModelUnavailableError: It cannot fit; the message has the numbers.
        """
        need = await self._book.need(slot.model)
        while True:
            self.measure()
            decision = place(slot.model.id, need, self.residents(), self.bounds)
            if isinstance(decision, Fits):
                slot.reserved_mb = decision.memory_mb
                return
            if isinstance(decision, Never):
                raise ModelUnavailableError(slot.model.id, decision.reason, code="model_does_not_fit")
            if isinstance(decision, Evict):
                await asyncio.wait(self._evict(decision.keys, f"to make room for {slot.model.id}"))
                continue
            obstacle.words = decision.reason
            await self._news()

    def admit_further(self, slot: Slot) -> bool:
        """Let one more runner of a loaded model in if there is memory to spare; nobody has to go for it."""
        need = self._book.measured(slot.model)
        if need is None:
            return False
        self.measure(fresh_s=_FRESH_S)
        # Not a part of its peak, as for a first one, but all of it.
        decision = place(slot.model.id, Need(need.likely_mb, need.likely_mb), self.residents(), self.bounds)
        if isinstance(decision, Fits):
            slot.reserved_mb = decision.memory_mb
            return True
        return False

    def relieve(self) -> None:
        """End idle runners where all together have grown past the budget."""
        keys = relieve(self.residents(), self.bounds.budget_mb)
        if keys:
            self._evict(keys, "because the runners have grown past the memory budget")

    def end(self, slot: Slot, replica: Replica, why: str, fact: FoundryError | None = None) -> asyncio.Task[None]:
        """Take a runner out of its slot now; the task is done when its process is gone.

        Args:
            slot: Its slot.
            replica: The runner.
            why: For the log.
            fact: How the requests inside end; nobody should be inside where it is left out.
        """
        slot.replicas.remove(replica)
        if not slot.replicas:
            slot.keep_alive_s = None
        replica.memory = ProcessMemory.of(replica.runner.pid) or replica.memory
        self._book.note_peak(slot.model, replica.memory.peak_mb, replace=replica.runner.requests > 0)
        self._ending[replica.key] = replace(_resident(slot, replica), ending=True)
        task = asyncio.create_task(self._stop(slot.model.id, replica, why, fact), name=f"end {slot.model.id}")
        self._tasks[task] = slot.model.id
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def announce(self) -> None:
        """Wake every load that waits for room."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def ended(self, model_id: str) -> bool:
        """Wait until the runners of a model that are being ended have ended; False if there are none."""
        tasks = [task for task, name in self._tasks.items() if name == model_id]
        if tasks:
            await asyncio.wait(tasks)
        return bool(tasks)

    def _evict(self, keys: Iterable[int], why: str) -> list[asyncio.Task[None]]:
        wanted = set(keys)
        found = [(slot, replica) for slot in self._slots.values() for replica in slot.replicas if replica.key in wanted]
        return [self.end(slot, replica, why) for slot, replica in found]

    async def _stop(self, model_id: str, replica: Replica, why: str, fact: FoundryError | None) -> None:
        started = self._clock()
        try:
            await replica.runner.stop(fact or EngineFailedError("The model was unloaded to make room for another one."))
        finally:
            del self._ending[replica.key]
            self.announce()
        logger.log_model_operation(
            model_id, "unload", "ok", self._clock() - started, runner_pid=replica.runner.pid, reason=why
        )

    async def _news(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)


def _resident(slot: Slot, replica: Replica) -> Resident:
    return Resident(
        key=replica.key,
        model_id=slot.model.id,
        memory_mb=replica.memory.rss_mb,
        last_used=replica.last_used,
        idle=not (replica.active or replica.retiring or slot.queued),
        pinned=slot.is_pinned,
    )
