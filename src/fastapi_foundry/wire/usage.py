"""The native API for the record of use as types, and the form of its rows."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

__all__ = ["FIGURES", "UsageReport", "UsageTotal", "usage_columns", "usage_figures"]

FIGURES: Final = (
    "requests",
    "failures",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "duration_s",
)

_DIGITS: Final = 3
_NAMES: Final = {
    "day": ("day",),
    "key": ("key", "key_name"),
    "model": ("model",),
    "none": ("day", "key", "key_name", "model"),
}


class UsageTotal(BaseModel):
    """Figures of use; ``duration_s`` is the time that the requests took, all together."""

    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    duration_s: float


class UsageReport(BaseModel):
    """The answer of ``GET /api/v1/usage``: days from ``from`` to ``to``, both included, UTC."""

    success: Literal[True] = True
    group: str
    usage: list[dict[str, Any]]
    count: int
    total: UsageTotal


def usage_columns(group: str) -> tuple[str, ...]:
    """The names of a row's fields, in order."""
    return (*_NAMES[group], *FIGURES)


def usage_figures(
    requests: int, failures: int, prompt_tokens: int, completion_tokens: int, duration_s: float
) -> dict[str, Any]:
    """The figures as they are shown."""
    total_tokens = prompt_tokens + completion_tokens
    figures = (requests, failures, prompt_tokens, completion_tokens, total_tokens, round(duration_s, _DIGITS))
    return dict(zip(FIGURES, figures, strict=True))
