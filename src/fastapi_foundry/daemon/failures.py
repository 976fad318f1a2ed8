"""What became of a model's runners: deaths put it aside, failed loads make it wait."""

from __future__ import annotations

from collections import deque
from typing import Final

from fastapi_foundry.errors import ModelUnavailableError

__all__ = ["DEATH_WINDOW_S", "MAX_COOL_DOWN_S", "MAX_DEATHS", "Failures"]

MAX_DEATHS: Final = 3
DEATH_WINDOW_S: Final = 300.0
MAX_COOL_DOWN_S: Final = 60.0


class Failures:
    """One model's history; times are monotonic seconds.

    Attributes:
        put_aside: Why it is not loaded on request any more; empty otherwise.
    """

    def __init__(self) -> None:
        self.put_aside = ""
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._failed_loads = 0
        self._not_before = 0.0
        self._reason = ""

    def note_death(self, now: float, reason: str) -> bool:
        """A runner died or did not load; too often without a success between puts the model aside.

        Returns:
            Whether this one did.
        """
        self._deaths.append(now)
        if len(self._deaths) < MAX_DEATHS or now - self._deaths[0] > DEATH_WINDOW_S:
            return False
        self.put_aside = (
            f"it was put aside after {MAX_DEATHS} failures within {DEATH_WINDOW_S / 60:g} minutes, "
            f"the last: {reason}. Load it explicitly to try again."
        )
        return True

    def note_failed_load(self, now: float, reason: str) -> bool:
        """A load failed: the next one on request has to wait 1 s, then 2, 4 and so on; returns as ``note_death``."""
        self._not_before = now + min(MAX_COOL_DOWN_S, 2.0 ** min(self._failed_loads, 10))
        self._failed_loads += 1
        self._reason = reason
        return self.note_death(now, reason)

    def note_loaded(self) -> None:
        """A load succeeded."""
        self._failed_loads = 0
        self._not_before = 0.0

    def note_answer(self) -> None:
        """A request was answered in full."""
        self._deaths.clear()

    def forgive(self) -> None:
        """Somebody asks for exactly this model."""
        self.put_aside = ""
        self._deaths.clear()
        self.note_loaded()

    def cool_down_s(self, now: float) -> float:
        """Seconds until it may be loaded on request; 0 when it may."""
        return max(0.0, self._not_before - now)

    def check(self, model_id: str, now: float) -> None:
        """Whether a request may load it now.

        Raises:
            ModelUnavailableError: It was put aside, or failed to load a moment ago; the reason is told.
        """
        if self.put_aside:
            raise ModelUnavailableError(model_id, self.put_aside, code="model_put_aside")
        left_s = self.cool_down_s(now)
        if left_s:
            reason = (
                f"it failed to load a moment ago: {self._reason}. The next try is in {left_s:.0f} s at the earliest."
            )
            raise ModelUnavailableError(model_id, reason.replace("..", "."), retry_after_s=left_s)
