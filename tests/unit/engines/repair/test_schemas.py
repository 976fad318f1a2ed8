from __future__ import annotations

import asyncio
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_foundry.engines.repair.grammar_schema import TIGHT, for_grammar, generous, narrowed
from fastapi_foundry.engines.repair.schema_check import SCHEMA_PARAM, prepare, prepare_now
from fastapi_foundry.errors import InvalidInputError

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}, "v": {"type": "integer"}}, "required": ["v"]}
BOMB = {"d0": {"type": "integer"}} | {
    f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2} for level in range(1, 40)
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strange"}, "/type"),
        ({"$ref": "https://example.org/x"}, "inside this one"),
        ({"$ref": "#/$defs/none"}, "inside this one"),
        ({"$ref": "#/foo", "foo": {"type": "integer"}}, "inside this one"),
        ({"$ref": "#"}, "without end"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "without end"),
        ({"pattern": "(?=a)"}, "pattern"),
        ({"pattern": "[a-"}, "pattern"),
        ({"patternProperties": {"(a)\\1": {}}}, "pattern"),
        ({"properties": {"a": {"$id": "x"}}}, "$id"),
        ({"items": {"$dynamicRef": "#x"}}, "$dynamicRef"),
        ({"anyOf": [{"type": "integer"}] * 5000}, "too large"),
        ({"description": "x" * 200_000}, "larger than"),
        ({"properties": {"a": 3}}, "properties/a"),
    ],
)
def test_schema_that_cannot_be_used_is_the_clients_mistake(schema, words):
    with pytest.raises(InvalidInputError) as caught:
        prepare_now(schema)
    assert words in caught.value.message
    assert caught.value.param == SCHEMA_PARAM


def test_deep_nesting_is_refused():
    schema: dict = {}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(InvalidInputError, match="too large"):
        prepare_now(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 2}, 2, 1),
        ({"pattern": "^a+$"}, "aa", "b"),
        ({"uniqueItems": True}, [1, True, "1"], [1, 1.0]),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 2}], [{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]),
        ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"x1": 1}, {"x1": "a"}),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"x": 1}, {"y": 1}),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": "b"}),
        ({"$ref": "#/$defs/n", "$defs": {"n": NODE}}, {"v": 1, "next": {"v": 2}}, {"v": 1, "next": {}}),
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": "x"}, {"$ref": 1}),
        ({"$id": "https://example.org/s", "$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1, 2),
        ({"$defs": {"a b": {"const": 1}}, "$ref": "#/$defs/a%20b"}, 1, 2),
    ],
)
def test_values_are_held_to_the_schema(schema, good, bad):
    checked = prepare_now(schema)
    assert checked.breach_now(good) is None
    assert checked.breach_now(bad) is not None


def test_breach_names_place_and_rule():
    schema = {"properties": {"a": {"type": "array", "items": {"properties": {"n": {"maximum": 3}}}}}}
    breach = prepare_now(schema).breach_now({"a": [{"n": 1}, {"n": 9}]})
    assert breach is not None
    assert (breach.path, breach.rule, breach.expected, breach.instance) == (("a", 1, "n"), "maximum", 3, 9)
    assert breach.words == "'$.a[1].n' breaks 'maximum': 9 is greater than the maximum of 3"


def test_catastrophic_pattern_takes_linear_time():
    checked = prepare_now({"pattern": "^(a+)+$", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False})
    began = time.perf_counter()
    assert checked.breach_now("a" * 50_000 + "b") is not None
    assert checked.breach_now({"a" * 50_000 + "b": 1}) is not None
    assert time.perf_counter() - began < 1


async def test_exponential_schema_ends_within_its_bound_and_leaves_the_loop_free():
    checked = await prepare({"$ref": "#/$defs/d39", "$defs": BOMB})
    longest = 0.0

    async def heartbeat() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - began)

    task = asyncio.create_task(heartbeat())
    began = time.perf_counter()
    breach = await checked.breach("no integer")
    task.cancel()
    assert breach is not None
    assert "within bounds" in breach.words
    took = time.perf_counter() - began
    assert took < 8
    assert longest < max(1, took / 2)  # both grow on a machine that is busy with other things


