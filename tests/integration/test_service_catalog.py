"""The online catalogue through the real engine, which is pointed at a catalogue on loopback."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import ask
from tests.support.processes import ProductProcess, service_process
from tests.support.waiting import eventually_sync


def entry(name: str, version: int, alias: str) -> dict[str, Any]:
    """One model in the form of Azure's catalogue, as far as the engine reads it."""
    return {
        "assetId": f"azureml://registries/azureml/models/{name}/versions/{version}",
        "entityId": f"{name}:{version}",
        "annotations": {
            "tags": {
                "alias": alias,
                "task": "chat-completion",
                "license": "MIT",
                "supportsToolCalling": "true",
                "maxOutputTokens": "2048",
            },
            "systemCatalogData": {
                "publisher": "Somebody",
                "displayName": name,
                "maxOutputTokens": 2048,
                "inferenceTasks": ["chat-completion"],
                "license": "MIT",
            },
        },
        "properties": {
            "name": name,
            "version": version,
            "variantInfo": {
                "parents": [{"assetId": "azureml://registries/azureml/models/parent/versions/1"}],
                "variantMetadata": {
                    "modelType": "ONNX",
                    "device": "cpu",
                    "executionProvider": "CPUExecutionProvider",
                    "fileSizeBytes": 3 * 1024 * 1024,
                },
            },
        },
    }


class CatalogHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        models = [entry("Small-Model-generic-cpu", 3, "small-model")]
        response = {"totalCount": 1, "value": models, "nextSkip": None, "continuationToken": None}
        body = json.dumps(response | {"indexEntitiesResponse": response}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def catalog_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CatalogHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/asset-gallery/v1.0/models"
    server.shutdown()
    thread.join()
    server.server_close()


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
