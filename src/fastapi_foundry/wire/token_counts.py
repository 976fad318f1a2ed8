"""``POST /api/v1/tokens/count`` as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, model_validator

from fastapi_foundry.wire.openai import ChatMessage, ModelName, Tool
from fastapi_foundry.wire.validation import wrong_field

__all__ = ["TokenCountRequest", "TokenCountResult"]


class TokenCountRequest(BaseModel):
    """A prompt to be counted: the ``messages`` of a chat with its ``tools``, or one ``prompt``."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, defer_build=True)

    model: ModelName | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    prompt: Annotated[StrictStr, Field(min_length=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenCountRequest:
        if (self.messages is None) == (self.prompt is None):
            raise wrong_field("messages", "Either 'messages' or 'prompt' is needed, and not both")
        return self

    def chat(self, given: dict[str, Any], default_model: str) -> dict[str, Any]:
        """The chat request whose prompt is counted; ``given`` is the body that this was read from."""
        messages = given.get("messages") or [{"role": "user", "content": self.prompt}]
        request = {"model": self.model or default_model, "messages": messages}
        return request | ({"tools": given["tools"]} if self.tools else {})


class TokenCountResult(BaseModel):
    """The answer; ``exact`` when the engine counted, else an estimate. Lengths are null where nobody knows them."""

    success: Literal[True] = True
    model: str
    prompt_tokens: int
    context_length: int | None
    max_output_tokens: int | None
    exact: bool
    request_id: str
