"""What was used within the last minute, counted in the memory of this process."""

from __future__ import annotations

from typing import Final

__all__ = ["WINDOW_S", "Window"]

WINDOW_S: Final = 60
# One more than the window has seconds: the oldest one ends when it is over as a whole.
_SLOTS: Final = WINDOW_S + 1


class Window:
    """Amounts by second: exact to the second, to the strict side, so that any 60 seconds hold no more than was let in.

    Every method takes the time at which it is called, in seconds of a clock that never goes back.

    Attributes:
        total: How much there is in it, until ``turns_at``.
        newest: The second in which something was last added.
        turns_at: When the second that it stands at is over.
    """

    __slots__ = ("_second", "_slots", "newest", "total", "turns_at")

    def __init__(self) -> None:
        self.total = 0
        self.newest = 0
        self.turns_at = 1.0  # compared often, and with floats
        self._slots = [0] * _SLOTS
        self._second = 0

    def held(self, now: float) -> int:
        """How much there is in it."""
        if now >= self.turns_at:
            self._advance(int(now))
        return self.total

    def add(self, amount: int, now: float) -> None:
        """Count what is used, 1 or more, whatever there is in it."""
        if now >= self.turns_at:
            self._advance(int(now))
        self._slots[self._second % _SLOTS] += amount
        self.total += amount
        self.newest = self._second

    def room(self, most: int, now: float) -> tuple[int, int]:
        """How much more there may be for ``most`` in all, and in how many seconds at most there is nothing in it."""
        if now >= self.turns_at:
            self._advance(int(now))
        total = self.total
        if not total:
            return most, 0
        return (most - total if most > total else 0), self.newest + _SLOTS - self._second

    def wait_s(self, most: int, now: float) -> float:
        """Seconds until there is no more than ``most`` in it, if nothing is added."""
        left = self.held(now)
        for second in range(self._second - WINDOW_S, self._second + 1):
            if left <= most:
                return max(0.0, second + WINDOW_S - now)
            left -= self._slots[second % _SLOTS]
        return self._second + _SLOTS - now

    def _advance(self, second: int) -> None:
        passed, self._second = second - self._second, second
        self.turns_at = second + 1.0
        if not self.total:
            return
        if passed >= _SLOTS:
            self._slots = [0] * _SLOTS
            self.total = 0
            return
        for each in range(second - passed + 1, second + 1):
            self.total -= self._slots[each % _SLOTS]
            self._slots[each % _SLOTS] = 0
