"""What probes look for in answers. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["delta", "first_choice", "lacking_in_deltas", "repetitions", "shown", "support", "text_in"]

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


def repetitions(text: str) -> int:
    """How often a text says its most frequent word."""
    return max(Counter(text.split()).values(), default=0)


def lacking_in_deltas(deltas: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the deltas of tool calls lack: every one has its index, the first of a call its id, type and name too."""
    begun: set[int] = set()
    lacking: dict[str, None] = {}
    for call in deltas:
        index = call.get("index")
        if type(index) is not int:
            lacking["index"] = None
            continue
        if index not in begun:
            begun.add(index)
            fields = {"id": call.get("id"), "type": call.get("type"), "name": (call.get("function") or {}).get("name")}
            lacking |= dict.fromkeys(name for name, value in fields.items() if not value)
    return list(lacking)


def shown(value: Any) -> str:
    """A value for a table: one line, not long."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
