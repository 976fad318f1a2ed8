"""How the gateway ends: no new work, a bounded time for the work at hand, then a clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi_foundry.errors import StoppingError

__all__ = ["Stopping"]


class Stopping:
    """The one owner of the question whether this process is about to end. Used on the event loop alone.

    Attributes:
        begun: Whether new work is refused.
    """

    def __init__(self) -> None:
        self.begun = False
        self._expired = False
        self._interrupts: set[Callable[[], object]] = set()

    def check(self) -> None:
        """Refuse new work once the end has begun.

        Raises:
            StoppingError: When it has.
        """
        if self.begun:
            raise StoppingError

    def begin(self, grace_s: float) -> None:
        """Refuse new work from now on and interrupt what still runs after ``grace_s`` seconds; returns at once."""
        if not self.begun:
            self.begun = True
            asyncio.get_running_loop().call_later(grace_s, self._expire)

    def add(self, interrupt: Callable[[], object]) -> None:
        """Register what ends a piece of work; it is called at most once, at once when the time is up already."""
        if self._expired:
            interrupt()
        else:
            self._interrupts.add(interrupt)

    def discard(self, interrupt: Callable[[], object]) -> None:
        """Forget a piece of work that has ended by itself."""
        self._interrupts.discard(interrupt)

    def _expire(self) -> None:
        self._expired = True
        while self._interrupts:
            self._interrupts.pop()()
