"""OpenAI's requests and model list as types.

Requests are checked here and then travel on as the client's own bytes. Unknown fields are tolerated,
known ones must be right: numbers are not read from strings, ranges are OpenAI's own. Source: OpenAI's
published API specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from fastapi_foundry.wire.context_length import context_of
from fastapi_foundry.wire.validation import wrong_field

__all__ = [
    "ChatCompletionRequest",
    "ChatMessage",
    "CompletionRequest",
    "EmbeddingRequest",
    "ErrorEnvelope",
    "Model",
    "ModelList",
    "model_entry",
    "with_usage_requested",
]

MAX_TOKENS_LIMIT: Final = 10_000_000
"""No model's context comes near it; what a given model can do is the engine's to say."""

PositiveTokens = Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS_LIMIT)]
ModelName = Annotated[StrictStr, Field(min_length=1, max_length=512)]
Temperature = Annotated[StrictFloat, Field(ge=0, le=2, allow_inf_nan=False)]
Probability = Annotated[StrictFloat, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[StrictFloat, Field(ge=-2, le=2, allow_inf_nan=False)]
LogitBias = Annotated[StrictFloat, Field(ge=-100, le=100, allow_inf_nan=False)]
Seed = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
StopSequences = Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(max_length=4)]
ToolName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
TokenId = Annotated[StrictInt, Field(ge=0)]


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, defer_build=True)


class ContentPart(_Tolerant):
    """One part of a message's content."""

    type: StrictStr
    text: StrictStr | None = None

    @model_validator(mode="after")
    def _text_has_text(self) -> ContentPart:
        if self.type == "text" and self.text is None:
            raise wrong_field("text", "A part of type 'text' needs a text")
        return self


class FunctionCall(_Tolerant):
    """The function that a model asked for, with its arguments as the JSON text the model wrote."""

    name: StrictStr
    arguments: StrictStr


class ToolCall(_Tolerant):
    """One call in an assistant's message."""

    id: StrictStr
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Tolerant):
    """One message of a conversation; what has to be there depends on its role."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: StrictStr | list[ContentPart] | None = None
    name: StrictStr | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: StrictStr | None = None
    function_call: FunctionCall | None = None
    refusal: StrictStr | None = None

    @model_validator(mode="after")
    def _role_has_its_fields(self) -> ChatMessage:
        if self.role == "assistant":
            if self.content is None and not (self.tool_calls or self.function_call or self.refusal):
                raise wrong_field("content", "An assistant's message needs content or tool_calls")
        elif self.content is None and self.role != "function":
            raise wrong_field("content", f"A message of role '{self.role}' needs content")
        if isinstance(self.content, list) and not self.content:
            raise wrong_field("content", "At least one part is needed")
        if self.role == "tool" and self.tool_call_id is None:
            raise wrong_field("tool_call_id", "A message of role 'tool' needs the id of the call that it answers")
        return self


class FunctionDefinition(_Tolerant):
    """A function that the model may ask for; ``parameters`` is a JSON schema."""

    name: ToolName
    description: StrictStr | None = None
    parameters: dict[StrictStr, Any] | None = None
    strict: StrictBool | None = None


class Tool(_Tolerant):
    """A tool that the model may ask for."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(_Tolerant):
    """The name of a function."""

    name: ToolName


class NamedToolChoice(_Tolerant):
    """The one tool that the model has to ask for."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(_Tolerant):
    """Which of the tools the model may choose from."""

    mode: Literal["auto", "required"]
    tools: list[dict[StrictStr, Any]]


class AllowedToolsChoice(_Tolerant):
    """OpenAI's ``allowed_tools`` form of ``tool_choice``."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JSONSchemaFormat(_Tolerant):
    """OpenAI's wrapper around a JSON schema."""

    name: ToolName
    description: StrictStr | None = None
    schema_: dict[StrictStr, Any] | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(_Tolerant):
    """What the answer has to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong_field("json_schema", "A response format of type 'json_schema' needs a json_schema")
        return self


class StreamOptions(_Tolerant):
    """Options of a streamed answer."""

    include_usage: StrictBool | None = None


class _Sampling(_Tolerant):
    """What chat and text completions have in common."""

    model: ModelName
    frequency_penalty: Penalty | None = None
    logit_bias: dict[StrictStr, LogitBias] | None = None
    max_tokens: PositiveTokens | None = None
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: StrictStr | StopSequences | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    user: StrictStr | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> _Sampling:
        if self.stream_options is not None and not self.stream:
            raise wrong_field("stream_options", "This is only allowed when 'stream' is true")
        return self

    @property
    def usage_requested(self) -> bool:
        """Whether a stream has to end with a usage frame."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatCompletionRequest(_Sampling):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    logprobs: StrictBool | None = None
    max_completion_tokens: PositiveTokens | None = None
    metadata: dict[StrictStr, StrictStr] | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning_effort: StrictStr | None = None
    response_format: ResponseFormat | None = None
    store: StrictBool | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolsChoice | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong_field("top_logprobs", "This is only allowed when 'logprobs' is true")
        forces_a_call = not (self.tool_choice is None or self.tool_choice in ("none", "auto"))
        if forces_a_call and not self.tools:
            raise wrong_field("tool_choice", "This is only allowed when 'tools' are given")
        if isinstance(self.tool_choice, NamedToolChoice) and self.tools:
            name = self.tool_choice.function.name
            if all(tool.function.name != name for tool in self.tools):
                raise wrong_field("tool_choice", f"No function '{name}' is among 'tools'")
        return self


class CompletionRequest(_Sampling):
    """The body of ``POST /v1/completions``."""

    prompt: StrictStr | list[StrictStr] | list[TokenId] | list[list[TokenId]]
    best_of: Annotated[StrictInt, Field(ge=1, le=20)] | None = None
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    suffix: StrictStr | None = None

    @model_validator(mode="after")
    def _prompt_is_not_empty(self) -> CompletionRequest:
        if isinstance(self.prompt, list) and not self.prompt:
            raise wrong_field("prompt", "At least one item is needed")
        return self


class EmbeddingRequest(_Tolerant):
    """The body of ``POST /v1/embeddings``."""

    model: ModelName
    input: (
        Annotated[StrictStr, Field(min_length=1)]
        | Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    )
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: StrictStr | None = None


class Model(BaseModel):
    """One entry of ``GET /v1/models``; the fields after ``owned_by`` are ours."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    state: str = "unknown"


class ModelList(BaseModel):
    """The answer of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """What is wrong, in OpenAI's terms."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every failure under ``/v1``."""

    error: ErrorDetail


def model_entry(model_id: str, created: int, owned_by: str, state: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the model list: OpenAI's four fields first, then the engine's own."""
    own = {"id": model_id, "object": "model", "created": created, "owned_by": owned_by, "state": state}
    entry = own | {key: value for key, value in extra.items() if key not in own}
    if (context := context_of(extra)) is not None:
        # By the names that other programs look for.
        entry = {**entry, "context_length": context, "max_model_len": context}
    return entry


def with_usage_requested(body: bytes) -> bytes:
    """``body``, one JSON object without ``stream_options``, with the usage frame asked for; not parsed again."""
    start = body.index(b"{") + 1
    return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]
