"""How deep a body may be nested."""

from __future__ import annotations

import time

import orjson
import pytest

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.validation import parse_object


def nested(levels: int, opening: bytes, closing: bytes) -> bytes:
    """An object with ``levels`` levels in all, the innermost beside wide and shallow ones."""
    deep = opening * (levels - 2) + b"[]" + closing * (levels - 2)
    return b'{"wide":' + b'[[],[{}]],"deep":' + deep + b',"more":[' + b",".join([b"{}"] * 200) + b"]}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"b":1},', b"]")])
def test_128_levels_are_taken_and_one_more_is_named(opening: bytes, closing: bytes) -> None:
    assert parse_object(nested(128, opening, closing))["more"]
    with pytest.raises(InvalidInputError, match="more than 128 levels deep") as caught:
        parse_object(nested(129, opening, closing))
    assert caught.value.code == "json_too_deep"


def test_brackets_in_text_and_side_by_side_are_no_levels() -> None:
    assert parse_object(orjson.dumps({"text": "[{" * 5000, "side": [{}] * 5000}))


def test_the_look_at_the_levels_costs_less_than_twice_the_parser() -> None:
    body = orjson.dumps({"input": [[number, number + 1] * 50 for number in range(5000)]})
    parsing = min(_seconds(orjson.loads, body) for _ in range(5))
    both = min(_seconds(parse_object, body) for _ in range(5))
    assert both < 3 * parsing + 0.005


def _seconds(what: object, body: bytes) -> float:
    began = time.perf_counter()
    assert callable(what)
    what(body)
    return time.perf_counter() - began
