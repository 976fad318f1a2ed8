"""JSON inside a model's text: found among fences and prose, and closed where only its end is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

__all__ = ["Found", "find_json", "is_cut_number"]

_FENCE: Final = re.compile(r"```[A-Za-z]*[ \t]*\r?\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENERS: Final = re.compile(r"[\[{]")
_CLOSERS: Final = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value in a text.

    Attributes:
        value: Parsed.
        text: The part of the text that it is, closed if need be.
        how: What was done to find it; empty when the whole text is JSON as it stands.
    """

    value: Any
    text: str
    how: str = ""


def find_json(text: str) -> Iterator[Found]:
    """The readings of ``text`` as JSON, the most literal first; none when there is none."""
    if found := _parsed(text, ""):
        yield found
        return
    for match in _FENCE.finditer(text):
        if found := _parsed(match.group(1), "fences removed"):
            yield found
    # The first bracket alone: one further in may be a part of a document that is broken as a whole.
    first = _OPENERS.search(text)
    if first and (found := _parsed(_document_at(text, first.start()), "text around removed")):
        yield found
    stripped = text.strip()
    if stripped[:1] in _CLOSERS and (closed := _closed(stripped)) and (found := _parsed(closed, "brackets closed")):
        yield found


def is_cut_number(text: str) -> bool:
    """Whether a text that a token limit cut off may have lost digits of a number at its very end."""
    return text[-1:].isdigit() or text[-1:] in {".", "-", "+", "e", "E"}


def _parsed(text: str, how: str) -> Found | None:
    try:
        return Found(orjson.loads(text), text.strip(), how)
    except orjson.JSONDecodeError:
        return None


def _document_at(text: str, start: int) -> str:
    """The JSON document that begins at ``start``; empty where none does."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return ""
    return text[start:end]


def _closed(text: str) -> str | None:
    """``text`` with the brackets that it left open; None where more than brackets is missing."""
    open_brackets: list[str] = []
    in_string = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif in_string:
            escaped = character == "\\"
            in_string = character != '"'
        elif character == '"':
            in_string = True
        elif character in _CLOSERS:
            open_brackets.append(character)
        elif character in "]}" and (not open_brackets or _CLOSERS[open_brackets.pop()] != character):
            return None
    # A string, a number or a word at the very end may have been cut; a bracket or a quotation mark has not.
    if in_string or not open_brackets or text[-1] not in '"]},':
        return None
    return text.rstrip(",") + "".join(_CLOSERS[each] for each in reversed(open_brackets))
