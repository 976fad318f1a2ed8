"""The model inside a double: deterministic, one token per word, and obedient enough to test with.

- ``echo: TEXT`` and ``repeat ...: TEXT`` are answered with TEXT, ``count to N`` with the numbers, anything else with a
  greeting.
- A JSON schema is answered with its smallest instance; a tool on offer is called.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Final

__all__ = [
    "SchemaError",
    "answer_to",
    "embedding",
    "instance_of",
    "last_text",
    "pieces",
    "prompt_tokens",
    "schema_in_prose",
    "text_of",
    "tool_arguments",
]

_TOKENS_PER_MESSAGE: Final = 4
_VECTOR_LENGTH: Final = 16
_TYPES: Final = {"object", "array", "string", "integer", "number", "boolean", "null"}


class SchemaError(Exception):
    """No grammar can be made of the schema; the message is the real engine's."""


def pieces(text: str) -> list[str]:
    """The tokens of a text: each word with the space before it."""
    return re.findall(r"\s*\S+", text)


def text_of(content: Any) -> str:
    """What a message says: its text parts, everything else is dropped in silence as the real engine does."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part.get("text", "") for part in parts if isinstance(part, dict) and part.get("type") == "text")


def prompt_tokens(messages: list[Any], tools: Any = None) -> int:
    """How long the prompt is."""
    words = sum(len(text_of(message.get("content")).split()) for message in messages)
    return words + _TOKENS_PER_MESSAGE * len(messages) + (len(json.dumps(tools).split()) if tools else 0)


def last_text(messages: list[Any]) -> str:
    """The text of the last message of the user or a tool."""
    said = [text_of(message.get("content")) for message in messages if message.get("role") in {"user", "tool"}]
    return said[-1] if said else ""


def answer_to(messages: list[Any]) -> str:
    """What the model says."""
    text = last_text(messages).strip()
    if said := re.match(r"(?:echo|repeat\b[^:]*):", text, re.IGNORECASE):
        return text[said.end() :].strip()
    if count := re.search(r"count to (\d+)", text, re.IGNORECASE):
        return " ".join(str(number) for number in range(1, int(count[1]) + 1))
    if messages and messages[-1].get("role") == "tool":
        return f"The tool says: {text}"
    return "Hello. I am a double and I answer everybody in the same way."


def tool_arguments(tool: dict[str, Any]) -> dict[str, Any]:
    """Arguments that fit a tool's parameters."""
    parameters = tool["function"].get("parameters")
    value = instance_of(parameters) if isinstance(parameters, dict) and parameters else {}
    return value if isinstance(value, dict) else {}


def schema_in_prose(messages: list[Any]) -> Any:
    """The JSON schema that a prompt spells out in words, or None: the way of engines without constrained decoding."""
    text = " ".join(text_of(message.get("content")) for message in messages)
    where = re.search(r"schema", text, re.IGNORECASE)
    start = text.find("{", where.end()) if where else -1
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    return value


def embedding(text: str) -> list[float]:
    """A vector of unit length, the same for the same text."""
    digest = hashlib.sha256(text.encode()).digest()[:_VECTOR_LENGTH]
    raw = [byte - 127.5 for byte in digest]
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]


def instance_of(schema: Any, root: Any = None) -> Any:
    """A small instance of ``schema``; ``True`` where it asks for nothing, as an unconstrained JSON value may be.

    Raises:
        SchemaError: The schema has an unknown type or reference.
    """
    root = schema if root is None else root
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        raise SchemaError("schema must be an object or boolean")
    if "$ref" in schema:
        return instance_of(_resolve(root, schema["$ref"]), root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return instance_of(schema[key][0], root)
    if schema.get("allOf"):
        merged: dict[str, Any] = {name: value for name, value in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            merged |= _resolve(root, part["$ref"]) if "$ref" in part else part
        return instance_of(merged, root)
    return _by_type(schema, root)


def _by_type(schema: dict[str, Any], root: Any) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind is not None and kind not in _TYPES:
        raise SchemaError(f"Invalid type: {kind}")
    if kind == "object" or (kind is None and "properties" in schema):
        return {name: instance_of(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        prefix = [instance_of(part, root) for part in schema.get("prefixItems", [])]
        wanted = max(schema.get("minItems", 1), len(prefix))
        return prefix + [instance_of(schema.get("items", True), root) for _ in range(wanted - len(prefix))]
    if kind == "string":
        return _text(schema)
    if kind in {"integer", "number"}:
        return _number(schema, whole=kind == "integer")
    return None if kind == "null" else True


def _text(schema: dict[str, Any]) -> str:
    known = {
        "date": "2024-02-29",
        "date-time": "2024-02-29T12:00:00Z",
        "email": "a@example.com",
        "uuid": "00000000-0000-4000-8000-000000000000",
    }
    text = known.get(schema.get("format", ""), "Paris")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", 10_000)]


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = low if low is not None else min(1, high if high is not None else 1)
    value = math.ceil(value / step) * step if whole or "multipleOf" in schema else value
    if value == schema.get("exclusiveMinimum"):
        value += step if whole or high is None else (high - value) / 2
    if value == schema.get("exclusiveMaximum"):
        value -= step
    return int(value) if whole else value


def _resolve(root: Any, reference: str) -> Any:
    value = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part and (not isinstance(value, dict) or part not in value):
            raise SchemaError(f"Pointer '{reference.removeprefix('#')}' does not exist")
        value = value[part] if part else value
    return value
