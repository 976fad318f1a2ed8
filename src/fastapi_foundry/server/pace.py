"""How fast a request's body arrives."""

from __future__ import annotations

from fastapi_foundry.settings import HttpLimitsSettings

__all__ = ["BodyPace"]


class BodyPace:
    """Judges, from time to time, whether a body arrives fast enough.

    Silence and trickling are two things: a client may pause for ``body_idle_timeout_s`` (a phone in a tunnel), and
    one that sends must send at ``min_body_bytes_per_s`` or more, over each window in which anything arrived.

    Args:
        now: Seconds; the body is being waited for since then.
        received: Bytes that had arrived on the connection by then.
    """

    __slots__ = ("_heard_at", "_heard_bytes", "_limits", "_window_bytes", "_window_since")

    def __init__(self, limits: HttpLimitsSettings, now: float, received: int) -> None:
        self._limits = limits
        self._heard_at = self._window_since = now
        self._heard_bytes = self._window_bytes = received

    def complaint(self, now: float, received: int) -> str | None:
        """What is wrong with the pace at ``now``, after ``received`` bytes; None when nothing is."""
        if received > self._heard_bytes:
            self._heard_at, self._heard_bytes = now, received
        elif now - self._heard_at >= self._limits.body_idle_timeout_s:
            return f"Nothing of the request body arrived for {self._limits.body_idle_timeout_s:g} s."
        elapsed = now - self._window_since
        if elapsed < self._limits.body_pace_window_s:
            return None
        arrived = received - self._window_bytes
        self._window_since, self._window_bytes = now, received
        slowest = self._limits.min_body_bytes_per_s
        if 0 < arrived < slowest * elapsed:
            return f"The request body arrived more slowly than {slowest} bytes per second."
        return None
