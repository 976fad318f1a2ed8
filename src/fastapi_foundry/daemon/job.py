"""One request inside a runner, as its threads share it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import foundry_local_sdk as engine

__all__ = ["CancelledByClientError", "Job"]


class CancelledByClientError(Exception):
    """The request was cancelled; nobody waits for its answer."""


@dataclass(slots=True)
class Job:
    """One request inside the runner; ``cancel`` may come from any thread.

    Attributes:
        id: The service's number for it.
        tokens: Tokens generated so far, as far as the engine has told.
        usage: The engine's own count, once the answer has ended.
        limits: The tokens of the prompt, and the most that the answer may have, once they are known.
        after_cancel: Tokens that still came after the cancel.
    """

    id: int
    tokens: int = 0
    usage: dict[str, Any] | None = None
    limits: tuple[int, int] = (0, 0)
    after_cancel: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _request: engine.Request | None = None

    def cancel(self) -> None:
        """Stop the decode; harmless at any time. The engine ignores it while it is between states: repeat it."""
        self.cancelled.set()
        with self._lock:
            if self._request is not None:
                self._request.cancel()

    def running(self, request: engine.Request | None) -> None:
        """Name the engine's request that ``cancel`` stops; None before that is released."""
        with self._lock:
            self._request = request
        if request is not None:
            self.stop_if_cancelled()

    def stop_if_cancelled(self) -> None:
        """Raise ``CancelledByClientError`` once ``cancel`` was called."""
        if self.cancelled.is_set():
            raise CancelledByClientError

    def count_piece(self) -> bool:
        """Count a piece of the answer; whether somebody still waits for it."""
        self.tokens += 1
        if not self.cancelled.is_set():
            return True
        self.after_cancel += 1
        return False

    def cut_off(self) -> dict[str, Any]:
        """Note that the answer used up its tokens; its usage.

        Raises:
            CancelledByClientError: It was cancelled, which cuts an answer off too.
        """
        self.stop_if_cancelled()
        prompt, self.tokens = self.limits
        self.usage = {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": prompt + self.tokens}
        return self.usage
