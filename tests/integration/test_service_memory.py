"""Models come and go by memory, time and wish: the service with real runners."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.http import LONG_ANSWER, Answer, ask, chat_body, event_stream
from tests.support.models import DEMO_DIRECTORY
from tests.support.processes import ProductProcess, service_process
from tests.support.waiting import eventually_sync

CHAT = "/v1/chat/completions"


@contextmanager
def service_with(home: Path, **settings: object) -> Iterator[ProductProcess]:
    """The service with these settings of its section, and the demo model under a second name."""
    env = {f"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__{key.upper()}": str(value) for key, value in settings.items()}
    with service_process(home, env=env) as service:
        ask(service.url, "/models/register", {"path": str(DEMO_DIRECTORY), "name": "second:1"})
        yield service


def chat(service: ProductProcess, model: str = "foundry-demo", **more: Any) -> Answer:
    return ask(service.url, CHAT, chat_body(max_tokens=2) | {"model": model} | more)


def card(service: ProductProcess, model: str = "foundry-demo") -> dict[str, Any]:
    return dict(ask(service.url, f"/v1/models/{model}").json)


def loaded(service: ProductProcess) -> list[str]:
    return list(ask(service.url, "/models/loaded").json)


def runners(service: ProductProcess) -> list[dict[str, Any]]:
    return list(ask(service.url, "/status").json["runners"])


def test_the_budget_lets_an_idle_model_make_room_and_remembers_what_was_measured(foundry_home: Path):
    with service_with(foundry_home, memory_budget_mb=140) as service:
        assert chat(service).status == 200
        status = ask(service.url, "/status").json
        assert status["models_memory_budget_mb"] == 140
        assert 50 < status["models_memory_mb"] < 140
        (first,) = status["runners"]
        assert first["memory_peak_mb"] >= first["memory_mb"] > 50
        assert chat(service, "second").status == 200
        assert loaded(service) == ["second:1"]
        assert not psutil.pid_exists(first["pid"])
        assert card(service)["memory_mb"] is None
        assert card(service)["memory_peak_mb"] >= first["memory_mb"] - 1
    book = json.loads((foundry_home / "model-memory.json").read_text())["models"]
    assert set(book) == {"foundry-demo:1", "second:1"}
    # Enough for the files' estimate, and less than what was measured.
    too_little = int(book["second:1"]["loaded_mb"]) - 1
    with service_with(foundry_home, memory_budget_mb=too_little) as service:
        refused = chat(service, "second")
        assert refused.status == 503
        assert "measured when it was last loaded" in refused.error["message"]


def test_what_can_never_fit_is_refused_with_the_numbers_and_nothing_is_started(foundry_home: Path):
    with service_with(foundry_home, memory_budget_mb=40) as service:
        refused = chat(service)
        assert refused.status == 503
        assert refused.error["code"] == "model_does_not_fit"
        assert "retry-after" not in refused.headers
        for words in ("estimated from its files", "budget for models is 40 MB", "memory_budget_mb"):
            assert words in refused.error["message"]
        assert ask(service.url, "/models/load/foundry-demo", method="POST").status == 503
        assert runners(service) == []


def test_a_pinned_model_stays_until_it_is_unloaded(foundry_home: Path):
    with service_with(foundry_home, max_loaded_models=1) as service:
        answer = ask(service.url, "/models/load/foundry-demo?pin=true", method="POST").json
        assert answer["pinned"] is True
        assert card(service)["pinned"] is True
        refused = chat(service, "second")
        assert refused.status == 503
        assert "pinned models hold every place" in refused.error["message"]
        assert "foundry-demo:1" in refused.error["message"]
        assert ask(service.url, "/models/load/foundry-demo?pin=sure", method="POST").error["param"] == "pin"
        ask(service.url, "/models/unload/foundry-demo", method="POST")
        assert chat(service, "second").status == 200


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """One that keeps a model for five minutes."""
    with service_with(tmp_path_factory.mktemp("home"), idle_unload_s=300) as process:
        yield process


class TestKeepAlive:
    def test_zero_unloads_after_the_request_and_the_memory_is_gone(self, service: ProductProcess):
        assert chat(service).status == 200
        (runner,) = runners(service)
        with event_stream(service.url, CHAT, chat_body(max_tokens=3, keep_alive=0)) as stream:
            assert stream.take(99)[-1] == "[DONE]"
        assert eventually_sync(lambda: not loaded(service))
        assert eventually_sync(lambda: not psutil.pid_exists(runner["pid"]))
        assert card(service)["expires_at"] is None

    def test_text_completions_take_it_too_after_their_last_prompt(self, service: ProductProcess):
        body = {"model": "foundry-demo", "prompt": ["a", "b"], "max_tokens": 1, "keep_alive": "0s"}
        assert ask(service.url, "/v1/completions", body).status == 200
        assert eventually_sync(lambda: not loaded(service))

    def test_the_expiry_is_shown_and_can_be_changed(self, service: ProductProcess):
        def left_s() -> float:
            expires = datetime.fromisoformat(card(service)["expires_at"])
            return (expires - datetime.now(UTC)).total_seconds()

        chat(service)
        assert 290 < eventually_sync(left_s) <= 300
        chat(service, keep_alive="10m")
        assert 590 < eventually_sync(left_s) <= 600
        loading = ask(service.url, "/models/load/foundry-demo?keep_alive=60", method="POST").json
        assert loading["expires_at"] == card(service)["expires_at"]
        assert 50 < left_s() <= 60
        ask(service.url, "/openai/load/foundry-demo?ttl=1000&ep=")
        assert 990 < left_s() <= 1000
        # Foundry Local 0.x: 0 leaves it as it is.
        ask(service.url, "/openai/load/foundry-demo?ttl=0")
        assert 990 < left_s() <= 1000
        chat(service, keep_alive=-1)
        assert eventually_sync(lambda: card(service)["state"] == "loaded")
        assert card(service)["expires_at"] is None

    def test_a_wrong_one_is_refused_by_name(self, service: ProductProcess):
        for refused in (
            chat(service, keep_alive="soon"),
            ask(service.url, "/v1/completions", {"model": "foundry-demo", "prompt": "a", "keep_alive": []}),
            ask(service.url, "/models/load/foundry-demo?keep_alive=x", method="POST"),
        ):
            assert refused.status == 400
            assert refused.error["param"] == "keep_alive"


def test_an_idle_model_is_unloaded_when_its_time_is_up(foundry_home: Path):
    with service_with(foundry_home, idle_unload_s=0.4) as service:
        assert chat(service).status == 200
        (runner,) = runners(service)
        assert eventually_sync(lambda: card(service)["state"] == "cached")
        assert eventually_sync(lambda: not psutil.pid_exists(runner["pid"]))
        assert chat(service).status == 200


def test_two_replicas_work_at_once_and_the_death_of_one_costs_only_its_own_requests(foundry_home: Path):
    with (
        service_with(foundry_home, model_replicas='{"foundry-demo": 2}', max_active_per_model=1) as service,
        event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as one,
    ):
        one.take(2)
        with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as two:
            two.take(2)
            first, second = runners(service)
            assert first["pid"] != second["pid"]
            assert (first["active"], second["active"]) == (1, 1)
            assert card(service)["replicas"] == 2
            one.take(5)
            os.kill(first["pid"], signal.SIGKILL)
            *_, last = one.payloads()
            assert json.loads(last)["error"]["code"] == "engine_failed"
            assert len(two.take(5)) == 5
        assert chat(service).status == 200
        assert first["pid"] not in {runner["pid"] for runner in runners(service)}


def test_after_a_failed_load_requests_are_told_to_come_back_and_a_load_is_a_load(foundry_home: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(DEMO_DIRECTORY, broken)
    whole = (broken / "model.onnx").read_bytes()
    with service_with(foundry_home) as service:
        ask(service.url, "/models/register", {"path": str(broken), "name": "broken:1"})
        (broken / "model.onnx").write_bytes(whole[:1000])
        failed = chat(service, "broken")
        assert failed.status == 503
        assert failed.headers["retry-after"] == "1"
        refused = chat(service, "broken")
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert "failed to load a moment ago" in refused.error["message"]
        assert str(tmp_path) not in refused.error["message"]
        (broken / "model.onnx").write_bytes(whole)
        assert ask(service.url, "/models/load/broken", method="POST").status == 200
        assert chat(service, "broken").status == 200
