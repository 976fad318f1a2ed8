"""The shape of the model, which is Qwen2.5-0.5B's, and where it lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NAME = "half-billion"


def default_directory() -> Path:
    """In the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastapi-foundry" / NAME


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 network with int4 weights.

    Attributes:
        block: Weights that share one scale.
        silent: Tokens, from 0, that an answer never has: the end of an answer and whatever is not a word of its own.
        context: Tokens, prompt and answer together.
    """

    layers: int = 24
    hidden: int = 896
    heads: int = 14
    kv_heads: int = 2
    head: int = 64
    intermediate: int = 4864
    vocabulary: int = 151_936
    silent: int = 2048
    block: int = 32
    context: int = 32_768
    epsilon: float = 1e-6
    rope_base: float = 1_000_000.0

    @property
    def qkv(self) -> int:
        """Width of query, key and value side by side."""
        return (self.heads + 2 * self.kv_heads) * self.head

    @property
    def parameters(self) -> int:
        """All of them; the table of the tokens counts once, since it serves both ends."""
        attention = self.hidden * self.qkv + self.qkv + self.heads * self.head * self.hidden
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden
