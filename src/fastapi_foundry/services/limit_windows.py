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

    Where ``turn`` has just been called, an amount can also be added to ``total`` and ``current`` by hand.

    Attributes:
        total: How much there is in it, until ``turns_at``.
        current: How much of it is of the second that it stands at.
        turns_at: When that second is over.
    """

    __slots__ = ("_newest", "_second", "_slots", "current", "total", "turns_at")

    def __init__(self) -> None:
        self.total = 0
        self.current = 0
        self.turns_at = 1.0  # compared often, and with floats
        self._slots = [0] * _SLOTS  # without what is in ``current``
        self._second = self._newest = 0

    @property
    def newest(self) -> int:
        """The second in which something was last added."""
        return self._second if self.current else self._newest

    def turn(self, now: float) -> None:
        """Stand at the second that it is."""
        if now >= self.turns_at:
            self._advance(int(now))

    def held(self, now: float) -> int:
        """How much there is in it."""
        if now >= self.turns_at:
            self._advance(int(now))
        return self.total

    def add(self, amount: int, now: float) -> None:
        """Count what is used, whatever there is in it."""
        if now >= self.turns_at:
            self._advance(int(now))
        self.current += amount
        self.total += amount

    def room(self, most: int, now: float) -> tuple[int, int]:
        """How much more there may be for ``most`` in all, and in how many seconds at most there is nothing in it."""
        total = self.held(now)
        if not total:
            return most, 0
        return (most - total if most > total else 0), self.newest + _SLOTS - self._second

    def wait_s(self, most: int, now: float) -> float:
        """Seconds until there is no more than ``most`` in it, if nothing is added."""
        left = self.held(now)
        for second in range(self._second - WINDOW_S, self._second):
            if left <= most:
                return max(0.0, second + WINDOW_S - now)
            left -= self._slots[second % _SLOTS]
        return max(0.0, self._second + (WINDOW_S if left <= most else _SLOTS) - now)

    def _advance(self, second: int) -> None:
        if self.current:
            self._slots[self._second % _SLOTS] = self.current
            self._newest, self.current = self._second, 0
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
