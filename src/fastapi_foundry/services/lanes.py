"""The places of a lane, and the queue before them: what ``services/admission`` is made of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fastapi_foundry.errors import QueueFullError, QueueTimeoutError
from fastapi_foundry.services.fair_queue import FairQueue, Priority, Turn

__all__ = ["Lane", "LaneReport", "Place", "QueueLimits"]

# The weight of the latest measurement in the average.
_NEWEST: Final = 0.125
# What a request is taken to last before any has ended, in seconds.
_NOMINAL_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
# An estimate is no reason to refuse unless it is wide of the deadline.
_WIDE: Final = 2.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds: the section ``queue`` of the settings.

    Attributes:
        max_waiting: Requests that may wait in one lane.
        max_wait_s: For how long one may wait, in seconds.
        aging_s: For how long a flow may wait for a turn while higher classes go first, in seconds.
    """

    max_waiting: int = 256
    max_wait_s: float = 300.0
    aging_s: float = 30.0


@dataclass(frozen=True, slots=True)
class LaneReport:
    """How a lane is now.

    Attributes:
        capacity: Places that it has.
        active: Requests that hold one.
        waiting: By the class that they have by now.
        ewma_s: What a request lasts on average, in seconds; None before any has ended.
        oldest_wait_s: For how long the first of those that wait has been waiting, in seconds.
    """

    lane: str
    capacity: int
    active: int
    waiting: Mapping[Priority, int]
    ewma_s: float | None
    oldest_wait_s: float


