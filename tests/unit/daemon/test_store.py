from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastapi_foundry.daemon.store import ModelStore, write_json_atomically
from fastapi_foundry.errors import InvalidInputError, ModelFilesError, ModelNotFoundError
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


def test_names_of_directories_are_made_to_fit(tmp_path: Path):
    cache = tmp_path / "cache" / "models"
    model_directory(tmp_path / "models" / "My model (new)")
    model_directory(tmp_path / "models" / "_other-v2")
    model_directory(cache / "Pub" / "some one-3" / "v3")
    model_directory(cache / "two", **named("Pub/two x:07"))
    model_directory(cache / "three:latest", **named("three:latest"))
    models = ModelStore(tmp_path, None).scan()
    assert set(models) == {"My-model-new:1", "other:2", "some-one:3", "two-x:7", "three-latest:1"}
    assert all(not model.problem for model in models.values())


def test_a_name_that_cannot_be_made_to_fit_is_a_problem_in_words(tmp_path: Path):
    own = model_directory(tmp_path / "models" / "模型")
    store = ModelStore(tmp_path, None)
    model = store.scan()["模型:1"]
    assert (model.files, model.version) == (None, 1)
    assert model.problem.endswith("Rename its directory.")
    with pytest.raises(ModelFilesError, match="No model id can be made of '模型', so give a name"):
        store.register(str(own), None)


def test_a_registered_name_is_the_users_own_or_made_to_fit(tmp_path: Path):
    store = ModelStore(tmp_path / "home", None)
    own = model_directory(tmp_path / "Qwen 2.5 (mine)")
    with pytest.raises(ModelFilesError, match="'org-m:2' would do") as caught:
        store.register(str(own), "org/m:2")
    assert caught.value.param == "name"
    assert store.scan() == {}
    assert store.register(str(own), None).id == "Qwen-2.5-mine:1"
    assert store.register(str(model_directory(tmp_path / "x", **named("Org/Its name:4"))), None).id == "Its-name:4"


def test_a_bad_id_that_is_registered_already_is_shown_and_leaves_when_its_directory_gets_a_good_one(tmp_path: Path):
    own = model_directory(tmp_path / "own")
    bad = dict.fromkeys(["org/m:2", "m:latest", "m:1:2"], str(own))
    (tmp_path / "registered.json").write_text(json.dumps({"models": bad}))
    store = ModelStore(tmp_path, None)
    models = store.scan()
    assert set(models) == set(bad)
    assert models["org/m:2"].problem.startswith("The engine does not take its id: a name begins with")
    assert models["org/m:2"].problem.endswith("Register it again, as 'org-m:2' for example.")
    assert store.find("M").problem  # several versions that are no numbers, none of which breaks the comparison
    store.remove(models["m:1:2"])
    assert set(store.scan()) == {"org/m:2", "m:latest"}
    assert store.register(str(own), "org-m:2").id == "org-m:2"
    assert set(store.scan()) == {"org-m:2"}


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
