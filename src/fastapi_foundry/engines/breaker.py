"""A circuit breaker: an engine that failed repeatedly is left alone for a while.

Only failures of the engine count. That it is loading a model, is full, or refuses a request is no failure: it lives;
and so does the gateway that tells a loop.
The scheme is the classic one (Nygard, *Release It!*): closed, open, half-open with one trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fastapi_foundry.errors import EngineError, EngineLoopError, ModelLoadingError, ModelOutputError

__all__ = ["Breaker", "BreakerPolicy", "BreakerState"]


class BreakerState(StrEnum):
    """Whether requests are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"  # one request is on trial


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, and for how long; times in seconds.

    Attributes:
        failures: So many failures in a row open the breaker.
        first_pause_s: How long it stays open the first time; doubled each time that the trial fails.
        longest_pause_s: See ``first_pause_s``.
    """

    failures: int = 3
    first_pause_s: float = 5.0
    longest_pause_s: float = 60.0


class Breaker:
    """The breaker of one engine; belongs to one event loop.

    Args:
        policy: See ``BreakerPolicy``.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: BreakerPolicy | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._failures = 0
        self._pause_s = 0.0
        self._open_until = 0.0
        self._on_trial = False
        self._not_before = 0.0

    @property
    def state(self) -> BreakerState:
        """Where it stands now."""
        if self._failures < self._policy.failures:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._on_trial else BreakerState.OPEN

    @property
    def retry_after_s(self) -> float:
        """Seconds until a request may be let through; 0 when one may now."""
        until = self._not_before
        if self.state is not BreakerState.CLOSED:
            until = max(until, self._open_until)
        return max(0.0, until - self._clock())

    def allows(self) -> bool:
        """Whether a request may be sent now; asking changes nothing."""
        if self.state is BreakerState.HALF_OPEN:
            return False
        return self.retry_after_s == 0.0

    def begin(self) -> None:
        """A request is being sent; the first one after a pause is the trial."""
        if self._failures >= self._policy.failures:
            self._on_trial = True

    def succeeded(self) -> None:
        """The engine answered, be it with a refusal."""
        self._failures = 0
        self._pause_s = 0.0
        self._not_before = 0.0
        self._on_trial = False

    def failed(self, fact: Exception) -> None:
        """A request ended with ``fact``; what the engine asks for by Retry-After is honoured."""
        retry_after_s = getattr(fact, "retry_after_s", None)
        if isinstance(retry_after_s, int | float):
            self._not_before = max(self._not_before, self._clock() + min(retry_after_s, self._policy.longest_pause_s))
        if not isinstance(fact, EngineError) or isinstance(
            fact, ModelLoadingError | EngineLoopError | ModelOutputError
        ):
            self._failures = 0
            self._on_trial = False
            return
        self._failures += 1
        if self._failures >= self._policy.failures:
            doubled = self._pause_s * 2 or self._policy.first_pause_s
            self._pause_s = min(doubled, self._policy.longest_pause_s)
            self._open_until = self._clock() + self._pause_s
            self._on_trial = False

    def abandoned(self) -> None:
        """A request was given up by its client: it says nothing about the engine."""
        self._on_trial = False
