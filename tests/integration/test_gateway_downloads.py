"""The catalogue and downloads through the gateway, in front of every kind of engine that can be asked for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalog_server import running_catalog
from tests.support.doubles import RunningDouble, running_double
from tests.support.http import ask, chat_body, event_stream
from tests.support.processes import ProductProcess, gateway_process
from tests.support.waiting import eventually_sync

CACHED, DISTANT = "phi-x-generic-cpu:2", "far-x-generic-cpu:1"
MODELS = (f"{CACHED},alias=phi-x,state=cached", f"{DISTANT},alias=far-x,state=catalog,size_mb=700")


def behind(double: RunningDouble) -> dict[str, str]:
    return {"FOUNDRY_BASE_URL": double.url, "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false"}


def online(catalog_url: str) -> dict[str, str]:
    urls = json.dumps([catalog_url])
    return {"FOUNDRY_OFFLINE": "0", "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__CATALOG_URLS": urls}


@pytest.fixture(params=["gen1", "gen2"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProductProcess]:
    with (
        running_double(request.param, tmp_path / "theirs", models=MODELS) as double,
        gateway_process(tmp_path / "ours", arguments=["--port", "0"], env=behind(double)) as gateway,
    ):
        wait_for_engine(gateway.url)
        yield gateway


def wait_for_engine(url: str) -> None:
    eventually_sync(lambda: ask(url, "/api/v1/models").status == 200, timeout_s=10)


def catalog_states(url: str) -> dict[str, str]:
    return {model["id"]: model["state"] for model in ask(url, "/api/v1/models/catalog").json["models"]}


def usable(url: str) -> set[str]:
    return {model["id"] for model in ask(url, "/api/v1/models").json["models"]}


def test_a_model_of_the_catalogue_is_downloaded_with_progress_and_then_answers(gateway: ProductProcess) -> None:
    assert catalog_states(gateway.url) == {CACHED: "cached", DISTANT: "available"}
    assert usable(gateway.url) == {CACHED}
    with event_stream(gateway.url, "/api/v1/models/far-x/download", {}) as stream:
        *steps, end = list(stream.events())
    percents = [step["percent"] for step in steps]
    assert {step["event"] for step in steps} == {"progress"}
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert len(percents) > 3
    assert end == {"event": "done", "model": DISTANT}
    assert catalog_states(gateway.url)[DISTANT] == "cached"
    assert usable(gateway.url) == {CACHED, DISTANT}
    answer = ask(gateway.url, "/v1/chat/completions", chat_body("echo: well", model=DISTANT))
    assert answer.json["choices"][0]["message"]["content"] == "well"


def test_the_catalogue_names_its_source_and_what_is_known_of_a_model(gateway: ProductProcess) -> None:
    body = ask(gateway.url, "/api/v1/models/catalog?refresh=true").json
    assert (body["success"], body["count"]) == (True, 2)
    assert body["sources"] == [{"engine": "foundry", "status": "fresh", "fetched_at": None, "reason": ""}]
    distant = next(model for model in body["models"] if model["id"] == DISTANT)
    assert (distant["alias"], distant["size_mb"], distant["device"], distant["engine"]) == (
        "far-x",
        700,
        "CPU",
        "foundry",
    )


def test_what_cannot_be_downloaded_is_refused_before_a_stream_begins(gateway: ProductProcess) -> None:
    unknown = ask(gateway.url, "/api/v1/models/no-such-model/download", {})
    assert (unknown.status, unknown.json["code"]) == (404, "model_not_found")
    assert "no-such-model" in unknown.json["detail"]
    nobody = ask(gateway.url, "/api/v1/models/nobody::far-x/download", {})
    assert (nobody.status, nobody.json["param"]) == (400, "model")
    assert "nobody" in nobody.json["detail"]
    cancelled = ask(gateway.url, "/api/v1/models/far-x/download/cancel", {})
    assert cancelled.status == 400
    assert "cancel" in cancelled.json["detail"]
    assert ask(gateway.url, "/api/v1/models/catalog?refresh=perhaps").status == 400


def test_the_third_generation_shows_its_catalogue_and_says_how_to_download(tmp_path: Path) -> None:
    with (
        running_double("gen3", tmp_path / "theirs", models=MODELS) as double,
        gateway_process(tmp_path / "ours", arguments=["--port", "0"], env=behind(double)) as gateway,
    ):
        wait_for_engine(gateway.url)
        assert catalog_states(gateway.url) == {CACHED: "cached", DISTANT: "available"}
        refused = ask(gateway.url, f"/api/v1/models/{DISTANT}/download", {})
        assert refused.status == 400
        assert "fastapi-foundry model download" in refused.json["detail"]


def test_our_service_offline_shows_why_there_is_no_catalogue(shared_gateway: ProductProcess) -> None:
    wait_for_engine(shared_gateway.url)
    body = ask(shared_gateway.url, "/api/v1/models/catalog").json
    assert [(source["engine"], source["status"]) for source in body["sources"]] == [("foundry", "offline")]
    assert "Offline mode" in body["sources"][0]["reason"]
    refused = ask(shared_gateway.url, "/api/v1/models/phi-4-mini/download", {})
    assert refused.status == 503
    assert "offline" in refused.json["detail"]
    # What is here already is done at once, offline or not.
    with event_stream(shared_gateway.url, "/api/v1/models/foundry-demo/download", {}) as stream:
        assert list(stream.events()) == [{"event": "done", "model": "foundry-demo:1"}]
    cancelled = ask(shared_gateway.url, "/api/v1/models/phi-4-mini/download/cancel", {})
    assert (cancelled.status, cancelled.json["code"]) == (400, "not_downloading")


def test_our_services_catalogue_and_a_download_that_fails(tmp_path: Path) -> None:
    with running_catalog() as url, gateway_process(tmp_path, arguments=["--port", "0"], env=online(url)) as gateway:
        wait_for_engine(gateway.url)
        body = ask(gateway.url, "/api/v1/models/catalog?refresh=true", timeout_s=30).json
        assert body["sources"][0]["status"] == "fresh"
        assert [(model["alias"], model["state"]) for model in body["models"]] == [("small-model", "available")]
        with event_stream(gateway.url, "/api/v1/models/small-model/download", {}, timeout_s=60) as stream:
            *steps, end = list(stream.events())
        assert all(step["event"] == "progress" for step in steps)
        assert (end["error"]["status_code"], end["error"]["code"]) == (503, "catalog_unavailable")
        assert "small-model" in end["error"]["detail"]
