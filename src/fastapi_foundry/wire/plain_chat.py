"""Whether a chat request is of the plain kind: messages of text and a few settings, each of them right.

What passes here passes ``ChatCompletionRequest`` too (a test sees to that); whatever does not may be as right, and is
looked at there. Nearly all requests are plain, and this takes two microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from fastapi_foundry.wire.openai import MAX_TOKENS_LIMIT

__all__ = ["is_plain_chat"]

_ROLES: Final = frozenset({"system", "user", "assistant"})
_MESSAGE_KEYS: Final = {"role", "content"}
_LONGEST_NAME: Final = 512
_MOST_MESSAGES: Final = 1000
_SEEDS: Final = (-(2**63), 2**63 - 1)


def is_plain_chat(value: object) -> bool:
    """See the module; ``value`` is any JSON."""
    if type(value) is not dict or "model" not in value or "messages" not in value:
        return False
    for name, each in value.items():
        check = _CHECKS.get(name)
        if check is None or not check(each):
            return False
    return True


def _is_model(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= _LONGEST_NAME


def _are_messages(value: Any) -> bool:
    if type(value) is not list or not 0 < len(value) <= _MOST_MESSAGES:
        return False
    for message in value:
        if type(message) is not dict or message.keys() != _MESSAGE_KEYS:
            return False
        role = message["role"]
        if type(role) is not str or role not in _ROLES or type(message["content"]) is not str:
            return False
    return True


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_TOKENS_LIMIT


def _is_between(lowest: float, highest: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return ((type(value) is float and math.isfinite(value)) or type(value) is int) and lowest <= value <= highest

    return check


def _is_seed(value: Any) -> bool:
    return type(value) is int and _SEEDS[0] <= value <= _SEEDS[1]


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_stream_options(value: Any) -> bool:
    return type(value) is dict and value.keys() == {"include_usage"} and type(value["include_usage"]) is bool


def _is_text(value: Any) -> bool:
    return type(value) is str


_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "model": _is_model,
    "messages": _are_messages,
    "max_tokens": _is_count,
    "temperature": _is_between(0, 2),
    "stream": _is_flag,
    "top_p": _is_between(0, 1),
    "seed": _is_seed,
    "stream_options": _is_stream_options,
    "user": _is_text,
}
