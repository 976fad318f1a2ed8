"""The demonstration model as it ships: small, complete, and consistent with itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).resolve().parents[2] / "src" / "fastapi_foundry" / "demo_model"
MOST_BYTES = 8_000_000


def read_json(name: str) -> dict[str, Any]:
    return dict(json.loads((MODEL / name).read_text(encoding="utf-8")))


def byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte in a byte-level BPE (as defined for GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def test_model_is_at_most_8_mb() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "genai_config.json",
        "inference_model.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_engine_finds_its_file(name: str) -> None:
    assert (MODEL / name).stat().st_size > 0


def test_model_is_named_foundry_demo() -> None:
    assert read_json("inference_model.json")["Name"] == "foundry-demo"


def test_tokenizer_has_a_token_for_each_byte() -> None:
    vocabulary = read_json("tokenizer.json")["model"]["vocab"]
    assert set(byte_alphabet().values()) <= set(vocabulary)


def test_every_merge_makes_a_token() -> None:
    model = read_json("tokenizer.json")["model"]
    assert all("".join(merge) in model["vocab"] for merge in model["merges"])


@pytest.mark.parametrize("marker", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"])
def test_chat_and_tool_call_markers_are_single_tokens(marker: str) -> None:
    assert marker in {token["content"] for token in read_json("tokenizer.json")["added_tokens"]}


def test_engine_stops_at_the_end_of_a_turn_and_knows_the_tool_call_tokens() -> None:
    ids = {token["content"]: token["id"] for token in read_json("tokenizer.json")["added_tokens"]}
    model = read_json("genai_config.json")["model"]
    assert set(model["eos_token_id"]) == {ids["<|im_end|>"], ids["<|endoftext|>"]}
    assert (model["bot_token_id"], model["eot_token_id"]) == (ids["<tool_call>"], ids["</tool_call>"])


def test_every_token_id_is_below_the_vocabulary_size() -> None:
    tokenizer = read_json("tokenizer.json")
    size = read_json("genai_config.json")["model"]["vocab_size"]
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    assert sorted(ids) == list(range(size))


def test_context_holds_the_default_answer_and_a_prompt_of_2048_tokens() -> None:
    assert read_json("genai_config.json")["model"]["context_length"] >= 4096


def test_no_file_names_a_path_of_the_machine_that_built_it() -> None:
    for path in MODEL.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text
        assert "/home/" not in text
