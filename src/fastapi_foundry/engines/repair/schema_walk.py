"""Where in a JSON Schema (Draft 2020-12) further schemas are: data that looks like a schema is not taken for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["LISTS", "MAPS", "SINGLES", "resolve_pointer", "subschemas"]

MAPS: Final = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
"""Keywords whose value maps names to schemas."""

LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
"""Keywords whose value is a list of schemas."""

SINGLES: Final = (
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
"""Keywords whose value is one schema."""


def subschemas(schema: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """The schemas directly inside ``schema`` with their JSON pointers, in no particular order."""
    for key in MAPS:
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            for name, each in inner.items():
                yield f"{where}/{key}/{_escaped(name)}", each
    for key in LISTS:
        inner = schema.get(key)
        if isinstance(inner, list):
            for index, each in enumerate(inner):
                yield f"{where}/{key}/{index}", each
    for key in SINGLES:
        if key in schema:
            yield f"{where}/{key}", schema[key]


def resolve_pointer(root: Any, reference: str) -> Any:
    """What a local reference (``#``, ``#/...``) points to.

    Raises:
        LookupError: Nothing is there.
    """
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found[name]
        elif isinstance(found, list) and name.isdecimal():
            found = found[int(name)]
        else:
            raise LookupError(reference)
    return found


def _escaped(name: str) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
