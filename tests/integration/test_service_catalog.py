"""The online catalogue through the real engine, which is pointed at a catalogue on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalog_server import running_catalog
from tests.support.http import ask
from tests.support.processes import ProductProcess, service_process
from tests.support.waiting import eventually_sync


@pytest.fixture
def catalog_url() -> Iterator[str]:
    with running_catalog() as url:
        yield url


@pytest.fixture
def service(foundry_home: Path, catalog_url: str) -> Iterator[ProductProcess]:
    env = {"FOUNDRY_OFFLINE": "0", "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__CATALOG_URLS": json.dumps([catalog_url])}
    with service_process(foundry_home, env=env) as process:
        yield process


def test_a_catalogue_that_answers_is_listed_cached_and_kept(service: ProductProcess, foundry_home: Path):
    catalog = ask(service.url, "/models/catalog?refresh=1").json
    assert catalog["status"] == "fresh"
    assert catalog["fetched_at"]
    (model,) = catalog["models"]
    assert model["id"] == "Small-Model-generic-cpu:3"
    assert model["alias"] == "small-model"
    assert model["size_mb"] == 3
    assert model["task"] == "chat-completion"
    assert model["device"] == "CPU"
    assert model["license"] == "MIT"
    assert model["cached"] is False
    assert (model["state"], model["percent"]) == ("available", None)
    cache = json.loads((foundry_home / "catalog-cache.json").read_text())
    assert cache["models"][0]["id"] == model["id"]


def test_the_first_look_answers_at_once_and_the_list_follows(service: ProductProcess):
    assert ask(service.url, "/models/catalog").json["status"] == "loading"
    catalog = eventually_sync(
        lambda: (view := ask(service.url, "/models/catalog").json)["status"] == "fresh" and view, timeout_s=10
    )
    assert catalog["models"]
    # The engine writes its device id and telemetry queue into a directory that goes with the worker.
    assert not (service.home / ".cache").exists()


def test_a_download_that_fails_says_so_and_leaves_no_usable_model(service: ProductProcess):
    ask(service.url, "/models/catalog?refresh=1")
    answer = ask(service.url, "/models/download", {"model": "small-model"}, timeout_s=60)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    *_, last = [json.loads(line) for line in answer.body.splitlines()]
    assert last["event"] == "error"
    assert last["error"]["code"] == "catalog_unavailable"
    assert "small-model" in last["error"]["message"]
    models = {model["id"]: model for model in ask(service.url, "/v1/models").json["data"]}
    broken = models.get("Small-Model-generic-cpu:3")
    assert broken is None or broken["state"] == "unusable"


def test_a_download_of_what_the_catalogue_lacks_is_not_found(service: ProductProcess):
    answer = ask(service.url, "/models/download", {"model": "no-such-model"}, timeout_s=60)
    *_, last = [json.loads(line) for line in answer.body.splitlines()]
    assert last["error"]["code"] == "model_not_found"
