"""What engines say in their own words, made fit for a client."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["clean_engine_text", "shows_inside"]

# An example: search_options.cc line 108, then a signature in namespace fl, then "request requires 5015 total tokens".
_SOURCE_PLACE: Final = re.compile(r"[\w./\\-]+\.(?:cc|cpp|h|hpp|cxx):\d+\s*")
# The signature that follows such a place; it ends at the last closing parenthesis before plain words.
_SIGNATURE: Final = re.compile(r"^.*?\bfl::.*?\((?:[^()]|\([^()]*\))*\)\s*(?:const\s*)?")
_EXCEPTION_TAG: Final = re.compile(r"\[json\.exception\.[\w.]+\]\s*")
_PATH: Final = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.@+:-]+){2,}[\\/]?")
_PLACE_THEN_SIGNATURE: Final = re.compile(r"[\w./\\-]+\.(?:cc|cpp|h|hpp|cxx):\d+\s+(.*)", re.DOTALL)
_PREFIX: Final = re.compile(r"^(?:Invalid request|Inference failed): ")
_INSIDE: Final = re.compile(
    r"\.(?:cc|cpp|h|hpp|cxx|py|cs):\d+|\bfl::|\[json\.exception|\bOnnxRuntime\w*Exception\b|Traceback"
    r"|(?:^|[\s\"'(])(?:/(?:home|root|usr|opt|tmp|var|etc|mnt|Users)/|[A-Za-z]:\\)|https?://(?:127\.|localhost|\[::1\])"
)


def shows_inside(text: str) -> bool:
    """Whether a text tells of source files, directories or addresses that are no client's business."""
    return _INSIDE.search(text) is not None


def clean_engine_text(text: str) -> str:
    """An engine's message without C++ file names, line numbers, signatures and paths."""
    text = _PREFIX.sub("", text)
    match = _PLACE_THEN_SIGNATURE.match(text)
    if match:
        text = match.group(1)
        signature = _SIGNATURE.match(text)
        if signature:
            text = text[signature.end() :]
    text = _EXCEPTION_TAG.sub("", _SOURCE_PLACE.sub("", text))
    return _PATH.sub("<path>", text).strip() or "The engine gave no reason."
