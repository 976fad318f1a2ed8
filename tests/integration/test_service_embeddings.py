"""Embeddings with the real engine, from a network that the demo model is turned into."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

import fastapi_foundry
from tests.support.embedding_model import make_embedding_model
from tests.support.http import ask, chat_body
from tests.support.processes import ProductProcess, service_process

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
EMBED = "/v1/embeddings"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    home = tmp_path_factory.mktemp("embedding-home")
    make_embedding_model(DEMO, home / "models" / "embedder-v2")
    with service_process(home) as process:
        yield process


def test_an_embedding_model_is_recognised_by_its_files(service: ProductProcess):
    card = ask(service.url, "/v1/models/embedder").json
    assert (card["id"], card["task"], card["max_output_tokens"]) == ("embedder:2", "embeddings", None)


def test_vectors_have_unit_length_and_keep_the_order_of_their_inputs(service: ProductProcess):
    texts = ["the first text", "something else", "a third"]
    together = ask(service.url, EMBED, {"model": "embedder", "input": texts}).json
    assert together["object"] == "list"
    assert together["model"] == "embedder:2"
    assert [entry["index"] for entry in together["data"]] == [0, 1, 2]
    for entry, text in zip(together["data"], texts, strict=True):
        vector = entry["embedding"]
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-4)
        (alone,) = ask(service.url, EMBED, {"model": "embedder", "input": text}).json["data"]
        assert sum(a * b for a, b in zip(vector, alone["embedding"], strict=True)) > 0.99


def test_base64_holds_the_same_numbers_as_floats(service: ProductProcess):
    floats, coded = (
        ask(service.url, EMBED, {"model": "embedder", "input": "same", "encoding_format": kind}).json["data"][0][
            "embedding"
        ]
        for kind in ("float", "base64")
    )
    raw = base64.b64decode(coded)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == floats


def test_the_openai_client_embeds(service: ProductProcess):
    client = OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="embedder", input=["a", "b"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == 256


def test_an_input_over_the_context_is_refused_with_both_numbers(service: ProductProcess):
    answer = ask(service.url, EMBED, {"model": "embedder", "input": ["short", "word " * 9000]})
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["param"] == "input"
    assert "4096" in answer.error["message"]
    assert ask(service.url, EMBED, {"model": "embedder", "input": "fine"}).status == 200


def test_an_embedding_model_cannot_chat(service: ProductProcess):
    answer = ask(service.url, "/v1/chat/completions", chat_body() | {"model": "embedder"})
    assert answer.status == 400
    assert "cannot chat" in answer.error["message"]
