from __future__ import annotations

import math

import pytest

from fastapi_foundry.daemon.keep_alive import parse_keep_alive, take_keep_alive
from fastapi_foundry.errors import InvalidInputError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        (-1, math.inf),
        (10**40, math.inf),
        (math.inf, math.inf),
        ("0", 0.0),
        ("300", 300.0),
        ("5m", 300.0),
        (" 1h30m ", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("-1", math.inf),
        ("-1m", math.inf),
        ("-0s", 0.0),
        ("900000h", math.inf),
    ],
)
def test_numbers_and_durations_mean_what_they_mean_to_ollama(value: object, seconds: float | None):
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "5 m", "5d", "m", "1h-3m", "nan", True, [], {}, "9" * 65, "\u0665m", math.nan]
)
def test_anything_else_is_refused_by_name(value: object):
    with pytest.raises(InvalidInputError) as caught:
        parse_keep_alive(value, param="ttl")
    assert caught.value.param == "ttl"


def test_the_engine_does_not_see_it():
    body = {"model": "m", "keep_alive": "5m"}
    assert take_keep_alive(body) == 300
    assert body == {"model": "m"}
