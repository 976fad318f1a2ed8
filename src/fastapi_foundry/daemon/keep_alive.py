"""How long a model stays loaded without a request: ``keep_alive`` as Ollama means it."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from fastapi_foundry.errors import InvalidInputError

__all__ = ["FOR_EVER", "parse_keep_alive", "take_keep_alive"]

FOR_EVER: Final = math.inf
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+")
_PLAIN: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
# Years are as good as for ever, and a date must be made of what is less.
_LONGEST_S: Final = 10 * 365 * 86_400.0
_LONGEST_TEXT: Final = 64


def parse_keep_alive(value: object, *, param: str = "keep_alive") -> float | None:
    """Seconds from the last request on, 0 for "unload after it", ``FOR_EVER`` for a negative value; None for None.

    Raises:
        InvalidInputError: Neither a number of seconds nor a duration such as ``"5m"`` or ``"1h30m"``.
    """
    if value is None:
        return None
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        seconds = min(float(value), _LONGEST_S) if value >= 0 else -1.0
    elif isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        seconds = _seconds(value.strip())
    if seconds is None:
        raise InvalidInputError(
            f"'{param}' must be a number of seconds or a duration such as \"5m\"; 0 unloads after the request, -1 keeps "
            "the model loaded.",
            param=param,
        )
    return FOR_EVER if seconds < 0 or seconds >= _LONGEST_S else seconds


def take_keep_alive(body: dict[str, Any]) -> float | None:
    """The ``keep_alive`` of an inference request, taken out of it; raises as ``parse_keep_alive`` does."""
    return parse_keep_alive(body.pop("keep_alive", None))


def _seconds(text: str) -> float | None:
    if _PLAIN.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    total = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    return -total if text.startswith("-") and total else total
