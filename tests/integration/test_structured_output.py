"""Structured answers of the demo model through the repairing engine: valid, or refused; never invalid with success."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fastapi_foundry.engines.base import Call
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.profile import known_profile
from fastapi_foundry.errors import InvalidInputError, StructuredOutputError
from fastapi_foundry.settings import FoundryAISettings, FoundryServiceSettings, Settings
from fastapi_foundry.wire.sse import SSEDecoder
from tests.support.http import ask
from tests.support.processes import ProductProcess

CHAT = "/v1/chat/completions"


def closed(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


TEXT, INTEGER, NUMBER, TRUTH = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
POINT = closed({"x": NUMBER, "y": NUMBER})
PERSON = closed({"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 130}, "email": TEXT}, ["name"])

# Of growing difficulty.
SCHEMAS: dict[str, dict[str, Any]] = {
    "one word of three": closed({"colour": {"enum": ["red", "green", "blue"]}, "sure": TRUTH}),
    "two free fields": closed({"title": TEXT, "count": INTEGER}),
    "numbers with bounds": closed(
        {
            "rating": {"type": "integer", "minimum": 1, "maximum": 5},
            "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "even": {"type": "integer", "multipleOf": 2, "minimum": -10, "maximum": 10},
        }
    ),
    "texts with bounds": closed(
        {
            "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "short": {"type": "string", "minLength": 2, "maxLength": 8},
            "day": {"type": "string", "format": "date"},
        }
    ),
    "optional fields": {
        "type": "object",
        "properties": {"name": TEXT, "nick": {"type": ["string", "null"]}, "age": INTEGER, "tags": {"type": "array"}},
        "required": ["name"],
    },
    "arrays": closed(
        {
            "words": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 4},
            "grid": {"type": "array", "items": {"type": "array", "items": NUMBER, "maxItems": 3}, "minItems": 1},
        }
    ),
    "nested objects": closed(
        {"order": closed({"id": INTEGER, "to": closed({"city": TEXT, "place": POINT}), "express": TRUTH})}
    ),
    "definitions": closed(
        {"author": {"$ref": "#/$defs/person"}, "readers": {"type": "array", "items": {"$ref": "#/$defs/person"}}},
        **{"$defs": {"person": PERSON}},
    ),
    "alternatives": closed(
        {
            "shape": {
                "oneOf": [
                    closed({"kind": {"const": "circle"}, "radius": {"type": "number", "exclusiveMinimum": 0}}),
                    closed({"kind": {"const": "path"}, "points": {"type": "array", "items": POINT, "minItems": 2}}),
                ]
            },
            "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 20}]},
        }
    ),
    "a tree with everything": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": closed(
                {
                    "name": {"type": "string", "minLength": 1},
                    "level": {"enum": ["low", "high", None]},
                    "scores": {"type": "array", "items": INTEGER, "minItems": 1, "uniqueItems": True},
                    "meta": {"type": "object", "additionalProperties": NUMBER},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 5},
                },
                ["name", "scores", "children"],
            )
        },
    },
}


@pytest.fixture
async def engine(shared_service, tmp_path: Path):
    settings = Settings(
        home=tmp_path,
        foundry_ai=FoundryAISettings(base_url=shared_service.url, discovery=False),
        foundry_service=FoundryServiceSettings(start="never", offline=True),
    )
    made = RepairingEngine(FoundryLocalEngine(settings), lambda: known_profile("ours"))
    await made.start()
    await made.wait_ready(20)
    yield made
    await made.aclose()


def request(schema: dict[str, Any], seed: int, **more: Any) -> dict[str, Any]:
    question = "Give me an example of such a thing, as JSON."
    return {
        "model": "foundry-demo",
        "messages": [{"role": "user", "content": question}],
        "seed": seed,
        "temperature": 1.0,
        "max_tokens": 256,
        "response_format": {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": schema}},
        **more,
    }


def call(body: dict[str, Any]) -> Call:
    return Call(CHAT, json.dumps(body).encode(), "r", known=body)


async def streamed_text(engine: RepairingEngine, body: dict[str, Any]) -> tuple[str, str]:
    decoder, text, finish_reason = SSEDecoder(), "", ""
    async with engine.stream(call(body | {"stream": True})) as stream:
        async for part in stream:
            for event in decoder.feed(part):
                if event.data == b"[DONE]":
                    continue
                for choice in json.loads(event.data)["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish_reason = choice["finish_reason"] or finish_reason
    return text, finish_reason


def test_hundred_answers_of_the_gateway_on_ten_schemas_are_valid_or_refused(shared_gateway: ProductProcess):
    outcomes: Counter[tuple[str, str]] = Counter()
    for name, schema in SCHEMAS.items():
        for seed in range(10):
            answer = ask(shared_gateway.url, CHAT, request(schema, seed))
            if answer.status == 422:
                assert answer.error["code"] == "structured_output_invalid"
                outcomes[name, "refused"] += 1
                continue
            assert answer.status == 200, answer.body
            choice = answer.json["choices"][0]
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
            closed_here = "response_format: brackets closed" in answer.headers.get("x-foundry-altered", "")
            assert choice["finish_reason"] == ("length" if closed_here else "stop")
            outcomes[name, "valid"] += 1
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "valid") >= 95, outcomes


async def test_streamed_answers_are_valid_or_end_with_an_error(engine):
    valid = 0
    for name, schema in SCHEMAS.items():
        for seed in (1, 2, 3):
            try:
                text, finish_reason = await streamed_text(engine, request(schema, seed))
            except StructuredOutputError:
                continue
            jsonschema.validate(json.loads(text), schema)
            assert finish_reason in {"stop", "length"}, name
            valid += 1
    assert valid >= 25


async def test_answer_that_the_token_limit_cuts_is_refused_with_that_reason(engine):
    with pytest.raises(StructuredOutputError, match="max_tokens"):
        await engine.post(call(request(SCHEMAS["nested objects"], 1, max_tokens=5)))


async def test_json_object_is_an_object(engine):
    body = request({}, 1) | {"response_format": {"type": "json_object"}}
    reply = await engine.post(call(body))
    assert isinstance(json.loads(json.loads(reply.body)["choices"][0]["message"]["content"]), dict)


async def test_several_choices_are_each_valid(engine):
    schema = SCHEMAS["numbers with bounds"]
    answer = json.loads((await engine.post(call(request(schema, 1, n=3)))).body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    for choice in answer["choices"]:
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)


@pytest.mark.parametrize(
    "schema",
    [{"type": "strange"}, {"$ref": "https://example.org/schema.json"}, {"$ref": "#/$defs/none"}, {"$ref": "#"}],
    ids=["no schema", "remote", "dangling", "endless"],
)
async def test_schema_that_cannot_be_used_names_the_parameter(engine, schema):
    with pytest.raises(InvalidInputError) as caught:
        await engine.post(call(request(schema, 1)))
    assert caught.value.param == "response_format.json_schema.schema"


async def test_plain_request_and_answer_pass_through_untouched(engine):
    body = {"model": "foundry-demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    reply = await engine.post(call(body))
    assert reply.notes.alterations == ()
