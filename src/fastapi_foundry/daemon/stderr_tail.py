"""What a runner says on its stderr: whole lines, bounded, the last ones kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["StderrTail"]

_TAIL_LINES: Final = 20
_MAX_LINE_BYTES: Final = 4096


class StderrTail:
    """Makes lines of what arrives, hands each on, and remembers the last ones.

    Args:
        on_line: Called with each line that holds more than blanks.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._rest = b""

    @property
    def last_words(self) -> str:
        """The last line that says something; empty where there is none."""
        return next((line for line in reversed(self._lines) if line.strip()), "")

    def feed(self, data: bytes) -> None:
        """Take what has arrived; a line without an end is cut."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            text = line[:_MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
            if text:
                self._lines.append(text)
                self._on_line(text)

    def note(self, text: str) -> None:
        """Add a line of the service's own, which is not handed on."""
        self._lines.append(text)
