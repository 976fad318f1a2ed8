"""What the routes answer, with the scripted engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_foundry import __version__
from fastapi_foundry.engines.base import EngineState
from fastapi_foundry.errors import CatalogUnavailableError, EngineFailedError
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually


async def test_the_model_list_has_openais_form(gateway: RunningGateway) -> None:
    body = (await gateway.client.get("/v1/models")).json()
    assert body["object"] == "list"
    first = {"id": "m:1", "object": "model", "created": 1, "owned_by": "tests", "state": "loaded"}
    assert body["data"][0] == first | {"alias": "m", "context_length": 512, "max_model_len": 512}


async def test_the_native_model_list_counts(gateway: RunningGateway) -> None:
    body = (await gateway.client.get("/api/v1/models")).json()
    assert (body["success"], body["count"], [model["id"] for model in body["models"]]) == (True, 2, ["m:1", "other:2"])


async def test_a_model_is_loaded_and_unloaded(gateway: RunningGateway) -> None:
    loaded = (await gateway.client.post("/api/v1/models/other/load")).json()
    assert loaded == {"success": True, "model": "other", "status": "loaded", "duration": 0.1, "memory_mb": 10.0}
    assert (await gateway.client.post("/api/v1/models/other/unload")).json()["status"] == "unloaded"


async def test_an_id_with_slashes_is_one_id(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/v1/models/publisher/name:1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "publisher/name:1" in answer.json()["error"]["message"]


async def test_a_batch_is_answered_in_order_with_a_problem_for_each_failure(gateway: RunningGateway) -> None:
    prompts = ["a", {"prompt": "b", "model": "zz"}, "c"]
    answer = await gateway.client.post("/api/v1/generate/batch", json={"prompts": prompts})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["success"], body["count"], body["failed"]) == (False, 3, 1)
    assert [result["index"] for result in body["results"]] == [0, 1, 2]
    assert [result["success"] for result in body["results"]] == [True, False, True]
    assert (body["results"][1]["status_code"], body["results"][1]["error"]) == (404, "Model not available")
    assert body["request_id"] == answer.headers["x-request-id"]


async def test_a_batch_that_is_too_long_is_refused_as_a_whole(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, fastapi_server__max_batch_prompts=2) as gateway:
        answer = await gateway.client.post("/api/v1/generate/batch", json={"prompts": ["a", "b", "c"]})
        assert (answer.status_code, answer.json()["param"]) == (400, "prompts")


async def test_the_report_on_health_is_200_whatever_it_says_and_a_probe_is_not(gateway: RunningGateway) -> None:
    gateway.engine.state, gateway.engine.reason = EngineState.ABSENT, "nothing found"
    report = await gateway.client.get("/api/v1/health")
    assert report.status_code == 200
    body = report.json()
    assert (body["status"], body["foundry_status"], body["models_count"]) == ("unhealthy", "disconnected", 0)
    assert (body["port"], body["version"]) == (gateway.port, __version__)
    assert body["foundry"]["reason"] == "nothing found"
    assert body["checks"]["model"]["status"] == "skipped"
    for level, status in (("gateway", 200), ("foundry", 503), ("model", 503)):
        answer = await gateway.client.get(f"/api/v1/health?level={level}")
        assert answer.status_code == status, level
        assert answer.json()["status"] == "unhealthy"


async def test_a_model_that_cannot_generate_fails_its_probe_alone(gateway: RunningGateway) -> None:
    gateway.engine.error = EngineFailedError("broken")
    assert (await gateway.client.get("/api/v1/health?level=foundry")).status_code == 200
    answer = await gateway.client.get("/api/v1/health?level=model")
    assert answer.status_code == 503
    assert answer.json()["checks"]["model"] == answer.json()["checks"]["model"] | {"status": "fail", "detail": "broken"}


async def test_the_engines_state_and_what_was_tried_are_shown(gateway: RunningGateway) -> None:
    body = (await gateway.client.get("/api/v1/foundry/status")).json()
    assert (body["state"], body["url"], body["found_by"]) == ("ready", "http://127.0.0.1:50477", "started")
    assert body["tried"] == [{"step": "base_url", "address": "", "outcome": "not set"}]


@pytest.mark.parametrize("known", [True, False])
async def test_the_default_model_is_loaded_at_start_and_failing_that_costs_nothing(tmp_path: Path, known: bool) -> None:
    model = "m:1" if known else "zz"
    async with running_gateway(tmp_path, foundry_ai__preload=True, foundry_ai__default_model=model) as gateway:
        assert gateway.engine.started
        if known:
            await eventually(lambda: gateway.engine.loaded == ["m:1"])
        assert (await gateway.client.get("/api/v1/version")).status_code == 200
    assert gateway.engine.closed


async def test_a_catalogue_that_is_offline_is_a_503_in_words(gateway: RunningGateway) -> None:
    gateway.engine.error = CatalogUnavailableError("The catalogue is not reachable.")
    answer = await gateway.client.post("/api/v1/models/m:1/load")
    assert (answer.status_code, answer.json()["error"]) == (503, "Catalogue unavailable")
