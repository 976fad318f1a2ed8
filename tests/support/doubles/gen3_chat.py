"""How the native web service reads a chat request and words its answer and its errors; measured with SDK 2.2.1."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.doubles.models import DoubleModel
from tests.support.doubles.text_model import (
    SchemaError,
    answer_to,
    instance_of,
    pieces,
    prompt_tokens,
    text_of,
    tool_arguments,
)

__all__ = ["ChatError", "Generated", "generate", "parse_chat"]

DEFAULT_MAX_TOKENS: Final = 2048
_NO_CONTENT: Final = (
    "chat_session.cc:1298 std::unique_ptr<fl::PreparedChatRequest> fl::{anonymous}::PrepareChatRequest(const "
    "fl::Request&) the request has nothing to generate from: `messages` carried no content"
)
_GRAMMAR: Final = (
    "onnx_chat_generator.cc:431 static std::unique_ptr<fl::OnnxChatGenerator> fl::OnnxChatGenerator::CreatePrepared("
    "fl::PreparedChatPrompt, const fl::SearchOptions&) failed to create generator: Error creating grammar: "
)
_CUT_CALL: Final = (
    "chat_session.cc:968 void fl::{anonymous}::ThrowInvalidToolCallWithoutRecovery(const std::string&) Model emitted "
    "an invalid tool call: Tool-call output was interrupted before the batch could be committed. Recovery requires an "
    "uncommitted call, an exact streamed-prefix checkpoint, and remaining output budget; canceled or truncated turns "
    "are not replayed"
)


class ChatError(Exception):
    """A request that is refused."""

    def __init__(self, message: str, status: int = 400, begun: Generated | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.begun = begun  # what a stream has shown of its beginning before

    def as_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"code": None, "message": self.message, "param": None, "type": kind}


@dataclass
class Generated:
    """What the model made."""

    model: str
    prompt: int
    pieces: list[str]
    finish_reason: str
    call: tuple[str, dict[str, Any]] | None = None
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(8)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def text(self) -> str:
        return "" if self.call else "".join(self.pieces)

    @property
    def usage(self) -> dict[str, Any]:
        count = len(self.pieces)
        return {
            "completion_tokens": count,
            "completion_tokens_details": {"reasoning_tokens": 0},
            "prompt_tokens": self.prompt,
            "prompt_tokens_details": {"cached_tokens": 0},
            "total_tokens": self.prompt + count,
        }

    def completion(self) -> dict[str, Any]:
        message: dict[str, Any] = {"content": self.text, "refusal": None, "role": "assistant"}
        if self.call:
            message["tool_calls"] = [self._tool_call()]
        choice = {"finish_reason": self.finish_reason, "index": 0, "logprobs": None, "message": message}
        return self._envelope("chat.completion", [choice]) | {"usage": self.usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        yield self._chunk({"content": "", "role": "assistant"})
        if self.call:
            call = self._tool_call()
            yield self._chunk({"tool_calls": [call | {"index": 0}]})
        else:
            for piece in self.pieces:
                yield self._chunk({"content": piece})
        yield self._chunk({}, self.finish_reason)

    def usage_chunk(self) -> dict[str, Any]:
        return self._envelope("chat.completion.chunk", []) | {"usage": self.usage}

    def _tool_call(self) -> dict[str, Any]:
        assert self.call is not None
        name, arguments = self.call
        function = {"arguments": json.dumps(arguments, separators=(",", ":")), "name": name}
        return {"function": function, "id": f"call_{secrets.token_hex(5)[:9]}", "type": "function"}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"delta": delta, "finish_reason": finish_reason, "index": 0, "logprobs": None}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "choices": choices,
            "created": self.created,
            "id": self.id,
            "model": self.model,
            "object": kind,
            "system_fingerprint": None,
        }


def parse_chat(raw: bytes) -> dict[str, Any]:
    """Everything that is refused with 400 before the model is looked at, streaming or not.

    Raises:
        ChatError: It is refused; the message is whole.
    """
    if not raw:
        raise ChatError("Empty request body")
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except ValueError as error:
        raise ChatError(f"Invalid JSON: [json.exception.parse_error.101] parse error: {error}") from None
    if not isinstance(body, dict):
        raise ChatError("Invalid request: [json.exception.type_error.304] cannot use at() with array")
    for key, kind, word in (("model", str, "string"), ("messages", list, "array")):
        if key not in body:
            raise ChatError(f"Invalid request: [json.exception.out_of_range.403] key '{key}' not found")
        if not isinstance(body[key], kind):
            raise ChatError(f"Invalid request: [json.exception.type_error.302] type must be {word}")
    _check_tools(body)
    if not body["messages"]:
        raise ChatError("Missing required field: messages")
    if any(body.get(name) for name in ("frequency_penalty", "presence_penalty")):
        raise ChatError("Unsupported parameter: nonzero frequency_penalty and presence_penalty are not supported")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"invalid literal {name}")


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    for tool in tools:
        function = tool.get("function") or {}
        if not function.get("name"):
            raise ChatError(
                "Invalid request: chat_completions.cc:17 std::string fl::{anonymous}::RequiredName(const "
                "nlohmann::json&, const char*) tool function must contain a non-empty string 'name'"
            )
        if not isinstance(function.get("parameters"), dict | None):
            raise ChatError(
                "Invalid request: chat_completions.cc:236 void fl::from_json(const nlohmann::json&, "
                "ChatCompletionFunctionDef&) tool function 'parameters' must be an object or null"
            )
        if function.get("strict") is True:
            raise ChatError(
                "Invalid request: tool_definitions.cc:170 std::optional<bool> fl::tools::ParseFunctionStrict(const "
                "nlohmann::json&) function tool 'strict' true is not supported until constrained decoding is "
                "implemented"
            )
    choice = body.get("tool_choice")
    if tools and isinstance(choice, dict) and not _narrowed(tools, choice):
        raise ChatError(
            "Invalid request: tool_definitions.cc:235 void fl::tools::NarrowToForcedTool(std::vector<"
            "fl::ToolDefinition>&, const std::string&, fl::ToolKind) tool_choice references an undeclared tool or "
            f"the wrong tool kind: {(choice.get('function') or {}).get('name')}"
        )
    if isinstance(choice, str) and choice not in {"auto", "none", "required"}:
        raise ChatError(
            "Invalid request: chat_completions.cc:292 void fl::from_json(const nlohmann::json&, "
            f"ChatCompletionToolChoice&) invalid tool_choice '{choice}'; expected 'auto', 'none' or 'required'"
        )


def generate(body: dict[str, Any], model: DoubleModel) -> Generated:
    """The answer to a request of a loaded model.

    Raises:
        ChatError: It is refused; the native service puts words before the message, except in a stream.
    """
    limit, stops = _limit(body), _stops(body)
    tools = [] if body.get("tool_choice") == "none" else body.get("tools") or []
    tools = _narrowed(tools, body.get("tool_choice"))
    if not any(text_of(message.get("content")) for message in body["messages"]):
        raise ChatError(_NO_CONTENT)
    prompt = prompt_tokens(body["messages"], tools)
    if prompt + limit > model.context_length:
        raise ChatError(
            "search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, int) request requires "
            f"{prompt + limit} total tokens ({prompt} input + {limit} output), which exceeds the model's maximum "
            f"context length of {model.context_length} tokens"
        )
    if tools and body["messages"][-1].get("role") != "tool":
        return _called(tools[0], model, prompt, limit)
    text, ended = _cut(_text(body), stops)
    made = pieces(text)
    finish = "stop" if ended or len(made) <= limit else "length"
    return Generated(model.id, prompt, made[:limit], finish)


def _called(tool: dict[str, Any], model: DoubleModel, prompt: int, limit: int) -> Generated:
    arguments = tool_arguments(tool)
    made = ["<tool_call>", *pieces(json.dumps(arguments)), "</tool_call>", ""]
    if len(made) > limit:
        raise ChatError(_CUT_CALL, 500, Generated(model.id, prompt, [], "length"))
    if (key := _impossible(tool)) is not None:
        raise ChatError(
            "tool_call_plan.cc:30 void fl::{anonymous}::Fail(flErrorCode, std::string_view, std::string_view) tool "
            f"'{tool['function']['name']}': instance '/{key}', keyword '/properties/{key}': False schema always fails",
            500,
            Generated(model.id, prompt, [], "stop"),
        )
    return Generated(model.id, prompt, made, "tool_calls", (tool["function"]["name"], arguments))


def _impossible(tool: dict[str, Any]) -> str | None:
    """A parameter that nothing fits."""
    properties = (tool["function"].get("parameters") or {}).get("properties") or {}
    return next((key for key, schema in properties.items() if schema is False), None)


def _narrowed(tools: list[dict[str, Any]], choice: Any) -> list[dict[str, Any]]:
    """The tools that may be called."""
    if not isinstance(choice, dict):
        return tools
    name = (choice.get("function") or {}).get("name")
    return [tool for tool in tools if tool["function"]["name"] == name]


def _limit(body: dict[str, Any]) -> int:
    for name, low, high, where in (
        ("temperature", 0.0, 2.0, "22 void fl::{anonymous}::ValidateTemperature(float)"),
        ("top_p", 0.0, 1.0, "28 void fl::{anonymous}::ValidateTopP(float)"),
    ):
        value = body.get(name)
        if isinstance(value, int | float) and not low <= value <= high:
            raise ChatError(f"search_options.cc:{where} {name} must be in the range [{low}, {high}]")
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool):  # anything else is ignored
            if value < 1:
                raise ChatError(
                    "search_options.cc:55 int fl::ResolveMaxOutputTokens(const SearchOptions&, int) max_output_tokens "
                    "must be >= 1"
                )
            return value
    return DEFAULT_MAX_TOKENS


def _stops(body: dict[str, Any]) -> list[str]:
    given = body.get("stop")
    stops = [given] if isinstance(given, str) else given or []
    where = "stop_strings.cc:56 std::vector<std::string> fl::{anonymous}::NormalizeStopStringsImpl(const json&)"
    if len(stops) > 4:
        raise ChatError(f"{where} stop supports at most 4 strings")
    if not all(stops):
        raise ChatError(f"{where} stop[0] must not be empty")
    return list(stops)


def _cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _text(body: dict[str, Any]) -> str:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return json.dumps({"answer": answer_to(body["messages"])})
    if wanted.get("type") != "json_schema":
        return answer_to(body["messages"])
    if "json_schema" not in wanted:
        raise ChatError(
            "chat_session.cc:1189 fl::ToolCallContext fl::{anonymous}::BuildToolCallContextForRequest(const "
            "fl::Request&) guidance_type and guidance_data must be provided together"
        )
    try:
        # Taken as the schema itself: OpenAI's wrapper asks for nothing, so any JSON value will do.
        return json.dumps(instance_of(wanted["json_schema"]))
    except SchemaError as error:
        raise ChatError(_GRAMMAR + str(error), 500) from None
