"""How much of a model's context a prompt takes: counted by its engine, or estimated where that cannot count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, Engine, ModelCard
from fastapi_foundry.errors import EngineError, ModelNotFoundError
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.wire.context_length import context_of

__all__ = ["ContextService", "PromptSize", "estimated_tokens"]

# Of English a token is four bytes on average, of code and of other languages three.
_BYTES_PER_TOKEN: Final = 3
_TOKENS_PER_MESSAGE: Final = 4


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What a prompt takes of its model's context.

    Attributes:
        model: Full id.
        prompt_tokens: Counted by the engine where ``exact``, else estimated.
        context_length: For prompt and answer together, in tokens; None where nobody knows.
        max_output_tokens: What is left for the answer, or less where the model says so.
        exact: Whether the engine counted.
    """

    model: str
    prompt_tokens: int
    context_length: int | None
    max_output_tokens: int | None
    exact: bool


class ContextService:
    """Measures prompts.

    Args:
        engine: Counts.
        models: Knows how long a model's context is.
    """

    def __init__(self, engine: Engine, models: ModelsService) -> None:
        self._engine = engine
        self._models = models

    async def measure(self, call: Call) -> PromptSize:
        """What the prompt of the chat request ``call`` takes; nothing is generated.

        Raises:
            FoundryError: The request is wrong, or the engine cannot be asked.
        """
        card = await self._card(call.model)
        counted = await self._engine.count_tokens(call)
        tokens = estimated_tokens(call.parsed) if counted is None else counted.prompt_tokens
        context = counted.context_length if counted is not None else None
        context = context or (context_of(card.extra) if card is not None else None)
        room = None if context is None else max(0, context - tokens)
        most = card.extra.get("max_output_tokens") if card is not None else None
        if isinstance(most, int) and most > 0:
            room = most if room is None else min(most, room)
        return PromptSize(card.id if card is not None else call.model, tokens, context, room, counted is not None)

    async def _card(self, name: str) -> ModelCard | None:
        try:
            return await self._models.get(name)
        except (EngineError, ModelNotFoundError):
            return None


def estimated_tokens(request: Mapping[str, Any]) -> int:
    """About how many tokens a chat request's prompt has; rather too many than too few for English."""
    messages = request.get("messages") or []
    size = sum(len(text.encode("utf-8", "replace")) for message in messages for text in _texts(message))
    size += len(orjson.dumps(request["tools"])) if request.get("tools") else 0
    return size // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(messages)


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    texts = [content] if isinstance(content, str) else []
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    if message.get("tool_calls"):
        texts.append(orjson.dumps(message["tool_calls"]).decode())
    return texts
