"""How engines say that a request is too long, and how long a model's context is by the names that they use; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["TooLong", "context_of", "numbers_in"]

# Ours and OpenRouter, vLLM, LM Studio, Groq, llama.cpp.
_NAMES: Final = ("context_length", "max_model_len", "max_context_length", "context_window", "n_ctx")
_LIMIT: Final = (
    re.compile(r'"n_ctx"\s*:\s*(\d+)'),
    re.compile(r"context length (?:is|of)(?: only)? (\d+)", re.IGNORECASE),
    re.compile(r"context (?:size|window|length)\D{0,25}?(\d{2,})", re.IGNORECASE),
)
_PROMPT: Final = (
    re.compile(r'"n_prompt_tokens"\s*:\s*(\d+)'),
    re.compile(r"\((\d+) input \+ \d+ output\)", re.IGNORECASE),
    re.compile(r"resulted in (\d+) tokens", re.IGNORECASE),
    re.compile(r"(\d+) (?:tokens )?(?:in|from) the (?:messages|prompt|input)", re.IGNORECASE),
    re.compile(r"(?:has|contains) (?:at least )?(\d+) input tokens", re.IGNORECASE),
    re.compile(r"request \((\d+) tokens\) exceeds", re.IGNORECASE),
    re.compile(r"keep the first (\d+) tokens", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class TooLong:
    """What a refusal tells: the prompt's length, and the limit for prompt and answer together, in tokens."""

    prompt_tokens: int
    context_length: int

    @property
    def leaves_no_room(self) -> bool:
        """Whether the prompt alone is too long; else a shorter answer would do."""
        return self.prompt_tokens >= self.context_length


def numbers_in(text: str) -> TooLong | None:
    """The two numbers in an engine's words or JSON; None where they do not hold both."""
    limit, prompt = _first(_LIMIT, text), _first(_PROMPT, text)
    return TooLong(prompt, limit) if limit and prompt is not None else None


def context_of(entry: Mapping[str, Any]) -> int | None:
    """The context length, in tokens, of an entry of a model list by whatever name it goes; None where it has none."""
    meta = entry.get("meta")
    for place in (entry, meta if isinstance(meta, Mapping) else {}):
        for name in _NAMES:
            value = place.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        if match := pattern.search(text):
            return int(match[1])
    return None
