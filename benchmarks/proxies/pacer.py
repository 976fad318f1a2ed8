"""Calls at times that are right to some 50 microseconds, where those of an event loop are right to a millisecond.

With the loop's own timers all streams that are due within one millisecond would be served at one blow, and what is
measured would be how fast each proxy works off such a heap. Where the system has no timerfd the loop's are used.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_FLAGS = 0o2004000  # non-blocking, closed on exec


class _Setting(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Pacer:
    """Makes calls in the running loop, each at its time of ``time.monotonic``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._armed = 0.0
        self._timer = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._timer = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._timer >= 0:
            self._loop.add_reader(self._timer, self._ring)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call at ``when``, or as soon as possible if that is over."""
        if self._timer < 0:
            self._loop.call_later(max(0.0, when - time.monotonic()), call)
            return
        self._count += 1
        heapq.heappush(self._calls, (when, self._count, call))
        if not self._armed or when < self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = self._calls[0][0]
        at_s, at_ns = divmod(int(self._armed * 1e9) + 1, 10**9)
        setting = _Setting(0, 0, at_s, at_ns)
        if self._libc.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(setting), None) < 0:
            raise OSError(f"the timer does not take {at_s} s and {at_ns} ns")

    def _ring(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return
        self._armed = 1e-9  # calls that are made meanwhile need not arm it: that is done at the end
        now = time.monotonic()
        while self._calls and self._calls[0][0] <= now:
            heapq.heappop(self._calls)[2]()
        self._armed = 0.0
        if self._calls:
            self._arm()
