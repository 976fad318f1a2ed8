"""Bytes from outside to a validated model: one parse, one place that words what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from fastapi_foundry.errors import InvalidInputError

__all__ = ["describe_errors", "parse_object", "validate", "wrong_field"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_SHOWN_CHARS: Final = 300
_MAX_DEPTH: Final = 128  # what handles a body later may call itself once for each level; Python allows 1,000 calls
_CONTAINERS: Final = frozenset({dict, list})


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a request body that has to be one JSON object.

    Raises:
        InvalidInputError: When the body is empty, is not UTF-8, is not JSON (NaN and Infinity included), is
            nested more than 128 levels deep, or is JSON of another kind.
    """
    if not body:
        raise InvalidInputError("The request has no body; a JSON object is expected.", code="body_missing")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"The request body is not valid JSON: {error}", code="json_invalid") from error
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
        raise InvalidInputError(f"The request body must be a JSON object, not {kind}.", code="json_invalid")
    # Counting is a matter of microseconds, and few bodies have so many that a look at the levels is due.
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and _is_deeper_than(value, _MAX_DEPTH):
        raise InvalidInputError(f"The request body is nested more than {_MAX_DEPTH} levels deep.", code="json_too_deep")
    return value


def validate(model: type[ModelT], value: dict[str, Any]) -> ModelT:
    """Check ``value`` against ``model``.

    Raises:
        InvalidInputError: With ``param`` naming the first field that is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        message, param, code = describe_errors(error.errors(include_url=False), value)
        raise InvalidInputError(message, param=param, code=code) from error


def wrong_field(field: str, message: str) -> PydanticCustomError:
    """What a model's own validator raises about one of its fields, so that the field gets named."""
    return PydanticCustomError("wrong_field", "{message}", {"message": message, "field": field})


def describe_errors(errors: Sequence[Any], value: Any) -> tuple[str, str | None, str]:
    """Word Pydantic's errors about ``value``: the message, the field at fault, and a stable code.

    Where a field may be of several kinds Pydantic reports one error for each; those that came furthest
    into the value are what the caller meant.
    """
    located = [(_path(error, value), error) for error in errors]
    first = located[0][0]
    related = [(path, error) for path, error in located if path[: len(first)] == first]
    depth = max(len(path) for path, _ in related)
    path, chosen = next(item for item in related if len(item[0]) == depth)
    reasons = list(dict.fromkeys(_reason(error) for other, error in related if other == path))
    param = ".".join(map(str, path)) or None
    message = " ".join(reasons) if len(reasons) == 1 else " Or: ".join(reasons)
    code = "missing_required_parameter" if chosen["type"] == "missing" else "invalid_value"
    return (f"'{param}': {message}" if param else message), param, code


def _is_deeper_than(value: Any, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels):
        below: list[Any] = []
        for node in level:
            children = node.values() if type(node) is dict else node
            if not _CONTAINERS.isdisjoint(map(type, children)):
                below += [child for child in children if type(child) in _CONTAINERS]
        if not below:
            return False
        level = below
    return True


def _path(error: Any, value: Any) -> tuple[int | str, ...]:
    """The steps of the error's ``loc`` that exist in ``value``; the rest are names of Pydantic's own."""
    loc = error["loc"]
    path: list[int | str] = []
    for index, step in enumerate(loc):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            if error["type"] == "missing" and index == len(loc) - 1:
                path.append(step)
            continue
        path.append(step)
    if error["type"] == "wrong_field":
        path.append(error["ctx"]["field"])
    return tuple(path)


def _reason(error: Any) -> str:
    if error["type"] == "missing":
        return "This field is required."
    if error["type"] in {"model_type", "dict_type"}:
        return "Input should be an object."
    if error["type"] == "list_type":
        return "Input should be an array."
    text = str(error["msg"])
    if len(text) > _MAX_SHOWN_CHARS:
        text = text[:_MAX_SHOWN_CHARS] + "..."
    return text if text.endswith(".") else text + "."
