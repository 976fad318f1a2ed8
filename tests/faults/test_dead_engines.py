"""Two engines, one of them dead or slow: what the client sees of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cli import cli_in_a_pipe
from tests.support.doubles import RunningDouble, running_double
from tests.support.http import ask, event_stream
from tests.support.processes import ProductProcess, gateway_process
from tests.support.waiting import eventually_sync

MODEL = "phi-x-generic-cpu:2"
CHAT = "/v1/chat/completions"


@contextmanager
def gateway_over(tmp_path: Path, url: str, second: str, **settings: object) -> Iterator[ProductProcess]:
    """A gateway over Foundry at ``url`` and a second engine, which an alias names as the fallback."""
    config = {
        "foundry_ai": {"base_url": url, "default_model": MODEL, "preload": False},
        "engines": [{"name": "second", "url": second}],
        "model_aliases": {"chain": [f"foundry::{MODEL}", f"second::{MODEL}"]},
    } | settings
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    env = {"FASTAPI_FOUNDRY_CONFIG": str(path)}
    with gateway_process(tmp_path / "home", arguments=["--port", "0"], env=env) as gateway:
        eventually_sync(lambda: {entry["state"] for entry in engines(gateway)} == {"ready"}, timeout_s=20)
        yield gateway


def engines(gateway: ProductProcess) -> list[dict[str, Any]]:
    return list(ask(gateway.url, "/api/v1/foundry/status").json["engines"])


def body(model: str = "chain") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "echo: one"}], "max_tokens": 5}


def running(generation: str, home: Path, **more: Any) -> Any:
    return running_double(generation, home, models=[f"{MODEL},alias=phi-x,state=loaded"], **more)


def test_a_dead_engine_costs_nothing_once_it_is_known_and_the_answer_says_who_gave_it(tmp_path: Path) -> None:
    with (
        running("gen3", tmp_path / "a") as first,
        running("gen3", tmp_path / "b") as second,
        gateway_over(tmp_path, first.url, second.url) as gateway,
    ):
        first.crash()
        answer = ask(gateway.url, CHAT, body())
        assert answer.status == 200, answer.body
        assert answer.headers["x-foundry-engine"] == "second"
        assert answer.headers["x-foundry-fallback"].startswith(f"foundry::{MODEL}: ")
        with event_stream(gateway.url, CHAT, body()) as stream:
            assert stream.headers["x-foundry-engine"] == "second"
        eventually_sync(lambda: engines(gateway)[0]["state"] == "crashed", timeout_s=10)
        told = cli_in_a_pipe(gateway.home, "status", env={"FASTAPI_FOUNDRY_CONFIG": str(tmp_path / "config.json")}).out
        assert [word in told for word in ("Engines of the gateway:", "crashed", "second", "closed")] == [True] * 4, told
        normal, fallen = _milliseconds(gateway, f"second::{MODEL}", "chain")
        assert fallen - normal < 2.0, (fallen, normal)


def _milliseconds(gateway: ProductProcess, *models: str) -> list[float]:
    """The median of many requests for each, taken in turns so that what else the machine does meets all of them."""
    times: dict[str, list[float]] = {model: [] for model in models}
    for _ in range(60):
        for model in models:
            began = time.perf_counter()
            assert ask(gateway.url, CHAT, body(model)).status == 200
            times[model].append((time.perf_counter() - began) * 1000)
    return [statistics.median(taken) for taken in times.values()]


def test_a_wedged_engine_is_left_out_as_soon_as_it_is_known(tmp_path: Path) -> None:
    with (
        running("gen3", tmp_path / "a") as first,
        running("gen3", tmp_path / "b") as second,
        gateway_over(tmp_path, first.url, second.url) as gateway,
    ):
        first.freeze()
        eventually_sync(lambda: engines(gateway)[0]["state"] == "wedged", timeout_s=30)
        began = time.monotonic()
        assert ask(gateway.url, CHAT, body()).headers["x-foundry-engine"] == "second"
        assert time.monotonic() - began < 1.0
        assert first.popen.poll() is None  # what we did not start is never ended
        first.thaw()
        eventually_sync(lambda: engines(gateway)[0]["state"] == "ready", timeout_s=30)
        assert ask(gateway.url, CHAT, body()).headers["x-foundry-engine"] == "foundry"


def test_a_cold_model_is_waited_for_with_signs_of_life_and_no_breaker_opens(tmp_path: Path) -> None:
    """The bar is 30 s; here the load takes 3 s and a sign of life is due every 0.5 s, which tests the same."""
    cold = [f"{MODEL},alias=phi-x,state=cached"]
    with (
        running_double("gen3", tmp_path / "a", models=cold, load_s=3.0) as first,
        running("gen3", tmp_path / "b") as second,
        gateway_over(tmp_path, first.url, second.url, queue={"notice_s": 0.5}) as gateway,
        event_stream(gateway.url, CHAT, body(f"foundry::{MODEL}")) as stream,
    ):
        assert stream.status == 200
        raw = stream.text()
        assert raw.count(": loading\n\n") >= 3
        assert raw.endswith("data: [DONE]\n\n")
        assert engines(gateway)[0]["breaker"] == "closed"


def test_an_engine_that_says_that_it_is_loading_is_asked_again(tmp_path: Path) -> None:
    cold = [f"{MODEL},alias=phi-x,state=cached"]
    with (
        running_double("gen3", tmp_path / "a", models=cold) as first,
        running("gen3", tmp_path / "b") as second,
        gateway_over(tmp_path, first.url, second.url, queue={"notice_s": 0.3}) as gateway,
    ):
        _refuse_for(first, 2.0)
        with event_stream(gateway.url, CHAT, body(f"foundry::{MODEL}")) as stream:
            raw = stream.text()
        assert ": loading\n\n" in raw
        assert raw.endswith("data: [DONE]\n\n")
        assert engines(gateway)[0]["breaker"] == "closed"


def _refuse_for(double: RunningDouble, seconds: float) -> None:
    double.fault("slow_load", on="inference", seconds=seconds, meanwhile="refuse", on_demand=True)


def test_an_engine_that_nobody_listens_for_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"engines": [{"name": "gone", "url": "http://127.0.0.1:9"}]}), encoding="utf-8")
    outcome = cli_in_a_pipe(tmp_path, "serve", env={"FASTAPI_FOUNDRY_CONFIG": str(path)})
    assert outcome.code != 0
    assert "engines.0.url" in outcome.err
    assert outcome.err.count("\n") <= 2
