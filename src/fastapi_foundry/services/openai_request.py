"""A request of OpenAI's API on its way through the services."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import orjson

from fastapi_foundry.engines.base import Call
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.wire.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    with_usage_requested,
)

__all__ = ["CHAT_PATH", "OpenAIRequest"]

CHAT_PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A validated request of OpenAI's API together with the bytes that it came as.

    Attributes:
        wish: How it is to be treated on its way.
        truncation: Its header ``x-foundry-truncation``.
    """

    path: str
    raw: bytes
    parsed: dict[str, Any]
    checked: ChatCompletionRequest | CompletionRequest | EmbeddingRequest
    request_id: str
    principal: Principal = LOCAL
    wish: Wish = field(default_factory=Wish)
    truncation: str | None = None

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return not isinstance(self.checked, EmbeddingRequest) and bool(self.checked.stream)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage of its stream."""
        return not isinstance(self.checked, EmbeddingRequest) and self.checked.usage_requested

    def with_parsed(self, parsed: dict[str, Any]) -> Self:
        """The same request with another body, and with the bytes that are this body and no other."""
        return replace(self, parsed=parsed, raw=orjson.dumps(parsed))

    def call(self) -> Call:
        """The request as it goes to an engine."""
        return Call(self.path, self.raw, self.request_id, known=self.parsed)

    def streaming_call(self) -> Call:
        """Likewise with its usage asked for, in the client's own bytes as far as that goes."""
        if self.wants_usage:
            return self.call()
        parsed = self.parsed
        asking = parsed | {"stream_options": (parsed.get("stream_options") or {}) | {"include_usage": True}}
        body = orjson.dumps(asking) if "stream_options" in parsed else with_usage_requested(self.raw)
        return Call(self.path, body, self.request_id, known=asking)
