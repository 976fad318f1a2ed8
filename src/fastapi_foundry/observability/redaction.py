"""What never reaches a log: passwords, tokens and keys, found by a field's name and by a value's form."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from fastapi_foundry.observability.credentials import REDACTED, Kind, kind_of, without_credentials

__all__ = ["REDACTED", "plain", "redacted", "redacted_ends", "redacted_field", "redacted_text"]

_MAX_TEXT: Final = 8192  # characters of one value
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 100
_CACHED_LENGTH: Final = 64  # most texts in a log are short and come again: methods, routes, model ids
# What is looked at beyond a cut, so that no part of a credential that the cut goes through stays.
_MARGIN: Final = 4096
_PAIR: Final = 2
_NUMBERS: Final = frozenset({int, float, bool})


@functools.lru_cache(maxsize=1024)
def _rule(name: str) -> tuple[str, Kind]:
    return redacted_text(name), kind_of(name)


def redacted_field(name: str, value: object) -> tuple[str, object]:
    """Name and value as a field may be logged; ``value`` is what :func:`plain` returned.

    A number under a name with "token" is a count, not a secret; anything else there is one.
    """
    shown, kind = _rule(name)
    if kind == "harmless":
        # Numbers and short texts are nearly all that there is.
        if type(value) is str and len(value) <= _CACHED_LENGTH:
            return shown, _redacted_short(value)
        return shown, value if type(value) in _NUMBERS else _redacted_value(value)
    is_shown = value is None or (kind == "token" and isinstance(value, int | float))
    return shown, value if is_shown else REDACTED


def redacted(name: str, value: object) -> object:
    """The value of :func:`redacted_field`."""
    return redacted_field(name, value)[1]


def _redacted_value(value: object) -> object:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return dict(redacted_field(key, item) for key, item in value.items())
    if isinstance(value, list):
        if len(value) == _PAIR and isinstance(value[0], str) and kind_of(value[0]) != "harmless":
            return list(redacted_field(value[0], value[1]))  # a header, as ASGI has them
        return [_redacted_value(item) for item in value]
    return value


def redacted_text(text: str, limit: int = _MAX_TEXT) -> str:
    """``text`` without what looks like a credential, cut after ``limit`` characters."""
    if len(text) <= _CACHED_LENGTH:
        return _redacted_short(text)
    if len(text) <= limit:
        return without_credentials(text)
    return f"{without_credentials(text[: limit + _MARGIN], 0, limit)}… ({len(text)} characters)"


def redacted_ends(text: str, limit: int) -> str:
    """The same for a text of which the end matters as much as the beginning: what is too much is cut from its middle."""
    if len(text) <= limit:
        return without_credentials(text)
    half = limit // 2
    first = without_credentials(text[: half + _MARGIN], 0, half)
    last = text[-half - _MARGIN :]
    return f"{first}\n… ({len(text) - 2 * half} characters left out)\n{without_credentials(last, len(last) - half)}"


_redacted_short: Final = functools.lru_cache(maxsize=2048)(without_credentials)


def plain(value: object, depth: int = 0) -> object:
    """A copy made of dict, list, text, numbers and None, bounded in depth and length.

    It is taken when the record is made: the object may change before the record is written.
    """
    if value is None or isinstance(value, bool | int | float | str):
        # Subclasses (an IntEnum, say) are reduced to what JSON knows.
        kind = type(value)
        return value if kind in _PLAIN_TYPES else _reduced(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            items = list(value.items())[:_MAX_ITEMS]
            return {str(key): plain(item, depth + 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    return _text_of(value)


_PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str})


def _reduced(value: object) -> object:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else None


def _text_of(value: object) -> str:
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - a foreign __str__ may raise anything, and logging must not
        return f"<{type(value).__name__} without text>"
