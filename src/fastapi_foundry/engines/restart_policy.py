"""How eagerly a lost engine is brought back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RestartPolicy", "StartBudget"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How eagerly a lost engine is looked for and started again; all times in seconds.

    Attributes:
        first_delay_s: The first pause; pauses double from there.
        max_delay_s: The longest pause, except in a crash loop.
        budget: So many starts within ``window_s`` are fine, more are a crash loop.
        window_s: See ``budget``.
        slow_delay_s: The pause before each start in a crash loop.
        check_every_s: Between probes of an engine that is ready.
        check_gap_s: Reports of a loss closer together than this share one probe.
        probe_timeout_s: For each request of a probe.
        silent_probes: So many silent probes in a row, and an engine that accepts connections is lost.
    """

    first_delay_s: float = 0.2
    max_delay_s: float = 5.0
    budget: int = 5
    window_s: float = 60.0
    slow_delay_s: float = 15.0
    check_every_s: float = 5.0
    check_gap_s: float = 0.05
    probe_timeout_s: float = 2.0
    silent_probes: int = 3

    def pause_after(self, failures: int) -> float:
        """The pause after so many failures in a row, in seconds."""
        return min(self.first_delay_s * 2.0 ** min(failures - 1, 32), self.max_delay_s)


class StartBudget:
    """Counts starts, and says how long to wait before the next one.

    Args:
        policy: See there.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float]) -> None:
        self.total = 0
        self._policy = policy
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=policy.budget)

    def note_start(self) -> None:
        """Count a start that takes place now."""
        self.total += 1
        self._recent.append(self._clock())

    @property
    def is_spent(self) -> bool:
        """Whether the next start would be one too many: a crash loop."""
        return self._in_window() >= self._policy.budget

    @property
    def pause_s(self) -> float:
        """How long to wait before the next start, in seconds; the first two need no pause."""
        if self.is_spent:
            return self._policy.slow_delay_s
        starts = self._in_window()
        return self._policy.pause_after(starts - 1) if starts > 1 else 0.0

    def _in_window(self) -> int:
        now = self._clock()
        return sum(now - start < self._policy.window_s for start in self._recent)
