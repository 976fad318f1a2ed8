"""``truncation: auto``: a conversation that is too long loses its oldest turns on its way to the engine, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.engines.base import Call, TokenCount
from tests.support.gateway import RunningGateway, running_gateway

PATH = "/v1/chat/completions"
TURNS = [{"role": role, "content": "word " * 100} for _ in range(4) for role in ("user", "assistant")]
LONG: dict[str, Any] = {"model": "m:1", "messages": [*TURNS, {"role": "user", "content": "Hello"}], "max_tokens": 100}


def by_words(call: Call) -> TokenCount:
    return TokenCount(sum(len(message["content"].split()) for message in call.parsed["messages"]), 512)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, cache__enabled=True) as running:
        running.engine.counts = by_words
        yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "headers"), [({"truncation": "auto"}, {}), ({}, {"x-foundry-truncation": "auto"})], ids=["body", "header"]
)
async def test_the_oldest_turns_are_left_out_and_the_answer_says_so(
    gateway: RunningGateway, body: dict[str, Any], headers: dict[str, str], stream: bool
) -> None:
    # With a temperature of 0 the answer might be kept; what was left out would not be told then.
    for _ in range(2):
        answer = await gateway.client.post(
            PATH, json=LONG | body | {"stream": stream, "temperature": 0}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-foundry-truncated"] == "messages=4; tokens=400"
        assert "x-foundry-cache" not in answer.headers
    sent = gateway.engine.calls[-1].parsed
    assert sent["messages"] == LONG["messages"][4:]
    assert "truncation" not in sent


async def test_without_it_nothing_is_left_out_and_the_field_is_not_for_the_engine(gateway: RunningGateway) -> None:
    for more in ({}, {"truncation": "disabled"}):
        answer = await gateway.client.post(PATH, json=LONG | more)
        assert "x-foundry-truncated" not in answer.headers
        assert gateway.engine.calls[-1].parsed == LONG


async def test_what_fits_is_left_alone(gateway: RunningGateway) -> None:
    short = LONG | {"messages": LONG["messages"][-1:]}
    answer = await gateway.client.post(PATH, json=short | {"truncation": "auto"})
    assert "x-foundry-truncated" not in answer.headers
    assert gateway.engine.calls[-1].parsed == short


async def test_another_word_is_refused(gateway: RunningGateway) -> None:
    answer = await gateway.client.post(PATH, json=LONG | {"truncation": "yes"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "truncation"
    assert not gateway.engine.calls


async def test_what_cannot_be_made_to_fit_is_refused_as_too_long(gateway: RunningGateway) -> None:
    message = {"role": "user", "content": "word " * 600}
    answer = await gateway.client.post(PATH, json=LONG | {"messages": [message], "truncation": "auto"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert not gateway.engine.calls