class Place(Turn):
    """One request's place in a lane, or in the queue before it. Made by ``Admission.enter``; left always.

    Attributes:
        granted: Whether the place is, or was, its own.
        failure: Why it never will be: its deadline has passed.
        entered_at: Monotonic seconds, like the next.
        settled_at: When it was granted, or given up.
        limit_s: For how long it may wait, in seconds.
    """

    __slots__ = (
        "_callback",
        "_future",
        "_lane",
        "_left",
        "_timer",
        "entered_at",
        "failure",
        "granted",
        "limit_s",
        "settled_at",
    )

    def __init__(self, lane: Lane, flow: str, priority: Priority, weight: float, now: float) -> None:
        Turn.__init__(self, flow, priority, weight)
        self.granted = False
        self.failure: QueueTimeoutError | None = None
        self._lane = lane
        self.entered_at = self.settled_at = now
        self._left = False
        self.limit_s = 0.0
        self._future: asyncio.Future[None] | None = None
        self._callback: Callable[[Place], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def position(self) -> int:
        """1 for who is next, as far as can be told; 0 for who does not wait."""
        return self._lane.position(self) if self._waits else 0

    @property
    def eta_s(self) -> float | None:
        """Seconds until its turn, by estimate; None before anything has been measured; 0 for who does not wait."""
        return self._lane.eta_s(self.position) if self._waits else 0.0

    @property
    def waited_s(self) -> float:
        """Seconds that it has waited."""
        return (self._lane.clock() if self._waits else self.settled_at) - self.entered_at

    async def wait(self) -> None:
        """Wait until the place is granted; at once where it is. For one task alone.

        A task that is cancelled has left, also where the grant came at the same moment.

        Raises:
            QueueTimeoutError: The deadline has passed; the queue is left.
            RuntimeError: The place has been left before it was granted.
        """
        if self._waits:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            self._watch(loop)
            try:
                await self._future
            except asyncio.CancelledError:
                self.leave()
                raise
        if not self.granted:
            raise self.failure or RuntimeError("This place has been left.")

    def when_settled(self, callback: Callable[[Place], object]) -> None:
        """Have ``callback`` called by the loop, once, when the place is granted or its deadline passes; not after ``leave``."""
        self._callback = callback
        if self._waits:
            self._watch(asyncio.get_running_loop())
        else:
            self._tell()

    def leave(self) -> None:
        """Give the place back, or leave the queue, and let the next in. May be called twice; never waits."""
        if self._left:
            return
        self._left = True
        self._callback = None
        if self.granted:
            self._lane.give_back(self)
        else:
            self._withdraw()
            if self._future is not None:
                self._future.cancel()

    def grant(self, now: float) -> None:
        """It is its turn; the lane's to say."""
        self.granted = True
        self.settled_at = now
        self._stop_watching()
        self._tell()

    @property
    def _waits(self) -> bool:
        return not (self.granted or self._left)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(max(0.0, self.limit_s - self.waited_s), self._expire)

    def _expire(self) -> None:
        if self._waits:
            self.failure = QueueTimeoutError(waited_s=self.waited_s, limit_s=self.limit_s)
            self._left = True
            self._withdraw()
            self._tell()

    def _withdraw(self) -> None:
        self.settled_at = self._lane.clock()
        self._stop_watching()
        self._lane.withdraw(self, self.settled_at)

    def _tell(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        if self._callback is not None:
            asyncio.get_running_loop().call_soon(self._call_back)

    def _call_back(self) -> None:
        # Whoever has left in the meantime wants to hear no more.
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(self)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Lane:
    """The places of one lane, who has them, and the queue for them while they are not enough."""

    __slots__ = ("capacity", "clock", "limits", "name", "queue", "running", "service_s")

    def __init__(self, name: str, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self.name = name
        self.limits = limits
        self.clock = clock
        self.capacity = 0
        self.running: set[Place] = set()
        self.queue: FairQueue[Place] | None = None
        self.service_s: float | None = None

    def resize(self, capacity: int, now: float) -> None:
        """Have so many places; whoever has one keeps it."""
        grown = capacity > self.capacity
        self.capacity = capacity
        if grown and self.queue is not None:
            self._fill(now)

    def line_up(self, place: Place, now: float) -> None:
        """Let ``place`` wait.

        Raises:
            QueueFullError: It must not, or it would be in vain.
        """
        queue = self.queue
        waiting, held = (0, 0) if queue is None else (queue.waiting, queue.held(place.flow))
        free = self.limits.max_waiting - waiting
        if held >= free:
            raise self._full(held, free)
        if queue is None:
            queue = self.queue = FairQueue(self.running, self.limits.aging_s)
        queue.add(place, now)
        eta_s, limit_s = place.eta_s, place.limit_s
        if eta_s is not None and eta_s > _WIDE * limit_s:
            place.leave()
            raise QueueFullError(
                f"The wait for a turn is about {eta_s:.0f} s now, and the request may wait {limit_s:g} s.",
                retry_after_s=_bounded(eta_s - limit_s),
            )

    def give_back(self, place: Place) -> None:
        """``place`` runs no longer."""
        now = self.clock()
        self.running.discard(place)
        took_s, average_s = now - place.settled_at, self.service_s
        self.service_s = took_s if average_s is None else average_s + (took_s - average_s) * _NEWEST
        if self.queue is not None:
            self.queue.end(place, now)
            self._fill(now)

    def withdraw(self, place: Place, now: float) -> None:
        """``place`` waits no longer."""
        if self.queue is not None:
            self.queue.discard(place, now)
            self._fill(now)

    def position(self, place: Place) -> int:
        """1 for who is next."""
        return 0 if self.queue is None else 1 + self.queue.ahead_of(place, self.clock(), self.service_s or _NOMINAL_S)

    def eta_s(self, position: int) -> float | None:
        """Seconds until the turn of who stands there."""
        if self.service_s is None or not self.capacity:
            return None
        return position * self.service_s / self.capacity

    def report(self) -> LaneReport:
        """How it is now."""
        now, queue = self.clock(), self.queue
        waiting = {level: 0 if queue is None else queue.waiting_at(level) for level in reversed(Priority)}
        oldest_s = max((now - place.entered_at for place in queue or ()), default=0.0)
        return LaneReport(self.name, self.capacity, len(self.running), waiting, self.service_s, oldest_s)

    def _fill(self, now: float) -> None:
        queue = self.queue
        if queue is None:
            return
        while queue.waiting and len(self.running) < self.capacity:
            place = queue.take(now, self.service_s or _NOMINAL_S)
            self.running.add(place)
            place.grant(now)
        if not queue.waiting and (len(self.running) < self.capacity or not self.running):
            self.queue = None

    def _full(self, held: int, free: int) -> QueueFullError:
        if free > 0:
            message = (
                f"{held} requests of this client wait for the model already; the other places are kept for others."
            )
        else:
            message = f"As many requests wait for the model as may wait ({self.limits.max_waiting})."
        # Each turn of anybody frees a place, and each of one's own takes one from what one holds besides.
        flows = self.queue.flows if self.queue is not None else 0
        turns = math.ceil((held - free + 1) / (1 + 1 / max(1, flows)))
        wait_s = turns * (self.service_s or _NOMINAL_S) / max(1, self.capacity)
        return QueueFullError(message, retry_after_s=_bounded(wait_s))


def _bounded(seconds: float) -> float:
    return float(min(_LONGEST_RETRY_S, max(1, math.ceil(seconds))))
