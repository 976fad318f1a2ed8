"""Checks of inference requests before they reach an engine: known parameters must be right, others are tolerated.

Written by hand: two pydantic models would add 15 MB to the service for a dozen rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi_foundry.errors import InvalidInputError, UnsupportedParameterError

__all__ = ["check_chat", "check_embeddings", "model_name"]

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MAX_STOPS: Final = 16
_MAX_INPUTS: Final = 2048
# The least and the most.
_NUMBERS: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
_INTEGERS: Final = {
    "max_tokens": (1, 2**63),
    "max_completion_tokens": (1, 2**63),
    "top_k": (0, 2**31 - 1),
    "top_logprobs": (0, 20),
    "n": (1, 128),
    "seed": (-(2**63), 2**63 - 1),
}
_BOOLEANS: Final = ("stream", "logprobs", "do_sample", "parallel_tool_calls")


def model_name(body: Mapping[str, Any]) -> str:
    """The ``model`` of any request.

    Raises:
        InvalidInputError: It is missing or no string.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidInputError("'model' must be a non-empty string.", param="model")
    return model


def check_chat(body: Mapping[str, Any]) -> None:
    """Check a chat request.

    Raises:
        InvalidInputError: A parameter is wrong; ``param`` names it.
        UnsupportedParameterError: A parameter is right and the engine cannot honour it.
    """
    model_name(body)
    for key, (least, most) in _NUMBERS.items():
        _check_number(body, key, least, most)
    for key, bounds in _INTEGERS.items():
        _check_integer(body, key, *bounds)
    for key in _BOOLEANS:
        if not isinstance(body.get(key), bool | None):
            raise InvalidInputError(f"'{key}' must be true or false.", param=key)
    if not isinstance(body.get("stream_options"), dict | None):
        raise InvalidInputError("'stream_options' must be an object.", param="stream_options")
    _check_stop(body.get("stop"))
    _check_messages(body.get("messages"))
    _check_tools(body)
    _check_response_format(body.get("response_format"))
    _refuse_unsupported(body)


def check_embeddings(body: Mapping[str, Any]) -> None:
    """Check an embeddings request; raises as ``check_chat`` does."""
    model_name(body)
    value = body.get("input")
    inputs = value if isinstance(value, list) else [value]
    if not inputs:
        raise InvalidInputError("'input' must not be empty.", param="input")
    if len(inputs) > _MAX_INPUTS:
        raise InvalidInputError(f"'input' holds {len(inputs)} texts; at most {_MAX_INPUTS} are allowed.", param="input")
    if all(isinstance(item, int | list) and not isinstance(item, bool) for item in inputs):
        raise UnsupportedParameterError("input", "Token arrays are not supported as 'input'; send text.")
    for index, item in enumerate(inputs):
        if not isinstance(item, str) or not item.strip():
            param = f"input.{index}" if isinstance(value, list) else "input"
            raise InvalidInputError(f"'{param}' must be a non-empty string.", param=param)
    if body.get("encoding_format") not in {None, "float", "base64"}:
        raise InvalidInputError("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    if body.get("dimensions") is not None:
        raise UnsupportedParameterError(
            "dimensions", "'dimensions' is not supported: a model's vectors have one length."
        )


def _check_number(body: Mapping[str, Any], key: str, least: float, most: float) -> None:
    value = body.get(key)
    if value is None:
        return
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not least <= value <= most:
        raise InvalidInputError(f"'{key}' must be a number from {least:g} to {most:g}.", param=key)


def _check_integer(body: Mapping[str, Any], key: str, least: int, most: int) -> None:
    value = body.get(key)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f"'{key}' must be an integer.", param=key)
    if value < least:
        raise InvalidInputError(f"'{key}' must be at least {least}.", param=key)
    if value > most:
        raise InvalidInputError(f"'{key}' must be at most {most}.", param=key)


