"""A client's schema made such that llguidance, the engine's grammar compiler, takes it and its answers end.

Measured through foundry-local-sdk 2.2.1 with the demo model:

- Keywords that the compiler does not know (``uniqueItems``, ``not``, ``if``, ``contains``, ...), formats that it does
  not know and ``oneOf`` fail the whole request. They are left out or widened here; the answer is checked against
  the client's own schema afterwards, so nothing is lost but the help of the grammar.
- It allows any run of white space between tokens, which small models follow to the token limit. The option
  ``whitespace_flexible: false`` of its extension ``x-guidance`` ends that.
- Strings, arrays, integers, fractions and recursion without a bound run to the token limit as well. Where asked to,
  ``narrowed`` gives them bounds. A narrowed schema allows nothing that the client's does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from fastapi_foundry.engines.repair.schema_walk import LISTS, MAPS, SINGLES, resolve_pointer

__all__ = ["TIGHT", "Bounds", "for_grammar", "generous", "narrowed"]

_GUIDANCE: Final = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
_KNOWN: Final = frozenset(
    {
        "$defs",
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "definitions",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "pattern",
        "patternProperties",
        "prefixItems",
        "properties",
        "required",
        "type",
    }
)
_KNOWN_FORMATS: Final = frozenset(
    {"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_SHORT_FORMATS: Final = frozenset({"date", "ipv4", "ipv6", "uuid"})
_DEFINITIONS: Final = ("$defs", "definitions")
_SHORT_NAME: Final = "^[A-Za-z][A-Za-z0-9_]{0,11}$"
_TIMESTAMP: Final = 30
_SIGNS: Final = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_MOST_NODES: Final = 2000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a narrowed schema sets where the client's sets nothing.

    Attributes:
        text: Most characters of a string.
        items: Most items of an array, and properties of a map, beyond those it needs.
        magnitude: Largest integer and, roughly, number.
        fraction: Step of a number.
        depth: How often a definition may occur inside itself.
        optional: Whether what need not come may come: properties that are not required, and items of arrays that
            have to differ from one another, beyond those that the schema demands.
    """

    text: int
    items: int
    magnitude: int
    fraction: float
    depth: int
    optional: bool = True


TIGHT: Final = Bounds(text=24, items=1, magnitude=10**6, fraction=0.01, depth=1, optional=False)


