"""What has to be done now and then: measuring, idle time-outs, the budget after runners have grown."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final

from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.room import Room
from fastapi_foundry.daemon.slot import Replica, Slot

__all__ = ["Upkeep"]

_MEASURE_EVERY_S: Final = 5.0


class Upkeep:
    """One timer for the whole pool; it runs only while something is loaded.

    Args:
        slots: Every slot by model id.
        room: Ends runners.
        book: Saved when it has changed.
        clock: Monotonic seconds.
    """

    def __init__(self, slots: Mapping[str, Slot], room: Room, book: MemoryBook, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._room = room
        self._book = book
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._saving: asyncio.Task[None] | None = None

    def settled(self, slot: Slot, replica: Replica) -> None:
        """A runner may have become idle, or its model's time-out may have changed."""
        at = slot.expires(replica) if not replica.active else math.inf
        self._ring_by(min(at, self._clock() + _MEASURE_EVERY_S))

    def stop(self) -> None:
        """Nothing happens any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, -math.inf

    def _ring_by(self, at: float) -> None:
        if at >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._ring)

    def _ring(self) -> None:
        self._timer, self._due = None, math.inf
        self._room.measure()
        self._room.relieve()
        now, following = self._clock(), math.inf
        for slot in self._slots.values():
            for replica in list(slot.replicas):
                following = min(following, now + _MEASURE_EVERY_S)
                if replica.active or replica.retiring or slot.queued:
                    continue
                expires = slot.expires(replica)
                if expires <= now:
                    self._room.end(slot, replica, "it was idle for as long as it may be")
                else:
                    following = min(following, expires)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._book.save(), name="save measured memory")
        if following < math.inf:
            self._ring_by(following)