def _check_stop(stop: object) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    if stops is None:
        return
    if not isinstance(stops, list) or not all(isinstance(item, str) and item for item in stops):
        raise InvalidInputError("'stop' must be a non-empty string or a list of them.", param="stop")
    if len(stops) > _MAX_STOPS:
        raise InvalidInputError(f"'stop' may hold at most {_MAX_STOPS} sequences.", param="stop")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidInputError("'messages' must be a non-empty list.", param="messages")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise InvalidInputError(f"'{where}' must be an object with 'role' and 'content'.", param=where)
        role = message.get("role")
        if role not in _ROLES:
            raise InvalidInputError(
                f"'{where}.role' must be one of {', '.join(sorted(_ROLES))}.", param=f"{where}.role"
            )
        _check_content(message, f"{where}.content")
        _check_calls(message.get("tool_calls"), f"{where}.tool_calls")
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise InvalidInputError(f"'{where}.tool_call_id' must be a string.", param=f"{where}.tool_call_id")


def _check_content(message: Mapping[str, Any], where: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant" and (message.get("tool_calls") or message.get("refusal")):
            return
        raise InvalidInputError(f"'{where}' must be a string or a list of parts.", param=where)
    if not isinstance(content, list) or not content:
        raise InvalidInputError(f"'{where}' must be a string or a non-empty list of parts.", param=where)
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        field = {"text": "text", "refusal": "refusal"}.get(kind) if isinstance(kind, str) else None
        if field is None:
            if isinstance(kind, str) and kind:
                raise UnsupportedParameterError(
                    f"{where}.{number}", f"Content parts of type '{kind}' are not supported here."
                )
            raise InvalidInputError(f"'{where}.{number}.type' must be 'text'.", param=f"{where}.{number}.type")
        if not isinstance(part.get(field), str):
            raise InvalidInputError(f"'{where}.{number}.{field}' must be a string.", param=f"{where}.{number}.{field}")


def _check_calls(calls: object, where: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidInputError(f"'{where}' must be a list.", param=where)
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidInputError(f"'{where}.{index}.function.name' must be a string.", param=f"{where}.{index}")
        if not isinstance(function.get("arguments", ""), str):
            raise InvalidInputError(
                f"'{where}.{index}.function.arguments' must be a string of JSON.", param=f"{where}.{index}"
            )


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    if not isinstance(tools, list | None):
        raise InvalidInputError("'tools' must be a list.", param="tools")
    names = set()
    for index, tool in enumerate(tools or ()):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise InvalidInputError(
                f'\'tools.{index}\' must be {{"type": "function", "function": {{"name": ...}}}}.',
                param=f"tools.{index}",
            )
        if not isinstance(function.get("parameters"), dict | None):
            raise InvalidInputError(
                f"'tools.{index}.function.parameters' must be a JSON Schema object.",
                param=f"tools.{index}.function.parameters",
            )
        names.add(name)
    choice = body.get("tool_choice")
    if choice is None or choice in ("none", "auto"):
        return
    if not names:
        raise InvalidInputError("'tool_choice' needs 'tools'.", param="tool_choice")
    if choice == "required":
        return
    chosen = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(chosen, dict) or chosen.get("name") not in names:
        raise InvalidInputError(
            "'tool_choice' must be 'none', 'auto', 'required' or name one of the tools.", param="tool_choice"
        )


def _check_response_format(wanted: object) -> None:
    if wanted is None:
        return
    if not isinstance(wanted, dict) or wanted.get("type") not in ("text", "json_object", "json_schema"):
        raise InvalidInputError(
            "'response_format.type' must be 'text', 'json_object' or 'json_schema'.", param="response_format.type"
        )
    if wanted["type"] == "json_schema":
        wrapper = wanted.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        if not isinstance(schema, dict):
            raise InvalidInputError(
                "'response_format.json_schema.schema' must be a JSON Schema object.",
                param="response_format.json_schema.schema",
            )


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for key, refused, reason in (
        ("n", (body.get("n") or 1) > 1, "'n' above 1 is not supported: send several requests instead."),
        ("logprobs", bool(body.get("logprobs")), "'logprobs' is not supported: the engine does not report them."),
        (
            "top_logprobs",
            bool(body.get("top_logprobs")),
            "'top_logprobs' is not supported: the engine does not report them.",
        ),
        ("logit_bias", bool(body.get("logit_bias")), "'logit_bias' is not supported by the engine."),
        (
            "frequency_penalty",
            bool(body.get("frequency_penalty")),
            "'frequency_penalty' other than 0 is not supported by the engine.",
        ),
        (
            "presence_penalty",
            bool(body.get("presence_penalty")),
            "'presence_penalty' other than 0 is not supported by the engine.",
        ),
    ):
        if refused:
            raise UnsupportedParameterError(key, reason)
