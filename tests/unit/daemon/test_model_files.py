from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.daemon.model_files import fitting_id, inspect, is_id, split_id
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
    ("name", "parts"),
    [("a:3", ("a", 3)), ("a", ("a", 1)), ("Phi-4.1_x", ("Phi-4.1_x", 1)), ("4x:2147483647", ("4x", 2147483647))],
)
def test_ids_are_split_into_alias_and_version(name: str, parts: tuple[str, int]):
    assert split_id(name) == parts


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("", ""),
        (":1", ""),
        ("模型", ""),
        ("_a", "a"),
        ("a:", "a"),
        ("a:b", "a-b"),
        ("a b", "a-b"),
        ("../a", "a"),
        ("a:1:2", "a-1:2"),
        ("org/m:02", "org-m:2"),
        ("Modèle (neu)", "Mod-le-neu"),
        ("a:2147483648", "a-2147483648"),
        ("a" * 200, "a" * 128),
    ],
)
def test_what_the_engine_would_not_take_is_refused_with_the_rule_and_an_id_that_fits(name: str, suggestion: str):
    with pytest.raises(ModelFilesError) as caught:
        split_id(name)
    assert "[a-zA-Z0-9][a-zA-Z0-9._-]*" in caught.value.message
    assert caught.value.message.endswith(f"'{suggestion}' would do." if suggestion else "'my-model:1'.")
    assert caught.value.param == "name"
    assert fitting_id(name) == suggestion
    if suggestion:
        split_id(suggestion)


@pytest.mark.parametrize("name", ["a", "a:", "a:01", "a:1x", "a/b:1", "-a:1", "é:1", "a:2147483648"])
def test_what_the_engine_would_not_load_is_no_id(name: str):
    assert not is_id(name)
    assert is_id("a.b_c-d:0")
