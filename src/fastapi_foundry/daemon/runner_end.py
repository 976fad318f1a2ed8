"""How a runner failed to start, or ended."""

from __future__ import annotations

__all__ = ["RunnerStartError", "end_in_words"]


class RunnerStartError(Exception):
    """A runner ended or reported a failure before it was ready.

    Args:
        message: In words, for the client.
        crashed: Whether the process died rather than said why.
    """

    def __init__(self, message: str, *, crashed: bool) -> None:
        super().__init__(message)
        self.crashed = crashed


def end_in_words(status: int | None) -> str:
    """An exit status, negative for a signal, for the client."""
    if status is not None and status < 0:
        return f"the engine's process was ended by signal {-status}"
    return f"the engine's process ended with status {status}"
