"""One model's place in the pool, and the rule that puts a model aside."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import psutil

from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.daemon.store import LocalModel

__all__ = ["DEATH_WINDOW_S", "MAX_DEATHS", "PoolLimits", "Slot", "memory_mb"]

MAX_DEATHS: Final = 3
DEATH_WINDOW_S: Final = 300.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds on what runs at once; see ``settings.foundry_service`` for each."""

    max_loaded_models: int
    max_active_per_model: int
    max_queued_per_model: int
    load_timeout_s: float


@dataclass(slots=True)
class Slot:
    """One model's place in the pool.

    Attributes:
        model: What to load; replaced when the store finds it elsewhere.
        runner: The process; None unless loaded.
        loading: The one load under way.
        resident: Whether it counts against ``max_loaded_models``: loaded, or let in to load.
        active: Requests inside the runner, cancelled ones until the runner confirms.
        queued: Requests that wait for the load or for a place.
        last_used: Monotonic time of the last request's end.
        load_duration_s: How long the last load took.
        deaths: Monotonic times of recent deaths, none of them followed by a success.
        put_aside: Why it is not loaded on request any more; empty otherwise.
    """

    model: LocalModel
    places: asyncio.Semaphore
    runner: RunnerProcess | None = None
    loading: asyncio.Task[RunnerProcess] | None = None
    resident: bool = False
    active: int = 0
    queued: int = 0
    last_used: float = 0.0
    load_duration_s: float = 0.0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_DEATHS))
    put_aside: str = ""

    @property
    def state(self) -> str:
        """``put_aside``, ``loading``, ``in_use``, ``loaded`` or ``cached``."""
        if self.put_aside:
            return "put_aside"
        if self.loading is not None:
            return "loading"
        if self.runner is None:
            return "cached"
        return "in_use" if self.active else "loaded"

    @property
    def busy(self) -> bool:
        """Whether somebody uses it or waits for it."""
        return bool(self.active or self.queued or self.loading)

    def note_failure(self, now: float, reason: str) -> bool:
        """Remember a crash or a failed load; too many without a success between put the model aside.

        Returns:
            Whether this one did.
        """
        self.deaths.append(now)
        if len(self.deaths) < MAX_DEATHS or now - self.deaths[0] > DEATH_WINDOW_S:
            return False
        self.put_aside = (
            f"it was put aside after {MAX_DEATHS} failures within {DEATH_WINDOW_S / 60:g} minutes, "
            f"the last: {reason}. Load it explicitly to try again."
        )
        return True


def memory_mb(pid: int) -> float | None:
    """Resident memory of a process in MiB; None when it is gone. Takes about 30 µs on Linux."""
    try:
        return round(psutil.Process(pid).memory_info().rss / _MIB, 1)
    except psutil.Error:
        return None
