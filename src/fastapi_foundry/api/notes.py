"""What happened to a request on its way, as response headers."""

from __future__ import annotations

from fastapi_foundry.engines.base import Notes

__all__ = ["note_headers"]


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """What there is something to say in, as headers.

    They are ``X-Foundry-Engine``, ``-Altered``, ``-Fallback``, ``-Queue-Ms``, ``-Truncated`` and ``-Cache``, and the ``Age``
    of an answer that was kept.
    """
    told = (
        (b"x-foundry-engine", notes.engine),
        (b"x-foundry-altered", ", ".join(notes.alterations)),
        (b"x-foundry-fallback", ", ".join(notes.fallback)),
        (b"x-foundry-queue-ms", f"{notes.queued_s * 1000:.0f}" if notes.queued_s else ""),
        (b"x-foundry-truncated", notes.truncated),
        (b"x-foundry-cache", notes.cache),
        (b"age", str(int(notes.age_s)) if notes.cache == "hit" else ""),
    )
    return [(name, _plain(text)) for name, text in told if text]


def _plain(text: str) -> bytes:
    """Visible ASCII alone: a model's name may hold anything, a header may not."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text).encode()
