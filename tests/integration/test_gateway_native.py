"""The native API with the real engine."""

from __future__ import annotations

import time

from tests.support.http import ask, event_stream
from tests.support.processes import ProductProcess

MODEL = "foundry-demo:1"


def test_generate_answers_with_text_usage_and_timing(shared_gateway: ProductProcess) -> None:
    answer = ask(shared_gateway.url, "/api/v1/generate", {"prompt": "What are you?"})
    body = answer.json
    assert answer.status == 200
    assert body["success"] is True
    assert body["content"]
    assert body["model"] == MODEL
    assert body["usage"]["total_tokens"] > 0
    assert body["finish_reason"] in {"stop", "length"}
    assert 0 < body["duration"] < 60
    assert body["request_id"] == answer.headers["x-request-id"]


def test_generate_streamed_is_what_it_is_unstreamed(shared_gateway: ProductProcess) -> None:
    body = {"prompt": "What are you?", "temperature": 0}
    whole = ask(shared_gateway.url, "/api/v1/generate", body).json
    with event_stream(shared_gateway.url, "/api/v1/generate", body) as stream:
        *pieces, end = list(stream.events())
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert len(pieces) > 1
    assert end["done"] is True
    assert end["usage"] == whole["usage"]
    assert end["finish_reason"] == whole["finish_reason"]


def test_a_batch_keeps_its_order_and_tells_which_item_failed(shared_gateway: ProductProcess) -> None:
    prompts = ["What are you?", {"prompt": "x", "model": "no-such-model"}, "word " * 20_000, "Hello"]
    answer = ask(shared_gateway.url, "/api/v1/generate/batch", {"prompts": prompts, "temperature": 0})
    body = answer.json
    assert answer.status == 200
    assert (body["success"], body["count"], body["failed"]) == (False, 4, 2)
    results = body["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3]
    assert [result["success"] for result in results] == [True, False, False, True]
    assert [results[1]["status_code"], results[2]["status_code"]] == [404, 400]
    assert results[2]["code"] == "context_length_exceeded"
    single = ask(shared_gateway.url, "/api/v1/generate", {"prompt": prompts[0], "temperature": 0}).json
    assert results[0]["content"] == single["content"]


def test_models_are_listed_with_their_states(shared_gateway: ProductProcess) -> None:
    body = ask(shared_gateway.url, "/api/v1/models").json
    assert body["success"] is True
    assert body["count"] == len(body["models"]) >= 1
    demo = next(model for model in body["models"] if model["id"] == MODEL)
    assert demo["demonstration"] is True
    assert demo["state"] in {"cached", "loading", "loaded", "in_use"}


def test_unload_and_load_show_in_the_list_at_once(shared_gateway: ProductProcess) -> None:
    def state() -> str:
        models = ask(shared_gateway.url, "/api/v1/models").json["models"]
        return str(next(model["state"] for model in models if model["id"] == MODEL))

    base = f"/api/v1/models/{MODEL}"
    assert ask(shared_gateway.url, f"{base}/load", method="POST").json["success"] is True
    assert state() == "loaded"
    assert ask(shared_gateway.url, f"{base}/unload", method="POST").json["status"] == "unloaded"
    assert state() == "cached"
    loaded = ask(shared_gateway.url, f"{base}/load", method="POST").json
    assert (loaded["status"], loaded["model"]) == ("loaded", MODEL)
    assert ask(shared_gateway.url, f"{base}/load", method="POST").json["status"] == "already_loaded"
    assert state() == "loaded"


def test_loading_an_unknown_model_is_404(shared_gateway: ProductProcess) -> None:
    answer = ask(shared_gateway.url, "/api/v1/models/no-such-model/load", method="POST")
    assert (answer.status, answer.json["error"]) == (404, "Model not available")


def test_health_has_three_levels(shared_gateway: ProductProcess) -> None:
    port = int(shared_gateway.url.rpartition(":")[2])
    for level in ("gateway", "foundry", "model"):
        answer = ask(shared_gateway.url, f"/api/v1/health?level={level}")
        body = answer.json
        assert answer.status == 200, body
        assert (body["status"], body["foundry_status"]) == ("healthy", "connected")
        assert body["checks"][level]["status"] == "pass"
        assert body["port"] == port
    assert body["models_count"] >= 1
    assert body["foundry"]["url"].startswith("http://127.0.0.1:")


def test_health_without_a_level_is_quick(shared_gateway: ProductProcess) -> None:
    begun = time.monotonic()
    assert ask(shared_gateway.url, "/api/v1/health").json["status"] == "healthy"
    assert time.monotonic() - begun < 1.0


def test_the_engine_and_how_it_was_found_are_shown(shared_gateway: ProductProcess) -> None:
    body = ask(shared_gateway.url, "/api/v1/foundry/status").json
    assert (body["state"], body["supervised"], body["found_by"]) == ("ready", True, "started")
    assert body["tried"]
