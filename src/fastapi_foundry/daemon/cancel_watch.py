"""Cancelled requests that go on: the runner that cannot stop one is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from fastapi_foundry.daemon.runner_call import RunnerCall

__all__ = ["CANCEL_TIMEOUT_S", "CancelWatch"]

CANCEL_TIMEOUT_S: Final = 120.0
"""For workers that nobody has set a limit for."""

# A prompt is read to its end before the engine sees a cancel, which takes long with a large model on a slow machine.
_PROMPT_FACTOR: Final = 4
# What others get to end in a runner that is to be replaced, before they lose their work with it.
_PATIENCE_FACTOR: Final = 10


class CancelWatch:
    """Decides when one runner has to go because it does not stop a request.

    A request that decodes must have ended ``timeout_s`` after its cancel, one that may still read its prompt after four
    times that. Then the runner gets no further requests; it is ended once nobody needs an answer from it, or after ten
    times ``timeout_s`` in any case. Belongs to the runner's event loop.

    Args:
        timeout_s: Seconds.
        calls: The requests inside the runner.
        on_stuck: Called once, when the runner should get no more.
        end: Ends the runner; gets the reason.
    """

    def __init__(
        self,
        timeout_s: float,
        calls: Callable[[], Iterable[RunnerCall]],
        on_stuck: Callable[[], None],
        end: Callable[[str], None],
    ) -> None:
        self.stuck = False
        self._reason = ""
        self._timeout_s = timeout_s
        self._calls = calls
        self._on_stuck = on_stuck
        self._end = end

    def cancelled(self, call: RunnerCall) -> None:
        """A request was told to stop just now."""
        limit_s = self._timeout_s * (1 if call.decoding else _PROMPT_FACTOR)
        asyncio.get_running_loop().call_later(limit_s, self._check, call, limit_s)

    def ended(self) -> None:
        """Some request has ended."""
        if self.stuck and all(call.abandoned for call in self._calls()):
            self._end(self._reason)

    def _check(self, call: RunnerCall, limit_s: float) -> None:
        if call.end is not None or self.stuck:
            return
        self.stuck = True
        self._reason = f"it did not stop a request within {limit_s:g} s of being told to"
        asyncio.get_running_loop().call_later(self._timeout_s * _PATIENCE_FACTOR, self._end, self._reason)
        self._on_stuck()
        self.ended()
