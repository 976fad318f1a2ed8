"""Which chat requests can go on where an earlier one ended, and how two conversations are known to be the same.

Pure. What the engine takes up again is told in ADR 0009; everything else goes the ordinary way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

__all__ = ["Conversation", "Turn", "continuable", "text_of"]

# Below this, reading the prompt again costs no more than zeroing a KV cache of the model's whole context.
LEAST_TEXT_CHARS: Final = 1000
# Without effect on an answer of text.
_HARMLESS: Final = frozenset(
    {
        "do_sample",
        "frequency_penalty",
        "keep_alive",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        "truncation",
        "user",
    }
)
_SPEAKERS: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: ``role`` is ``system``, ``user`` or ``assistant``; ``text`` is not empty."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a request whose answer can be kept open, and what they are known by.

    Attributes:
        turns: All of them; the last is the user's.
        seed: What else an answer depends on: the sampling.
    """

    turns: tuple[Turn, ...]
    seed: bytes

    def earlier(self) -> list[tuple[int, bytes]]:
        """Each place where an earlier answer ended: how many turns it covers, and its key; the longest first."""
        found = []
        digest = hashlib.sha256(self.seed)
        for number, turn in enumerate(self.turns, 1):
            digest.update(_encoded(turn))
            if turn.role == "assistant":
                found.append((number, digest.digest()))
        return found[::-1]

    def key_after(self, answer: str) -> bytes:
        """The key under which a request finds this conversation that goes on after ``answer``."""
        digest = hashlib.sha256(self.seed)
        for turn in (*self.turns, Turn("assistant", answer)):
            digest.update(_encoded(turn))
        return digest.digest()


def continuable(body: Mapping[str, Any]) -> Conversation | None:
    """The conversation of a checked chat request if the engine can go on after it; None for every other request.

    It has to be text alone, long enough, without tools, stop strings or a grammar (the engine drops its state after
    those), and not to ask for a repeatable sample (the random numbers of an open session have moved on).
    """
    asked = {key for key, value in body.items() if value is not None}
    if not asked <= _HARMLESS or body.get("tools"):
        return None
    if (body.get("response_format") or {"type": "text"}).get("type") != "text":
        return None
    if body.get("seed") is not None and body.get("temperature") != 0:
        return None
    turns = _turns(body["messages"])
    if turns is None or sum(len(turn.text) for turn in turns) < LEAST_TEXT_CHARS:
        return None
    sampling = [body.get(key) for key in ("temperature", "top_p", "top_k", "do_sample")]
    return Conversation(turns, orjson.dumps(sampling))


def text_of(content: object) -> str:
    """The text of a message's ``content``: a string, or parts that are joined."""
    if isinstance(content, list):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    return content if isinstance(content, str) else ""


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...] | None:
    turns: list[Turn] = []
    for message in messages:
        role = _SPEAKERS.get(message["role"])
        text = text_of(message.get("content"))
        further = {key for key, value in message.items() if value and key not in {"role", "content"}}
        if role is None or further or not text.strip() or "\0" in text:
            return None
        if role == "assistant" and turns and turns[-1].role == "assistant":
            return None
        turns.append(Turn(role, text))
    return tuple(turns) if turns and turns[-1].role == "user" else None


def _encoded(turn: Turn) -> bytes:
    text = turn.text.encode("utf-8", "surrogatepass")
    return b"%b %d %b" % (turn.role.encode(), len(text), text)
