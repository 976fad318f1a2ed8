"""What happened to a request on its way, as response headers."""

from __future__ import annotations

from fastapi_foundry.engines.base import Notes

__all__ = ["note_headers"]


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """``X-Foundry-Engine``, ``X-Foundry-Altered`` and ``X-Foundry-Fallback``, those that there is something to say in."""
    told = (
        (b"x-foundry-engine", notes.engine),
        (b"x-foundry-altered", ", ".join(notes.alterations)),
        (b"x-foundry-fallback", ", ".join(notes.fallback)),
    )
    return [(name, _plain(text)) for name, text in told if text]


def _plain(text: str) -> bytes:
    """Visible ASCII alone: a model's name may hold anything, a header may not."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text).encode()
