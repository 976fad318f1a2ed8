from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.daemon.model_files import inspect, split_id
from fastapi_foundry.errors import ModelFilesError

DECODER = {"filename": "model.onnx", "outputs": {"logits": "logits"}}


def model_directory(path: Path, config: Any = None, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    config = {"model": {"context_length": 64, "decoder": DECODER}} if config is None else config
    contents = {"genai_config.json": config if isinstance(config, str) else json.dumps(config)}
    contents |= {"model.onnx": "x", "tokenizer.json": "{}"} | files
    for name, text in contents.items():
        (path / name).write_text(text)
    return path


def test_a_complete_directory_tells_what_it_is(tmp_path: Path):
    template = {"chat_template.jinja": "{% if tools %}"}
    name = {"inference_model.json": '{"Name": "mine:4"}'}
    files = inspect(model_directory(tmp_path, **template, **name))
    assert (files.name, files.task, files.tool_calling, files.context_length) == ("mine:4", "chat-completion", True, 64)
    assert files.size_bytes > 0
    assert files.created > 0


def test_the_template_may_be_in_the_tokenizer_configuration(tmp_path: Path):
    assert inspect(
        model_directory(tmp_path / "a", **{"tokenizer_config.json": '{"chat_template": "tools"}'})
    ).tool_calling
    listed = '{"chat_template": [{"name": "tool_use", "template": "tools"}]}'
    assert inspect(model_directory(tmp_path / "b", **{"tokenizer_config.json": listed})).tool_calling
    assert not inspect(model_directory(tmp_path / "c", **{"tokenizer_config.json": "broken"})).tool_calling


def test_a_model_of_several_parts_needs_all_of_them(tmp_path: Path):
    pipeline = [{"embeddings": {"filename": "a.onnx"}}, {"head": {"filename": "b.onnx"}}, "odd"]
    config = {"model": {"decoder": {"pipeline": pipeline}, "vision": {"filename": "v.onnx"}}}
    with pytest.raises(ModelFilesError) as caught:
        inspect(model_directory(tmp_path, config, **{"a.onnx": "x"}))
    assert "'b.onnx', 'v.onnx'" in caught.value.message


def test_hidden_states_without_logits_mean_embeddings(tmp_path: Path):
    config = {
        "model": {"decoder": {"filename": "model.onnx", "outputs": {"hidden_states": "h"}}},
        "search": {"max_length": 9},
    }
    files = inspect(model_directory(tmp_path, config))
    assert (files.task, files.context_length) == ("embeddings", 9)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ({"model": 5}, "no object 'model'"),
        ({"model": {}}, "names no ONNX file"),
        (" " * (4 * 1024 * 1024 + 1), "too large"),
    ],
)
def test_a_wrong_configuration_is_described(tmp_path: Path, config: Any, words: str):
    with pytest.raises(ModelFilesError, match=words):
        inspect(model_directory(tmp_path, config))


def test_what_is_no_directory_is_refused(tmp_path: Path):
    with pytest.raises(ModelFilesError, match="no such directory"):
        inspect(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "parts"), [("a:3", ("a", 3)), ("a", ("a", 1)), ("Phi-4.1_x", ("Phi-4.1_x", 1)), ("org/m:2", ("org/m", 2))]
)
def test_ids_are_split_into_alias_and_version(name: str, parts: tuple[str, int]):
    assert split_id(name) == parts


@pytest.mark.parametrize("name", ["", ":1", "a:b", "a b", "../a", "a:1:2", "é", "a" * 200])
def test_what_cannot_be_an_id_is_refused(name: str):
    with pytest.raises(ModelFilesError):
        split_id(name)
