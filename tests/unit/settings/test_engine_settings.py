"""``engines`` and ``model_aliases``: what is taken, and what is refused with the path of the entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import ReplicaSettings, load_settings, route_groups

URL = "http://127.0.0.1:1"
EMPTY = {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}


def load(content: object, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_settings(path, EMPTY)


def test_an_engine_and_its_secrets(tmp_path):
    entry = {"name": "a", "url": f"{URL}/v1/", "api_key": "sk-secret", "headers": {"X-Team": "we"}, "weight": 2.0}
    (engine,) = load({"engines": [entry]}, tmp_path).engines
    assert (engine.url, engine.weight, engine.required, engine.models) == (URL, 2.0, True, None)
    assert engine.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(engine)


def test_the_forms_of_an_alias_lead_to_groups(tmp_path):
    aliases = {
        "one": "m",
        "chain": ["one", "b", "a::c"],
        "pool": {"replicas": ["a::m", {"model": "one", "weight": 3}], "fallbacks": ["chain"]},
    }
    settings = load({"engines": [{"name": "a", "url": URL}], "model_aliases": aliases}, tmp_path)
    groups = [[(r.model, r.weight) for r in group] for group in route_groups("pool", settings.model_aliases)]
    assert groups == [[("a::m", 1.0), ("m", 3.0)], [("m", 1.0)], [("b", 1.0)], [("a::c", 1.0)]]
    assert route_groups("other", settings.model_aliases) == [[ReplicaSettings(model="other")]]


def test_a_key_of_the_wrong_type_is_not_repeated(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load({"engines": [{"name": "a", "url": URL, "api_key": 12345}]}, tmp_path)
    assert caught.value.key == "engines.0.api_key"
    assert "12345" not in caught.value.message


def test_the_environment_takes_them_as_json():
    environ = EMPTY | {
        "FASTAPI_FOUNDRY__ENGINES": json.dumps([{"name": "a", "url": URL}]),
        "FASTAPI_FOUNDRY__MODEL_ALIASES": '{"x": "a::y"}',
    }
    settings = load_settings(environ=environ)
    assert (settings.engines[0].name, list(settings.model_aliases)) == ("a", ["x"])


@pytest.mark.parametrize(
    ("entries", "key", "reason"),
    [
        ([{"name": "a", "url": URL}, {"name": "a", "url": URL}], "engines.1.name", "is the name of engines.0 too"),
        ([{"name": "A b", "url": URL}], "engines.0.name", "small letters"),
        ([{"name": "foundry", "url": URL}], "engines.0.name", "Foundry Local itself"),
        ([{"name": "a", "url": "ftp://host"}], "engines.0.url", "http:// or https://"),
        ([{"name": "a", "url": "http://user:pw@host"}], "engines.0.url", "user name or password"),
        ([{"name": "a"}], "engines.0.url", "is missing"),
        ([{"name": "a", "url": URL, "key": 1}], "engines.0.key", "no such setting"),
        ([{"name": "a", "url": URL, "weight": 0}], "engines.0.weight", "above 0"),
        ([{"name": "a", "url": URL, "weight": "1"}], "engines.0.weight", "must be a number"),
        ([{"name": "a", "url": URL, "headers": {"Host": "x"}}], "engines.0.headers", "'Host' is not a header"),
        ([{"name": "a", "url": URL, "headers": {"X": "a\nb"}}], "engines.0.headers", "must not hold"),
        ([{"name": "a", "url": URL, "api_key": "k", "api_key_env": "K"}], "engines.0.api_key", "not both"),
        ([3], "engines.0", "must be an object"),
        ({"name": "a"}, "engines", "must be a list"),
    ],
)
def test_a_wrong_engine_is_refused_with_its_path(tmp_path, entries, key, reason):
    with pytest.raises(ConfigurationError) as caught:
        load({"engines": entries}, tmp_path)
    assert caught.value.key == key
    assert reason in caught.value.reason
    assert caught.value.source.endswith("config.json")


@pytest.mark.parametrize(
    ("aliases", "key", "reason"),
    [
        ({"a": ["b"], "b": "c", "c": ["x", "a"]}, "model_aliases.a", "a -> b -> c -> a"),
        ({"a": "a"}, "model_aliases.a", "write foundry::a"),
        ({"x": "b", "b": {"replicas": ["m"], "fallbacks": ["b"]}}, "model_aliases.x", "b -> b"),
        ({"a": "zz::q"}, "model_aliases.a", "not configured; there are: foundry"),
        ({"a": []}, "model_aliases.a.replicas", "at least 1"),
        ({"a": 3}, "model_aliases.a", "must be an object"),
        ({"a": {"replicas": ["x"], "fall": []}}, "model_aliases.a.fall", "no such setting"),
        ({"a::b": "x"}, "model_aliases.a::b", "'::'"),
        ({" ": "x"}, "model_aliases. ", "must not be empty"),
        (["x"], "model_aliases", "must be an object"),
    ],
)
def test_a_wrong_alias_is_refused_with_its_path(tmp_path, aliases, key, reason):
    with pytest.raises(ConfigurationError) as caught:
        load({"model_aliases": aliases}, tmp_path)
    assert caught.value.key == key
    assert reason in caught.value.reason
