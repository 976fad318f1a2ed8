"""The keywords of JSON Schema as we run them: within a budget, patterns in linear time, nothing quadratic."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic_core import SchemaValidator, core_schema

__all__ = ["Budget", "OverBudgetError", "budget", "library", "matcher", "shortened", "validator_class"]

_STEPS_PER_LOOK: Final = 256
_MAX_SHOWN_CHARS: Final = 160


class OverBudgetError(Exception):
    """A check took more steps or more time than it may."""


@dataclass(slots=True)
class Budget:
    """What one check may still cost.

    Attributes:
        left: Steps, one for each keyword at each place.
        deadline: By the monotonic clock, in seconds.
    """

    left: int
    deadline: float

    def spend(self) -> None:
        """Count one step.

        Raises:
            OverBudgetError: It was one too many, or too late.
        """
        self.left -= 1
        if self.left < 0 or (self.left % _STEPS_PER_LOOK == 0 and time.monotonic() > self.deadline):
            raise OverBudgetError


budget: ContextVar[Budget] = ContextVar("structured_outputbudget")


@functools.lru_cache(maxsize=256)
def matcher(pattern: str) -> Callable[[Any], bool]:
    """Whether a text contains a match of ``pattern``, in time linear in the text."""
    matches: Callable[[Any], bool] = SchemaValidator(
        core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True)
    ).isinstance_python
    return matches


@functools.cache
def library() -> Any:
    """The library; importing it takes 0.1 s and 6 MB, so those alone pay who ask for structured answers."""
    return importlib.import_module("jsonschema")


@functools.cache
def validator_class() -> Any:
    """Draft 2020-12 with a budget on every keyword, and with those keywords replaced that may run away."""
    jsonschema = library()
    keywords = dict(jsonschema.Draft202012Validator.VALIDATORS) | {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    return jsonschema.validators.extend(
        jsonschema.Draft202012Validator, {name: _counted(keyword) for name, keyword in keywords.items()}
    )


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        budget.get().spend()
        yield from keyword(validator, value, instance, schema) or ()

    return counted


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not matcher(pattern)(instance):
        yield library().ValidationError(f"{_shown(instance)} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, schema in patterns.items():
        matches = matcher(pattern)
        for name, value in instance.items():
            if matches(name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    named = schema.get("properties", {})
    matchers = [matcher(pattern) for pattern in schema.get("patternProperties", {})]
    for name, value in instance.items():
        if name in named or any(matches(name) for matches in matchers):
            continue
        if allowed is False:
            yield library().ValidationError(f"{_shown(name)} is not among the properties that are allowed")
        elif validator.is_type(allowed, "object"):
            yield from validator.descend(value, allowed, path=name)


def _unique_items(validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if not wanted or not validator.is_type(instance, "array"):
        return
    seen = set()
    for item in instance:
        key = orjson.dumps(_normal(item), option=orjson.OPT_SORT_KEYS)
        if key in seen:
            yield library().ValidationError(f"{_shown(item)} occurs more than once")
            return
        seen.add(key)


def _normal(value: Any) -> Any:
    """JSON's numbers have no types: 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}
    return value


def _shown(value: Any) -> str:
    return shortened(repr(value))


def shortened(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
