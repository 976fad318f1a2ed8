from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastapi_foundry.daemon.store import ModelStore, write_json_atomically
from fastapi_foundry.errors import InvalidInputError, ModelNotFoundError
from tests.unit.daemon.test_model_files import model_directory


def named(name: str) -> dict[str, str]:
    return {"inference_model.json": json.dumps({"Name": name})}


def test_every_layout_gives_the_id_that_foundry_gives(tmp_path: Path):
    cache = tmp_path / "cache" / "models"
    model_directory(tmp_path / "models" / "plain")
    model_directory(tmp_path / "models" / "versioned-v4")
    model_directory(tmp_path / "models" / "Sub" / "v2")
    model_directory(cache / "Pub" / "one-3" / "v3")
    model_directory(cache / "Pub" / "two-7", **named("two:7"))
    model_directory(cache / "Pub" / "three-8" / "cpu", **named("three:8"))
    model_directory(cache / "Pub" / "four-9", **named("four"))
    model_directory(cache / "five-1", **named("five:1"))
    (tmp_path / "models" / "hollow").mkdir()
    models = ModelStore(tmp_path, None).scan()
    expected = {"plain:1", "versioned:4", "Sub:2", "one:3", "two:7", "three:8", "four:9", "five:1", "hollow:1"}
    assert set(models) == expected
    assert models["hollow:1"].problem == "The directory lacks 'genai_config.json'."
    assert all(not model.problem for name, model in models.items() if name != "hollow:1")


def test_a_name_means_the_newest_usable_version(tmp_path: Path):
    for version in (1, 2):
        model_directory(tmp_path / "models" / f"m-v{version}")
    (tmp_path / "models" / "m-v3").mkdir()
    store = ModelStore(tmp_path, None)
    store.scan()
    assert store.find("M").id == "m:2"
    assert store.find("m:3").problem
    assert store.find("catalogue name", {"catalogue name": "m:1"}).id == "m:1"
    with pytest.raises(ModelNotFoundError):
        store.find("n", {"n": "gone:1"})


def test_a_registry_of_garbage_is_an_empty_one(tmp_path: Path):
    for text in ("{", "[]", '{"models": 5}'):
        (tmp_path / "registered.json").write_text(text)
        assert ModelStore(tmp_path, None).scan() == {}


def test_a_registered_directory_that_vanishes_is_listed_as_unusable(tmp_path: Path):
    own = model_directory(tmp_path / "own")
    store = ModelStore(tmp_path / "home", None)
    assert store.register(str(own), None).id == "own:1"
    (own / "model.onnx").unlink()
    assert store.scan()["own:1"].problem == "The directory lacks 'model.onnx'."
    assert store.scan()["own:1"].task == "chat-completion"


def test_the_bundled_model_comes_first_and_stays(tmp_path: Path):
    bundled = model_directory(tmp_path / "bundled")
    model_directory(tmp_path / "models" / "foundry-demo")
    store = ModelStore(tmp_path, bundled)
    model = store.scan()["foundry-demo:1"]
    assert (model.source, model.path) == ("bundled", bundled)
    with pytest.raises(InvalidInputError):
        store.remove(model)


def test_removing_keeps_what_else_is_there(tmp_path: Path):
    cache = tmp_path / "cache" / "models" / "Pub"
    model_directory(cache / "a" / "v1")
    model_directory(cache / "a" / "v2")
    store = ModelStore(tmp_path, None)
    store.remove(store.scan()["a:1"])
    assert set(store.scan()) == {"a:2"}
    store.remove(store.scan()["a:2"])
    assert not cache.exists()
    assert cache.parent.exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path):
    target = tmp_path / "x.json"
    write_json_atomically(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomically(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
