"""A client's JSON Schema: checked once, within bounds, then used to check answers, within bounds.

Draft 2020-12 by the ``jsonschema`` library. Nothing is ever fetched. Schemas and answers are hostile until proven
otherwise: patterns run in linear time (Rust's regular expressions, which pydantic-core brings), every keyword that is
applied counts against a budget of steps and of time, and large documents are checked off the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import orjson
from pydantic_core import SchemaError

from fastapi_foundry.engines.repair.schema_keywords import (
    Budget,
    OverBudgetError,
    budget,
    library,
    matcher,
    shortened,
    validator_class,
)
from fastapi_foundry.engines.repair.schema_walk import subschemas
from fastapi_foundry.errors import InvalidInputError

__all__ = ["SCHEMA_PARAM", "Breach", "CheckedSchema", "prepare", "prepare_now"]

SCHEMA_PARAM: Final = "response_format.json_schema.schema"

_MAX_SCHEMA_BYTES: Final = 128 * 1024
_MAX_SCHEMAS: Final = 4000
_MAX_DEPTH: Final = 48
_MAX_STEPS: Final = 200_000
_MAX_CHECK_S: Final = 2.0
# About 5 ms, a step being one keyword at one place; ten nested objects take 40. What needs more leaves the event loop.
_MAX_STEPS_ON_LOOP: Final = 500
_KEPT_SCHEMAS: Final = 64


@dataclass(frozen=True, slots=True)
class Breach:
    """One rule that a value breaks.

    Attributes:
        words: Which place breaks which rule, for the client.
        rule: The schema's keyword.
        path: The place, from the outside in.
        expected: The keyword's value.
        instance: What is there instead.
    """

    words: str
    rule: str = ""
    path: tuple[str | int, ...] = ()
    expected: Any = None
    instance: Any = None


_TOO_DEEP: Final = Breach("the answer is nested too deeply or holds a number that is too large")


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """A schema that can be used, and the validator made of it.

    Attributes:
        schema: As the client gave it.
    """

    schema: Mapping[str, Any]
    _validator: Any = field(repr=False)

    async def breach(self, value: Any) -> Breach | None:
        """The first place where ``value`` breaks the schema; None when it keeps to it.

        A check that takes long is made again in a thread, so the event loop is held for milliseconds at most.
        """
        try:
            return self._breach(value, _MAX_STEPS_ON_LOOP)
        except OverBudgetError:
            return await asyncio.to_thread(self.breach_now, value)

    def breach_now(self, value: Any) -> Breach | None:
        """As ``breach``, in this thread; takes two seconds at most."""
        try:
            return self._breach(value, _MAX_STEPS)
        except OverBudgetError:
            return Breach("the answer cannot be checked against the schema within bounds")

    def _breach(self, value: Any, steps: int) -> Breach | None:
        token = budget.set(Budget(steps, time.monotonic() + _MAX_CHECK_S))
        try:
            error = next(self._validator.iter_errors(value), None)
        except (RecursionError, OverflowError):
            return _TOO_DEEP
        finally:
            budget.reset(token)
        return None if error is None else _as_breach(error)


_checked: OrderedDict[bytes, CheckedSchema] = OrderedDict()


async def prepare(schema: Mapping[str, Any], *, param: str = SCHEMA_PARAM) -> CheckedSchema:
    """Check a schema, or find it among those that were checked lately; a first check takes tens of milliseconds.

    Raises:
        InvalidInputError: It is no valid schema, too large, refers elsewhere, or uses what cannot be checked.
    """
    key = orjson.dumps(schema)
    known = _checked.get(key)
    if known is None:
        known = await asyncio.to_thread(_prepared, schema, key, param)
        _checked[key] = known
        while len(_checked) > _KEPT_SCHEMAS:
            _checked.popitem(last=False)
    else:
        _checked.move_to_end(key)
    return known


def prepare_now(schema: Mapping[str, Any], *, param: str = SCHEMA_PARAM) -> CheckedSchema:
    """As ``prepare``, in this thread and without remembering."""
    return _prepared(schema, orjson.dumps(schema), param)


def _prepared(schema: Mapping[str, Any], text: bytes, param: str) -> CheckedSchema:
    jsonschema = library()
    if len(text) > _MAX_SCHEMA_BYTES:
        raise InvalidInputError(f"The schema is larger than {_MAX_SCHEMA_BYTES} bytes.", param=param)
    # Where a document says that it lives elsewhere, its local references would mean that place.
    root = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    try:
        _check_form(root, param)
        jsonschema.Draft202012Validator.check_schema(root)
        checked = CheckedSchema(schema, validator_class()(root, registry=jsonschema.validators.referencing.Registry()))
        if checked.breach_now(None) is _TOO_DEEP:
            raise InvalidInputError("The schema refers to itself without end.", param=param)
    except jsonschema.SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)
        reason = shortened(error.message)
        raise InvalidInputError(f"The schema is not valid at '/{where}': {reason}.", param=param) from error
    except RecursionError as error:
        raise InvalidInputError("The schema is nested too deeply.", param=param) from error
    return checked


def _check_form(root: Mapping[str, Any], param: str) -> None:
    """Bounds on size and depth, references to schemas of this very document, patterns that can be run."""
    pending: list[tuple[str, Any, int]] = [("", root, 0)]
    references: list[tuple[str, str]] = []
    places = set()
    while pending:
        where, schema, depth = pending.pop()
        places.add(where)
        if len(places) > _MAX_SCHEMAS or depth > _MAX_DEPTH:
            bounds = f"at most {_MAX_SCHEMAS} schemas, nested {_MAX_DEPTH} deep, are allowed"
            raise InvalidInputError(f"The schema is too large: {bounds}.", param=param)
        if not isinstance(schema, Mapping):
            continue
        _check_keywords(schema, where, param)
        if isinstance(reference := schema.get("$ref"), str):
            references.append((where, reference))
        pending.extend((place, each, depth + 1) for place, each in subschemas(schema, where))
    for where, reference in references:
        if not reference.startswith("#") or unquote(reference[1:]) not in places:
            shown = shortened(reference)
            reason = f"must lead to a schema inside this one ('#/...'), which '{shown}' does not"
            raise InvalidInputError(f"'$ref' at '{where or '/'}' of the schema {reason}.", param=param)


def _check_keywords(schema: Mapping[str, Any], where: str, param: str) -> None:
    for key in ("$id", "$dynamicRef", "$anchor", "$dynamicAnchor"):
        if key in schema:
            raise InvalidInputError(f"'{key}' at '{where or '/'}' of the schema is not supported.", param=param)
    names = schema.get("patternProperties")
    for pattern in (schema.get("pattern"), *(names if isinstance(names, Mapping) else ())):
        if isinstance(pattern, str) and not _can_run(pattern):
            raise InvalidInputError(
                f"The pattern '{shortened(pattern)}' at '{where or '/'}' of the schema cannot be checked: it is not a "
                "regular expression, too large, or uses look-around or back references.",
                param=param,
            )
    if names and "unevaluatedProperties" in schema:
        raise InvalidInputError(
            f"'unevaluatedProperties' together with 'patternProperties' at '{where or '/'}' is not supported.",
            param=param,
        )


def _can_run(pattern: str) -> bool:
    try:
        matcher(pattern)
    except SchemaError:
        return False
    return True


def _as_breach(error: Any) -> Breach:
    path = tuple(error.absolute_path)
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    rule = error.validator or "false"
    words = f"'{shortened('$' + where)}' breaks '{rule}': {shortened(error.message)}"
    return Breach(words, rule, path, error.validator_value, error.instance)