async def test_schema_is_checked_once():
    schema = {"type": "object", "title": "checked once"}
    assert await prepare(schema) is await prepare(dict(schema))


def test_grammar_gets_no_keyword_that_it_does_not_know():
    schema = {
        "type": "object",
        "properties": {
            "uniqueItems": {"type": "array", "uniqueItems": True, "contains": {}, "items": {"not": {"type": "null"}}},
            "link": {"type": "string", "format": "uri"},
            "one": {"oneOf": [{"type": "integer"}, {"type": "string", "format": "date"}]},
        },
        "if": {"required": ["one"]},
        "then": {"required": ["link"]},
    }
    made = for_grammar(schema)
    assert made["properties"] == {
        "uniqueItems": {"type": "array", "items": {}},
        "link": {"type": "string"},
        "one": {"anyOf": [{"type": "integer"}, {"type": "string", "format": "date"}]},
    }
    assert "if" not in made
    assert made["x-guidance"]["whitespace_flexible"] is False


def test_narrowing_gives_bounds_and_unrolls_recursion():
    schema = {"$ref": "#/$defs/n", "$defs": {"n": NODE | {"additionalProperties": False}}}
    made = narrowed(schema, TIGHT)
    assert made is not None
    assert "$ref" not in str(made)
    assert made["properties"]["v"] == {"type": "integer", "maximum": 10**6, "minimum": -(10**6)}
    assert "next" not in made["properties"]
    wide = narrowed(schema, generous(400))
    assert "next" in wide["properties"]["next"]["properties"]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"$ref": "#/$defs/n", "$defs": {"n": NODE | {"required": ["v", "next"]}}},
    ],
    ids=["nothing", "impossible property", "endless"],
)
def test_schema_that_leaves_nothing_when_narrowed_is_not_narrowed(schema):
    assert narrowed(schema, TIGHT) is None


def test_schema_that_would_unroll_without_bound_is_not_narrowed():
    assert narrowed({"$ref": "#/$defs/d39", "$defs": BOMB}, generous(400)) is None


LEAVES = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "integer", "minimum": 5},
        {"type": "number", "maximum": 0.5, "minimum": 0.25},
        {"type": "string"},
        {"type": "string", "minLength": 30},
        {"enum": ["a", 1, None]},
        {"type": ["boolean", "null"]},
        {},
        True,
    ]
)


def _containers(inner):
    properties = st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
    return st.one_of(
        st.builds(
            lambda given, required: {
                "type": "object",
                "properties": given,
                "required": sorted(required & given.keys()),
            },
            properties,
            st.sets(st.sampled_from("abc")),
        ),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 4)),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
        st.builds(lambda one: {"type": "object", "additionalProperties": one, "maxProperties": 9}, inner),
    )


def _sample(schema):
    """One value that a narrowed schema allows, the simplest."""
    if schema is True or not set(schema) - {"x-guidance"}:
        return None
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _sample(schema["anyOf"][0])
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        made = {name: _sample(each) for name, each in schema["properties"].items()}
        names = ["alpha", "beta", "gamma"][: schema.get("maxProperties", 0)]
        return made | {
            name: _sample(each) for each in schema.get("patternProperties", {}).values() for name in names[:1]
        }
    if kind == "array":
        return [_sample(schema["items"])] * schema["maxItems"] if "items" in schema else []
    if kind == "string":
        return "x" * schema["maxLength"]
    if kind in ("integer", "number"):
        return schema["minimum"]
    return True if kind == "boolean" else None


@given(st.recursive(LEAVES, _containers, max_leaves=8), st.sampled_from([TIGHT, generous(256)]))
@settings(max_examples=60, deadline=None)
def test_whatever_a_narrowed_schema_allows_the_clients_allows(schema, bounds):
    if not isinstance(schema, dict):
        return
    made = narrowed(schema, bounds)
    if made is not None:
        jsonschema.Draft202012Validator(schema).validate(_sample(made))