def generous(max_tokens: int) -> Bounds:
    """Bounds that an answer of ``max_tokens`` tokens meets by itself, unless it goes on for ever."""
    return Bounds(
        text=min(2000, max(24, max_tokens // 4)),
        items=min(24, max(3, max_tokens // 80)),
        magnitude=10**15,
        fraction=0.000001,
        depth=2,
    )


def for_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` without what the compiler refuses, and with compact white space."""
    return _plain(schema) | {"x-guidance": _GUIDANCE}


def narrowed(schema: Mapping[str, Any], bounds: Bounds) -> dict[str, Any] | None:
    """As ``for_grammar``, with bounds on everything that could go on for ever.

    Returns:
        None where the bounds would leave nothing, or the schema is too large to be unrolled.
    """
    try:
        made = _Narrowing(schema, bounds).schema(schema, _Place({}))
    except _TooLargeError:
        return None
    return made | {"x-guidance": _GUIDANCE} if isinstance(made, dict) else None


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` without what the compiler refuses."""
    plain: dict[str, Any] = {key: value for key, value in schema.items() if key in _KNOWN}
    if plain.get("format") not in _KNOWN_FORMATS:
        plain.pop("format", None)
    if not _simple_pattern(plain.get("pattern", "")):
        del plain["pattern"]
    if "oneOf" in schema and "anyOf" in plain:
        plain["allOf"] = [*plain.get("allOf", ()), {"anyOf": schema["oneOf"]}]
    elif "oneOf" in schema:
        plain["anyOf"] = schema["oneOf"]
    for key in plain.keys() & {*MAPS, *LISTS, *SINGLES}:
        plain[key] = _plain_inside(plain[key], key)
    return plain


def _plain_inside(inner: Any, key: str) -> Any:
    if key in MAPS:
        return {name: _plain_inside(each, "") for name, each in inner.items()}
    if key in LISTS:
        return [_plain_inside(each, "") for each in inner]
    return _plain(inner) if isinstance(inner, Mapping) else inner


def _simple_pattern(pattern: str) -> bool:
    # Word boundaries are matched by our own check and refused by the compiler.
    return "\\b" not in pattern and "\\B" not in pattern


class _TooLargeError(Exception):
    """The unrolled schema has more nodes than are worth compiling."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the walk a schema is.

    Attributes:
        opened: How often each reference has been followed on the way here.
        alone: Whether the schema decides alone; where it is one of several that all must hold, closing its objects
            would forbid the properties of the others.
    """

    opened: Mapping[str, int]
    alone: bool = True


class _Narrowing:
    """One walk over a schema, in which every reference is replaced by what it refers to."""

    def __init__(self, root: Mapping[str, Any], bounds: Bounds) -> None:
        self._root = root
        self._bounds = bounds
        self._nodes = 0

    def schema(self, schema: Any, place: _Place) -> dict[str, Any] | bool:
        """``schema`` with bounds; False when nothing would keep to it."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _TooLargeError
        if schema is True:
            return self._anything() if place.alone else True
        if not isinstance(schema, Mapping):
            return False
        if "$ref" in schema:
            return self._reference(schema, place)
        made = _plain({key: value for key, value in schema.items() if key not in _DEFINITIONS})
        if not made:
            return self._anything() if place.alone else True
        if "const" in made or "enum" in made:
            return {key: made[key] for key in ("const", "enum", "type") if key in made}
        several = len(made) > 1 or len(made.get("allOf", ())) > 1
        inside = _Place(place.opened, alone=place.alone and not several)
        for key in ("anyOf", "allOf"):
            if key in made:
                inner = [self.schema(each, inside) for each in made[key]]
                made[key] = [each for each in inner if each is not False]
                if not made[key] or (key == "allOf" and len(made[key]) < len(inner)):
                    return False
        combined = "anyOf" in made or "allOf" in made
        return self._typed(made, schema, inside if combined else place, combined=combined)

    def _reference(self, schema: Mapping[str, Any], place: _Place) -> dict[str, Any] | bool:
        reference = unquote(schema["$ref"])
        depth = place.opened.get(reference, 0)
        if depth > self._bounds.depth:
            return False
        beside = {key: value for key, value in schema.items() if key != "$ref" and key not in _DEFINITIONS}
        rest = _plain(beside)
        inside = _Place({**place.opened, reference: depth + 1}, alone=place.alone and not rest)
        inner = self.schema(resolve_pointer(self._root, reference), inside)
        if not rest or inner is False:
            return inner
        outer = self.schema(rest, _Place(place.opened, alone=False))
        return False if outer is False else {"allOf": [inner, outer]}

    def _typed(
        self, made: dict[str, Any], source: Mapping[str, Any], place: _Place, *, combined: bool
    ) -> dict[str, Any] | bool:
        types = made.get("type")
        names = [types] if isinstance(types, str) else list(types or (() if combined else _implied(made)))
        kept = [name for name in names if self._holds(name, made, source, place)]
        if names and not kept:
            return False
        if "string" in kept:
            self._string(made)
        if "integer" in kept or "number" in kept:
            self._number(made, whole="number" not in kept)
        return made | {"type": kept[0] if len(kept) == 1 else kept} if kept else made

    def _holds(self, name: str, made: dict[str, Any], source: Mapping[str, Any], place: _Place) -> bool:
        """Whether ``made``, given bounds here, leaves any value of the type ``name``."""
        if name == "object":
            return self._object(made, source, place)
        return self._array(made, source, place) if name == "array" else True

    def _anything(self) -> dict[str, Any]:
        text = {"type": "string", "maxLength": self._bounds.text}
        number = {"type": "integer", "minimum": -self._bounds.magnitude, "maximum": self._bounds.magnitude}
        return {"anyOf": [text, number, {"type": ["boolean", "null"]}]}

    def _object(self, made: dict[str, Any], source: Mapping[str, Any], place: _Place) -> bool:
        required = set(made.get("required", ()))
        others = made.get("additionalProperties", True)
        given = made.get("properties", {})
        wanted = (
            given
            if self._bounds.optional or not place.alone
            else {name: given[name] for name in given if name in required}
        )
        if place.alone:
            wanted = wanted | dict.fromkeys(required - given.keys(), others)
        inside = _Place(place.opened)
        properties = {name: self.schema(each, inside) for name, each in wanted.items()}
        if any(properties.get(name) is False for name in required):
            return False
        made["properties"] = {name: each for name, each in properties.items() if each is not False}
        if not place.alone:
            return True
        # A map: names of its own choice, which have no bound unless a pattern gives one.
        entries = self.schema(others, inside) if "additionalProperties" in made and not given else False
        patterns = {name: self.schema(each, inside) for name, each in made.pop("patternProperties", {}).items()}
        if entries is not False and not patterns:
            patterns = {_SHORT_NAME: entries}
        if kept := {name: each for name, each in patterns.items() if each is not False}:
            made["patternProperties"] = kept
            if not given:
                # The compiler can count properties where all of them are of the patterns.
                least = source.get("minProperties", 0)
                made["minProperties"] = least
                made["maxProperties"] = min(source.get("maxProperties", 2**31), least + self._bounds.items)
        made["additionalProperties"] = False
        return True

    def _array(self, made: dict[str, Any], source: Mapping[str, Any], place: _Place) -> bool:
        inside = _Place(place.opened)
        least = made.get("minItems", 0)
        first = [self.schema(each, inside) for each in made.get("prefixItems", ())]
        more = 0 if source.get("uniqueItems") and not self._bounds.optional else self._bounds.items
        most = min(made.get("maxItems", 2**31), max(least, len(first), 1) + more)
        if False in first:
            first = first[: first.index(False)]
            most = min(most, len(first))
        rest = self.schema(made.get("items", True), inside)
        if rest is False:
            most = min(most, len(first))
        for key in ("prefixItems", "items"):
            made.pop(key, None)
        made["maxItems"] = most
        if first:
            made["prefixItems"] = first
        if most > len(first):
            made["items"] = rest
        return bool(most >= least)

    def _string(self, made: dict[str, Any]) -> None:
        if made.get("format") in _SHORT_FORMATS:
            return
        room = _TIMESTAMP if made.get("format") in ("date-time", "time") else self._bounds.text
        made["maxLength"] = min(made.get("maxLength", 2**31), max(room, made.get("minLength", 0)))

    def _number(self, made: dict[str, Any], *, whole: bool) -> None:
        reach = self._bounds.magnitude
        low = made.get("minimum", made.get("exclusiveMinimum"))
        high = made.get("maximum", made.get("exclusiveMaximum"))
        if high is None:
            high = made["maximum"] = max(reach, math.ceil(low or 0) + reach)
        if low is None:
            low = made["minimum"] = min(-reach, math.floor(high) - reach)
        if not whole and "multipleOf" not in made and high > low:
            # A hundred steps at least, or a small interval would hold no multiple at all.
            made["multipleOf"] = min(self._bounds.fraction, 10.0 ** math.floor(math.log10((high - low) / 100)))


def _implied(made: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that a schema without ``type`` is about; one of them is as good as all that it allows."""
    for name, keys in _SIGNS.items():
        if any(key in made for key in keys):
            return (name,)
    return ()
