"""Waiting for a condition that nobody announces, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(probe: Callable[[], T | Awaitable[T]], *, timeout_s: float = 5.0, interval_s: float = 0.02) -> T:
    """Call ``probe`` until it returns something true; its last value or error ends the wait."""
    deadline = time.monotonic() + timeout_s
    while True:
        failure: Exception | None = None
        value = None
        try:
            value = probe()
            if isinstance(value, Awaitable):
                value = await value
        except (AssertionError, OSError) as error:
            failure = error
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {timeout_s} s") from failure
        await asyncio.sleep(interval_s)


def eventually_sync(probe: Callable[[], T], *, timeout_s: float = 5.0, interval_s: float = 0.02) -> T:
    """The same for code without an event loop."""

    async def run() -> T:
        return await eventually(probe, timeout_s=timeout_s, interval_s=interval_s)

    return asyncio.run(run())
