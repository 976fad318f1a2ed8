"""What engines say in their own words, made fit for a client."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["INVALID_TOOL_CALL", "clean_engine_text", "is_cut_tool_call", "is_invalid_tool_call", "shows_inside"]

INVALID_TOOL_CALL: Final = "The model's tool call makes no sense. Try again, allow more tokens, or use a larger model."

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
# Both ends of Foundry Local 2.2: "an invalid tool call", and its recovery "did not produce a valid tool call".
_CUT_CALL: Final = "valid tool call: Tool-call output was interrupted"
_INVALID_CALL: Final = re.compile(
    r"\bModel emitted an? \w+ tool call\b|\bdid not emit the required tool call\b|\btool '[^']*': instance '"
)


def is_cut_tool_call(text: str) -> bool:
    """Whether an engine says that the token limit came before the end of a tool call."""
    return _CUT_CALL in text


def is_invalid_tool_call(text: str) -> bool:
    """Whether an engine says that it cannot use the tool call that the model made, cut or not."""
    return _INVALID_CALL.search(text) is not None


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
