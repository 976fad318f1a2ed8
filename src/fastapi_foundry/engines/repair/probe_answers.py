"""What probes look for in answers. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["delta", "first_choice", "shown", "support", "text_in"]

_SHOWN_CHARS: Final = 80


def support(answer: Mapping[str, Any] | None, effect: bool) -> str:  # noqa: FBT001 - a value, not a switch
    """The behaviour behind an answer: none, one with the effect that was asked for, or one without."""
    if answer is None:
        return "refused"
    return "native" if effect else "ignored"


def first_choice(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice of an answer or chunk; empty where there is none."""
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def delta(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The delta of a chunk; empty where there is none."""
    return first_choice(chunk).get("delta") or {}


def text_in(answer: Mapping[str, Any]) -> str:
    """The text of an answer."""
    return str((first_choice(answer).get("message") or {}).get("content") or "")


def shown(value: Any) -> str:
    """A value for a table: one line, not long."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
