"""Times as they are kept (microseconds since 1970, UTC) and as they are shown (RFC 3339)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, overload

__all__ = ["shown_time"]

_MICROSECONDS: Final = 1_000_000


@overload
def shown_time(at_us: int) -> str: ...
@overload
def shown_time(at_us: None) -> None: ...
def shown_time(at_us: int | None) -> str | None:
    """``2026-11-21T09:00:00Z``; None stays None."""
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us / _MICROSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
