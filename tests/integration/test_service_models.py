"""Models on disk and in the catalogue, asked for through the service's routes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fastapi_foundry
from tests.support.http import Answer, ask, chat_body
from tests.support.processes import ProductProcess, service_process

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """One service for all tests here that bring models of their own names."""
    with service_process(tmp_path_factory.mktemp("models-home")) as process:
        yield process


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """A service that may dial out, on a network where its catalogue never answers."""
    env = {"FOUNDRY_OFFLINE": "0", "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__CATALOG_URLS": json.dumps([DEAD_CATALOG])}
    with service_process(tmp_path_factory.mktemp("online-home"), env=env) as process:
        yield process


# Nobody answers on this address, which is reserved for documentation.
DEAD_CATALOG = "http://192.0.2.1/asset-gallery/v1.0/models"


def listed(service: ProductProcess) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in ask(service.url, "/v1/models").json["data"]}


def timed(url: str, path: str, body: object = None) -> tuple[Answer, float]:
    started = time.monotonic()
    answer = ask(url, path, body)
    return answer, time.monotonic() - started


def lines_of(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]


class TestStore:
    def test_the_demo_model_is_listed_in_full(self, service: ProductProcess):
        card = listed(service)["foundry-demo:1"]
        assert card["object"] == "model"
        assert card["alias"] == "foundry-demo"
        assert card["state"] in {"cached", "loaded"}
        assert card["context_length"] == 4096
        assert card["task"] == "chat-completion"
        assert card["tool_calling"] is True
        assert card["demonstration"] is True
        assert card["source"] == "bundled"
        assert 0 < card["size_mb"] <= 8

    def test_both_layouts_of_the_store_are_read_and_models_in_them_answer(self, service: ProductProcess):
        shutil.copytree(
            DEMO, service.home / "models" / "plain-v3", ignore=shutil.ignore_patterns("inference_model.json")
        )
        cached = service.home / "cache" / "models" / "Publisher" / "Small-Model-2" / "v2"
        shutil.copytree(DEMO, cached, ignore=shutil.ignore_patterns("inference_model.json"))
        for name, full in (("plain", "plain:3"), ("small-model", "Small-Model:2")):
            body = ask(service.url, CHAT, chat_body(max_tokens=2) | {"model": name})
            assert body.status == 200
            assert body.json["model"] == full
        models = listed(service)
        assert models["plain:3"]["source"] == models["Small-Model:2"]["source"] == "store"
        assert models["plain:3"]["demonstration"] is False

    def test_removing_a_store_model_unloads_and_deletes_it(self, service: ProductProcess):
        directory = service.home / "cache" / "models" / "Author" / "gone" / "v1"
        shutil.copytree(DEMO, directory, ignore=shutil.ignore_patterns("inference_model.json"))
        ask(service.url, "/models/load/gone", method="POST")
        assert ask(service.url, "/models/remove", {"model": "gone"}).json["model"] == "gone:1"
        assert not (service.home / "cache" / "models" / "Author").exists()
        assert "gone:1" not in ask(service.url, "/models/loaded").json
        assert ask(service.url, "/v1/models/gone").status == 404

    def test_the_bundled_model_cannot_be_removed(self, service: ProductProcess):
        refused = ask(service.url, "/models/remove", {"model": "foundry-demo"})
        assert refused.status == 400
        assert (DEMO / "genai_config.json").exists()

    @pytest.mark.parametrize(
        ("missing", "named"),
        [
            ("genai_config.json", "genai_config.json"),
            ("model.onnx", "model.onnx"),
            ("tokenizer.json", "tokenizer.json"),
            (None, "download.tmp"),
        ],
    )
    def test_an_incomplete_model_is_unusable_and_says_what_is_missing(
        self, service: ProductProcess, missing: str | None, named: str
    ):
        directory = service.home / "models" / f"broken-{named}"
        shutil.copytree(DEMO, directory, ignore=shutil.ignore_patterns("inference_model.json", missing or "-"))
        if missing is None:
            (directory / "download.tmp").touch()
        card = listed(service)[f"broken-{named}:1"]
        assert card["state"] == "unusable"
        assert named in card["reason"]
        for answer in (
            ask(service.url, f"/models/load/broken-{named}", method="POST"),
            ask(service.url, CHAT, chat_body() | {"model": f"broken-{named}"}),
        ):
            assert answer.status == 400
            assert answer.error["code"] == "model_files_invalid"
            assert named in answer.error["message"]
            assert str(service.home) not in answer.error["message"]

    def test_an_onnx_file_of_garbage_is_a_clear_503_and_no_crash(self, service: ProductProcess):
        directory = service.home / "models" / "garbage"
        shutil.copytree(DEMO, directory, ignore=shutil.ignore_patterns("inference_model.json"))
        (directory / "model.onnx").write_bytes(b"this is no model" * 100)
        answer = ask(service.url, CHAT, chat_body() | {"model": "garbage"})
        assert answer.status == 503
        assert answer.error["code"] == "model_load_failed"
        assert str(service.home) not in answer.error["message"]
        assert ".cc" not in answer.error["message"]
        assert ask(service.url, CHAT, chat_body()).status == 200


class TestRegister:
    def test_a_registered_directory_answers_and_is_remembered(self, foundry_home: Path, tmp_path: Path):
        own = tmp_path / "my own model"
        shutil.copytree(DEMO, own)
        with service_process(foundry_home) as service:
            registered = ask(service.url, "/models/register", {"path": str(own), "name": "mine:7"})
            assert registered.json == {"model": "mine:7"}
            again = ask(service.url, "/models/register", {"path": str(own), "name": "mine:7"})
            assert again.json == {"model": "mine:7"}
            answer = ask(service.url, CHAT, chat_body(max_tokens=2) | {"model": "mine"})
            assert answer.json["model"] == "mine:7"
        with service_process(foundry_home) as service:
            assert listed(service)["mine:7"]["source"] == "registered"
            assert ask(service.url, "/models/remove", {"model": "mine"}).status == 200
            assert "mine:7" not in listed(service)
        assert (own / "model.onnx").exists()

    def test_a_directory_whose_name_is_no_id_gets_one_that_the_engine_takes(
        self, service: ProductProcess, tmp_path: Path
    ):
        own = tmp_path / "_Mein Modell (größer)"
        shutil.copytree(DEMO, own, ignore=shutil.ignore_patterns("inference_model.json"))
        registered = ask(service.url, "/models/register", {"path": str(own)})
        assert registered.json == {"model": "Mein-Modell-gr-er:1"}
        answer = ask(service.url, CHAT, chat_body(max_tokens=2) | {"model": "mein-modell-gr-er"})
        assert (answer.status, answer.json["model"]) == (200, "Mein-Modell-gr-er:1")
        assert ask(service.url, "/models/remove", registered.json).status == 200

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "path"),
            ({"path": 7}, "path"),
            ({"path": "relative/dir"}, "path"),
            ({"path": "/no/such/directory"}, "path"),
            ({"path": str(DEMO), "name": "bad name!"}, "name"),
            ({"path": str(DEMO), "name": "../up"}, "name"),
            ({"path": str(DEMO), "name": "org/model:1"}, "name"),
            ({"path": str(DEMO), "name": 5}, "name"),
        ],
    )
    def test_what_cannot_be_registered_is_refused(self, service: ProductProcess, body: dict[str, Any], param: str):
        refused = ask(service.url, "/models/register", body)
        assert refused.status == 400
        assert refused.error["param"] == param

    def test_an_empty_directory_and_a_taken_name_are_refused(self, service: ProductProcess, tmp_path: Path):
        empty = ask(service.url, "/models/register", {"path": str(tmp_path)})
        assert (empty.status, empty.error["code"]) == (400, "model_files_invalid")
        assert "genai_config.json" in empty.error["message"]
        own = tmp_path / "other"
        shutil.copytree(DEMO, own)
        taken = ask(service.url, "/models/register", {"path": str(own), "name": "foundry-demo:1"})
        assert (taken.status, taken.error["code"]) == (400, "model_exists")


class TestCatalogOffline:
    def test_offline_mode_is_named_as_the_reason(self, service: ProductProcess):
        for path in ("/models/catalog", "/models/catalog?refresh=1"):
            answer, took_s = timed(service.url, path)
            assert answer.json["status"] == "offline"
            assert "ffline" in answer.json["reason"]
            assert took_s < 0.5
        refused = ask(service.url, "/models/download", {"model": "phi-4-mini"})
        assert refused.status == 503
        assert refused.error["code"] == "catalog_unavailable"
        assert "FOUNDRY_OFFLINE" in refused.error["message"]

    def test_a_model_that_is_here_needs_no_download(self, service: ProductProcess):
        answer = ask(service.url, "/models/download", {"model": "foundry-demo"})
        assert lines_of(answer) == [{"event": "done", "model": "foundry-demo:1"}]

    def test_cancelling_what_does_not_run_is_refused(self, service: ProductProcess):
        refused = ask(service.url, "/models/download/cancel", {"model": "phi"})
        assert (refused.status, refused.error["code"]) == (400, "not_downloading")

    def test_a_list_from_an_earlier_day_is_shown_as_such(self, foundry_home: Path):
        model = {"id": "Phi-9:1", "alias": "phi-9", "display_name": "Phi 9", "size_mb": 9, "task": "chat-completion"}
        cache = {"fetched_at": 1_700_000_000.0, "models": [model]}
        (foundry_home / "catalog-cache.json").write_text(json.dumps(cache))
        with service_process(foundry_home) as service:
            catalog = ask(service.url, "/models/catalog").json
            assert catalog["fetched_at"] == "2023-11-14T22:13:20Z"
            assert catalog["models"][0]["cached"] is False
            missing = ask(service.url, CHAT, chat_body() | {"model": "phi-9"})
            assert missing.status == 404
            assert "downloaded" in missing.error["message"]
            load = ask(service.url, "/models/load/phi-9", method="POST")
            assert (load.status, load.error["code"]) == (400, "model_not_cached")


class TestCatalogUnreachable:
    def test_no_request_waits_for_a_catalogue_that_does_not_answer(self, unreachable: ProductProcess):
        for _ in range(2):
            catalog, took_s = timed(unreachable.url, "/models/catalog")
            assert catalog.json["status"] in {"loading", "unavailable"}
            assert took_s < 0.5
            models, took_s = timed(unreachable.url, "/v1/models")
            assert (models.status, took_s < 0.5) == (200, True)
            unknown, took_s = timed(unreachable.url, CHAT, chat_body() | {"model": "unknown"})
            assert (unknown.status, took_s < 0.5) == (404, True)
            chat, took_s = timed(unreachable.url, CHAT, chat_body(max_tokens=2))
            assert (chat.status, took_s < 1.5) == (200, True)
        chat, took_s = timed(unreachable.url, CHAT, chat_body(max_tokens=2))
        assert took_s < 0.3

    def test_a_refresh_waits_bounded_and_says_why_there_is_nothing(self, unreachable: ProductProcess):
        catalog, took_s = timed(unreachable.url, "/models/catalog?refresh=1")
        assert took_s < 20
        if catalog.json["status"] != "loading":
            assert catalog.json["status"] == "unavailable"
            assert catalog.json["reason"]

    def test_a_download_can_be_cancelled_while_the_network_stalls(self, unreachable: ProductProcess):
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(ask, unreachable.url, "/models/download", {"model": "phi-4-mini"})
            time.sleep(0.5)
            assert "phi-4-mini" in ask(unreachable.url, "/status").json["downloads"]
            cancelled, took_s = timed(unreachable.url, "/models/download/cancel", {"model": "phi-4-mini"})
            assert cancelled.json["status"] == "cancelled"
            assert took_s < 3
            *_, last = lines_of(pending.result(10))
        assert last["event"] == "error"
        assert "cancelled" in last["error"]["message"]
        assert ask(unreachable.url, "/status").json["downloads"] == {}
