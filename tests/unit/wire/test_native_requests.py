from __future__ import annotations

from typing import Any

import pytest

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.native import BatchRequest, GenerateRequest
from fastapi_foundry.wire.validation import validate


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "temperature": 5}, "temperature"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "stream": "no"}, "stream"),
        ({"prompt": "x", "model": ""}, "model"),
        ({"prompt": "x", "stop": [""]}, "stop.0"),
    ],
)
def test_generate_names_the_field_that_is_wrong(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(GenerateRequest, body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompts"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "x"}, "prompts"),
        ({"prompts": ["x", 5]}, "prompts.1"),
        ({"prompts": ["x", ""]}, "prompts.1"),
        ({"prompts": [{"prompt": "x", "temperature": 9}]}, "prompts.0.temperature"),
        ({"prompts": ["x"], "stream": True}, "stream"),
    ],
)
def test_batch_names_the_field_that_is_wrong(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(BatchRequest, body)
    assert caught.value.param == param


def test_batch_options_hold_for_every_prompt_that_has_none_of_its_own() -> None:
    batch = validate(
        BatchRequest, {"prompts": ["a", {"prompt": "b", "max_tokens": 5}], "max_tokens": 9, "temperature": 0.1}
    )
    items = batch.items()
    assert [(item.prompt, item.max_tokens, item.temperature) for item in items] == [("a", 9, 0.1), ("b", 5, 0.1)]
