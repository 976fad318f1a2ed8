"""One model's place in the pool: its runners, and the requests that wait for a place in one of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi_foundry.daemon.failures import Failures
from fastapi_foundry.daemon.memory import ProcessMemory, memory_mb
from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.daemon.store import LocalModel

__all__ = ["PoolLimits", "Replica", "Slot", "runner_rows"]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds on what runs at once; see ``settings.foundry_service`` for each. Names of models are in lower case."""

    max_loaded_models: int
    memory_budget_mb: float
    max_active_per_model: int
    max_queued_per_model: int
    load_timeout_s: float
    cancel_timeout_s: float
    idle_unload_s: float | None = None
    replicas: int = 1
    model_replicas: Mapping[str, int] = field(default_factory=dict)
    pinned_models: frozenset[str] = frozenset()
    kept_sessions: int = 4
    kept_memory_mb: int = 512
    kept_idle_s: float = 300.0


@dataclass(slots=True, eq=False)
class Replica:
    """A loaded runner of a model.

    Attributes:
        key: Tells it from every other runner of this service.
        memory: As last measured.
        active: Requests inside, cancelled ones until the runner confirms.
        last_used: Monotonic time of its load, or of its last request's end.
        load_duration_s: How long its load took.
        retiring: Whether it gets no more requests because it cannot stop one.
    """

    key: int
    runner: RunnerProcess
    memory: ProcessMemory
    last_used: float
    load_duration_s: float
    active: int = 0
    retiring: bool = False


@dataclass(slots=True)
class Slot:
    """One model's place in the pool.

    Attributes:
        model: What to load; replaced when the store finds it elsewhere.
        places: Requests that each runner takes at once.
        default_keep_s: Seconds that it stays loaded without a request where nobody says otherwise; may be infinite.
        max_replicas: Runners that it may have.
        always_pinned: Whether the settings pin it.
        replicas: Its runners, the oldest first.
        loading: The one load under way.
        reserved_mb: Memory set aside for the runner being started; None unless it was let in.
        explicit: Explicit loads that wait.
        pinned: Whether somebody who loaded it pinned it.
        keep_alive_s: What a request or load said last, while it is loaded.
    """

    model: LocalModel
    places: int
    default_keep_s: float = math.inf
    max_replicas: int = 1
    always_pinned: bool = False
    replicas: list[Replica] = field(default_factory=list)
    loading: asyncio.Task[None] | None = None
    reserved_mb: float | None = None
    explicit: int = 0
    pinned: bool = False
    keep_alive_s: float | None = None
    failures: Failures = field(default_factory=Failures)
    _waiting: deque[asyncio.Future[Replica]] = field(default_factory=deque)

    @property
    def ready(self) -> list[Replica]:
        """The runners that take requests."""
        return [replica for replica in self.replicas if not replica.retiring and replica.runner.alive]

    @property
    def active(self) -> int:
        """Requests inside its runners."""
        return sum(replica.active for replica in self.replicas)

    @property
    def queued(self) -> int:
        """Requests that wait for a load or for a place."""
        return len(self._waiting)

    @property
    def is_pinned(self) -> bool:
        """Whether it must stay in memory once it is there."""
        return self.pinned or self.always_pinned

    @property
    def state(self) -> str:
        """``loaded``, ``in_use``, ``put_aside``, ``loading`` or ``cached``."""
        if self.replicas:
            return "in_use" if self.active else "loaded"
        if self.failures.put_aside:
            return "put_aside"
        return "loading" if self.loading is not None else "cached"

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._waiting or self.explicit)

    @property
    def full(self) -> bool:
        """Whether a further request would have to wait."""
        return self._free() is None or bool(self._waiting)

    @property
    def memory_mb(self) -> float | None:
        """What its runners take, measured now; None while there are none."""
        sizes = [memory_mb(replica.runner.pid) or 0.0 for replica in self.replicas]
        return round(sum(sizes), 1) if sizes else None

    def expires(self, replica: Replica) -> float:
        """Monotonic time at which an idle runner is to end; infinite for one that stays."""
        if self.is_pinned:
            return math.inf
        return replica.last_used + (self.default_keep_s if self.keep_alive_s is None else self.keep_alive_s)

    async def place(self) -> Replica:
        """A place in a runner, counted as ``active``; waits for one in the order of arrival.

        Raises whatever ``fail_waiting`` is told meanwhile.
        """
        if not self._waiting:
            free = self._free()
            if free is not None:
                free.active += 1
                return free
        future: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(future)

    def give_back(self, replica: Replica) -> None:
        """A request has left its place; the next one gets it."""
        replica.active -= 1
        self.hand_out()

    def hand_out(self) -> None:
        """Give every free place to whoever has waited longest."""
        while self._waiting and (free := self._free()) is not None:
            future = self._waiting.popleft()
            if not future.done():
                free.active += 1
                future.set_result(free)

    def fail_waiting(self, error: BaseException) -> None:
        """End every wait for a place with ``error``."""
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def _free(self) -> Replica | None:
        """The least busy runner with a place."""
        free = [replica for replica in self.ready if replica.active < self.places]
        return min(free, key=lambda replica: replica.active) if free else None


def runner_rows(slot: Slot) -> list[dict[str, Any]]:
    """A row of ``GET /status`` for each runner, and one for the load under way; who waits is told in the first."""
    rows = [_row(slot, replica) for replica in slot.replicas] + ([_row(slot, None)] if slot.loading else [])
    for row in rows[:1]:
        row["queued"] = slot.queued
    return rows


def _row(slot: Slot, replica: Replica | None) -> dict[str, Any]:
    runner = replica.runner if replica else None
    state = "loading" if replica is None else "retiring" if replica.retiring else None
    return {
        "model": slot.model.id,
        "pid": runner.pid if runner else None,
        "state": state or ("in_use" if replica and replica.active else "loaded"),
        "memory_mb": round(replica.memory.rss_mb, 1) if replica else None,
        "memory_peak_mb": round(replica.memory.peak_mb, 1) if replica else None,
        "memory_reserved_mb": None if replica or slot.reserved_mb is None else round(slot.reserved_mb, 1),
        "pinned": slot.is_pinned,
        "active": replica.active if replica else 0,
        "queued": 0,
        "network": runner.ready.get("network") if runner else None,
        "requests": runner.requests if runner else 0,
        "cancelled": runner.cancelled if runner else 0,
        "tokens_generated": runner.tokens_generated if runner else 0,
        "load_duration_s": round(replica.load_duration_s, 3) if replica else 0.0,
    }
