"""What never reaches a log: passwords, tokens and keys, found by a field's name and by a value's form."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["REDACTED", "plain", "redacted", "redacted_text"]

REDACTED: Final = "[redacted]"

_MAX_TEXT: Final = 8192  # characters of one value
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 100
_CACHED_LENGTH: Final = 64  # most texts in a log are short and come again: methods, routes, model ids

_SECRET_WORDS: Final = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "apikey",
        "apikeys",
        "authorization",
        "auth",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "jwt",
        "signature",
    ]
)
_SECRET_PAIRS: Final = frozenset(
    {("api", "key"), ("api", "keys"), ("private", "key"), ("access", "key"), ("auth", "key")}
)
_TOKEN_WORDS: Final = frozenset({"token", "tokens"})
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_PATTERN: Final = re.compile(
    r"""
    \b(?P<scheme>bearer)\s+[^\s"',;]{6,}
  | \b(?:sk|pk|rk)-[a-z0-9_-]{6,}
  | \b(?:hf|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs])[_-][a-z0-9_-]{10,}
  | \bAKIA[0-9A-Z]{16}\b
  | \beyJ[\w-]{8,}\.[\w-]+\.[\w-]*
  | (?P<before_login>://)[^\s/@:"']*:[^\s/@"']+(?=@)
  | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END[^-]*-----|\Z)
  | (?P<name>(?:password|passwd|passphrase|secret|api[_-]?key|authorization)["']?\s*[=:]\s*["']?(?:basic\s+|bearer\s+)?
      |token(?:["']\s*:|["']?\s*=)\s*["']?)[^\s"',;&)}\]]+
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@functools.lru_cache(maxsize=1024)
def _kind_of(name: str) -> Literal["harmless", "secret", "token"]:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET_WORDS.isdisjoint(words) or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)):
        return "secret"
    return "harmless" if _TOKEN_WORDS.isdisjoint(words) else "token"


def redacted(name: str, value: object) -> object:
    """``value`` as a field called ``name`` may be logged; ``value`` is what :func:`plain` returned.

    A number under a name with "token" is a count, not a secret; anything else there is one.
    """
    if value is None:
        return None
    kind = _kind_of(name)
    if kind != "harmless" and (kind == "secret" or not isinstance(value, int | float)):
        return REDACTED
    return redacted_text(value) if isinstance(value, str) else _redacted_value(value)


def _redacted_value(value: object) -> object:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return {key: redacted(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted_value(item) for item in value]
    return value


def redacted_text(text: str, limit: int = _MAX_TEXT) -> str:
    """``text`` without what looks like a credential, cut after ``limit`` characters."""
    if len(text) <= _CACHED_LENGTH:
        return _redacted_short(text)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    return _PATTERN.sub(_replacement, text)


@functools.lru_cache(maxsize=2048)
def _redacted_short(text: str) -> str:
    return _PATTERN.sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    if match["scheme"]:
        return f"{match['scheme']} {REDACTED}"
    return f"{match['before_login'] or match['name'] or ''}{REDACTED}"


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
