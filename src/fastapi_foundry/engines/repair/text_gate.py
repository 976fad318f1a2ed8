"""Text that arrives in pieces, watched for marks that may be cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TextGate"]


class TextGate:
    """Lets text through up to the first of some marks; only what may be the beginning of one waits.

    Args:
        marks: Texts to watch for.

    Attributes:
        found: The mark that was found; None until then.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Take the next piece and return what may pass; nothing more once a mark was found."""
        self._held += text
        if self.found is not None:
            return ""
        places = [(place, mark) for mark in self._marks if (place := self._held.find(mark)) >= 0]
        if places:
            place, self.found = min(places, key=lambda each: each[0])
        else:
            place = len(self._held) - self._pending()
        passed, self._held = self._held[:place], self._held[place:]
        return passed

    def flush(self) -> str:
        """Everything that was held back: a beginning that came to nothing, or a mark and what followed it."""
        held, self._held = self._held, ""
        return held

    def _pending(self) -> int:
        """Length of the longest end of the text that is the beginning of a mark."""
        longest = min(max(map(len, self._marks), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(mark.startswith(end) for mark in self._marks):
                return length
        return 0
