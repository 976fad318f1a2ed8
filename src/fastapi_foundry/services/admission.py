"""Admission: a bounded and fair queue before each lane, which is one engine's one model.

One event loop, no tasks, no locks. Where a place is free nothing is queued and nothing is computed; all that fairness
needs exists only while a lane is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fastapi_foundry.services.fair_queue import Priority
from fastapi_foundry.services.lanes import Lane, LaneReport, Place, QueueLimits

__all__ = ["Admission", "LaneReport", "Place", "Priority", "QueueLimits"]

_MOST_LANES: Final = 1024


class Admission:
    """Lets requests in, one lane at a time, or has them wait for their turn.

    Args:
        limits: See ``QueueLimits``.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: QueueLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lanes: dict[str, Lane] = {}

    def enter(
        self,
        lane: str,
        flow: str,
        capacity: int,
        *,
        priority: Priority = Priority.NORMAL,
        deadline_s: float | None = None,
        weight: float = 1.0,
    ) -> Place:
        """A place in ``lane``, granted where one is free; to be left in any case.

        Args:
            flow: Whose request it is: flows share a lane fairly.
            capacity: Places that the lane has now.
            deadline_s: For how long it may wait, in seconds, where that is less than the settings allow.
            weight: The flow's share, more than 0.

        Raises:
            QueueFullError: It would have to wait and must not: the queue is full, the flow has its share of it, or its
                turn would come long after its deadline.
        """
        line = self._lanes.get(lane)
        if line is None:
            line = self._open(lane)
        now = self._clock()
        if capacity != line.capacity:
            line.resize(capacity, now)
        place = Place(line, flow, priority, weight, now)
        if len(line.running) < capacity:
            place.granted = True
            line.running.add(place)
            return place
        longest_s = self._limits.max_wait_s
        place.limit_s = longest_s if deadline_s is None else min(deadline_s, longest_s)
        line.line_up(place, now)
        return place

    def enter_now(self, lane: str, flow: str, capacity: int, now: float) -> Place | None:
        """A place in ``lane`` if one is free, else None, and nobody waits; ``now`` is the clock's time."""
        line = self._lanes.get(lane)
        if line is None:
            line = self._open(lane)
        if capacity != line.capacity:
            line.resize(capacity, now)
        if len(line.running) >= capacity:
            return None
        place = Place(line, flow, Priority.NORMAL, 1.0, now)
        place.granted = True
        line.running.add(place)
        return place

    def resize(self, lane: str, capacity: int) -> None:
        """Say how many places ``lane`` has now, without entering; those that wait get what is new."""
        if (line := self._lanes.get(lane)) is not None:
            line.resize(capacity, self._clock())

    def snapshot(self) -> list[LaneReport]:
        """How each lane is now, those at rest included."""
        return [line.report() for line in self._lanes.values()]

    def _open(self, name: str) -> Lane:
        if len(self._lanes) >= _MOST_LANES:
            self._lanes = {key: line for key, line in self._lanes.items() if line.running or line.queue is not None}
        line = self._lanes[name] = Lane(name, self._limits, self._clock)
        return line
