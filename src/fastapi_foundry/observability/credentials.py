"""How a credential is known: by the name that it goes under, and by its own form within a text."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Final, Literal

__all__ = ["REDACTED", "Kind", "kind_of", "without_credentials"]

REDACTED: Final = "[redacted]"

Kind = Literal["harmless", "secret", "token"]

# Ends of words, because of names such as PGPASSWORD and authtoken.
_SECRET_ENDS: Final = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "secrets",
    "apikey",
    "apikeys",
    "authorization",
    "cookie",
    "cookies",
    "credential",
    "credentials",
)
_SECRET_WORDS: Final = frozenset(["auth", "bearer", "jwt", "signature", "csrf", "xsrf"])
_TOKEN_ENDS: Final = ("token", "tokens")
_TOKEN_WORDS: Final = frozenset(["pass", "pin", "otp", "sig", "session"])
_KINDS_OF_KEY: Final = frozenset(
    ["api", "private", "access", "auth", "admin", "signing", "encryption", "master", "ssh", "session"]
)
_KEY: Final = frozenset(["key", "keys"])
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

# Each form begins with one character of a few, and case is ignored within groups alone: this lets the engine pass
# over most positions, and is several times as fast as IGNORECASE with \b. "task-..." is no key, but in a text where
# control characters are escaped a letter of an escape may stand before one.
_FORM: Final = r"""
    f(?:fk_)[A-Za-z0-9]{6,}
  | [Bb](?P<scheme>(?i:earer)(?:\s+|%20|\+)|(?i:asic)\s+(?=[A-Za-z]*[0-9+/=]))[^\s"',;\\]{6,}
  | [SsPpRr](?=[Kk]-)(?:(?<![^\W_].)|(?<=\\[abfnrtv].)|(?<=\\x\w\w.)|(?<=\\u\w{4}.))[Kk]-[A-Za-z0-9_-]{6,}
  | [Hh](?:[Ff]_)[A-Za-z0-9_-]{10,}
  | [Gg](?:(?i:h[oprsu]|ithub_pat)_[A-Za-z0-9_]{16,}|(?i:lpat-)[A-Za-z0-9_-]{10,})
  | [Xx](?i:ox[abeprs]-)[A-Za-z0-9-]{10,}
  | A(?:[KS]IA[0-9A-Z]{16}|Iza[\w-]{30,})
  | e(?:yJ)[\w-]{8,1024}\.[\w-]+(?:\.[\w-]*)?
  | \#(?:link=)[\w-]{20,}
  | :(?P<login>//[^\s/@:"'?\#]{0,256}:)(?!\d{1,5}[/?\#])(?:[^\s"'@]{0,256}+@)+
  | -----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY.*?(?:-----END[^-]*-----|\Z)
"""
_NAME: Final = r"""
    (?<![\w-])(?P<name>[\w-]{1,200}+)(?:(?P<quoted>\\*+["'])\s*+[=:,]|\s*+[=:])
  | --(?P<option>[A-Za-z][\w-]{0,200}+)\s
"""
_FLAGS: Final = re.VERBOSE | re.DOTALL
_IN_NAMES: Final = re.compile(_FORM, _FLAGS)
_PATTERN: Final = re.compile(f"{_NAME} | {_FORM}", _FLAGS)
_SHORTEST_FORM: Final = len("sk-123456")
_DELIMITERS: Final = frozenset("\"'\\[{(")
_PREFIXES: Final = frozenset(["b", "r", "u", "f", "rb", "br"])
_BLANKS: Final = re.compile(r"\s*")
_SCHEME: Final = re.compile(r"(?i:basic|bearer|digest|negotiate|token|apikey|key)\s+")
_OPENING_QUOTE: Final = re.compile(r"""\\*["']""")
_WORD: Final = re.compile(r"""(?:[^\s"',;&)}\]\\]|\\(?!\\*["']))*""")
_REST_OF_LINE: Final = re.compile(r"""(?:[^\r\n"'\\]|\\(?!\\*["']))*""")
_NO_SECRET: Final = re.compile(r"(?:[-+]?\d[\d.]*|\[[\d,\s]*\]|null|none|true|false)(?=[\s,;&)}\]]|\Z)", re.IGNORECASE)
_LIKE_A_TOKEN: Final = re.compile(r"(?=\S*\d)[\w.~+/=-]{12,}|[\w.~+/=-]{20,}")


@functools.lru_cache(maxsize=1024)
def kind_of(name: str) -> Kind:
    """What a field of that name holds; a number under a "token" name is a count, anything else there a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if (
        not _SECRET_WORDS.isdisjoint(words)
        or any(word.endswith(_SECRET_ENDS) for word in words)
        or any(_names_a_key(first, second) for first, second in itertools.pairwise(words))
        or (name.isupper() and len(words) > 1 and words[-1] in _KEY)  # an environment variable
    ):
        return "secret"
    is_token = not _TOKEN_WORDS.isdisjoint(words) or any(word.endswith(_TOKEN_ENDS) for word in words)
    return "token" if is_token else "harmless"


def _names_a_key(first: str, second: str) -> bool:
    return (second in _KEY and first in _KINDS_OF_KEY) or (first, second) == ("session", "id")


def without_credentials(text: str, start: int = 0, stop: int | None = None) -> str:
    """``text[start:stop]`` with each credential replaced, those included that reach over one of its ends."""
    stop = len(text) if stop is None else stop
    found = _PATTERN.search(text)
    if found is None:
        return text[start:stop]
    parts: list[str] = []
    position = start
    while found is not None and found.start() < stop:
        if found.end() < position:
            found = _PATTERN.search(text, found.end())
            continue
        begin, end, go_on = _extent(text, found)
        if end > position and begin < min(end, stop):
            parts += (text[position:begin], REDACTED)
            position = end
        found = _PATTERN.search(text, go_on)
    parts.append(text[position:stop])
    return "".join(parts)


def _extent(text: str, found: re.Match[str]) -> tuple[int, int, int]:
    """Where the credential begins and ends (both the same where there is none), and where to go on searching.

    A value without quotes is searched again, because another's name may be its end: "password: token: ...".
    """
    name = found["name"] or found["option"]
    if name is None:
        if found["login"]:
            return found.end("login"), found.end() - len("@"), found.end()
        begin = found.end("scheme") if found["scheme"] else found.start()
        return begin, found.end(), begin if found["scheme"] else found.end()
    begin = end = _end(_BLANKS, text, found.end())
    kind = kind_of(name)
    if kind == "harmless" and text[found.start() - 1 : found.start()] == "\\":
        kind = kind_of(name[1:])  # the n of an escaped line end
    if kind == "secret" or (kind == "token" and not _is_count(text, found, begin)):
        words = name.lower()
        end = _end_of_value(text, begin, whole_line="cookie" in words or "authorization" in words)
    # Behind a harmless name the colon may be that of "://".
    go_on = found.end() - 1 if end == begin else end if text[begin] in _DELIMITERS else begin
    inner = _IN_NAMES.search(text, found.start(), found.end()) if len(name) >= _SHORTEST_FORM else None
    if inner:
        return inner.start(), inner.end() if end == begin else end, max(go_on, inner.end())
    return begin, end, go_on


def _is_count(text: str, found: re.Match[str], begin: int) -> bool:
    """Whether what begins there under a name with "token" is a number, or nothing but prose: "unexpected token: }"."""
    in_prose = found["name"] and not found["quoted"] and text[found.end() - 1] == ":"
    return bool(_NO_SECRET.match(text, begin) or (in_prose and not _LIKE_A_TOKEN.match(text, begin)))


def _end_of_value(text: str, begin: int, *, whole_line: bool) -> int:
    if text.startswith(REDACTED, begin):
        return begin + len(REDACTED)
    if text.startswith(("[", "{", "("), begin):
        return len(text)  # finding its end would take a parser of whatever wrote it
    if quote := _OPENING_QUOTE.match(text, begin):
        return _end_of_quoted(text, quote)
    form = _REST_OF_LINE if whole_line else _WORD
    end = _end(form, text, _end(_SCHEME, text, begin))
    # A quote is usually that around the whole text, unless what stands before it says otherwise: b'x', F('x'), a="x".
    while (text[end - 1] in "=(" or text[begin:end] in _PREFIXES) and (quote := _OPENING_QUOTE.match(text, end)):
        end = _end(form, text, _end_of_quoted(text, quote))
    return end


def _end_of_quoted(text: str, quote: re.Match[str]) -> int:
    # Behind a backslash it is a quote within the value; how many backslashes depends on what wrote the text.
    closing = re.compile(r"(?<!\\)" + re.escape(quote[0])).search(text, quote.end())
    return closing.end() if closing else len(text)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position
