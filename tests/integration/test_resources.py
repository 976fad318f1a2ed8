"""The product's own appetite: memory at idle and the time from a start to a first token."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from tests.support.http import ask, event_stream
from tests.support.processes import ProductProcess, children_of, gateway_process

MEBIBYTE = 1024 * 1024
_GREETING = {
    "model": "foundry-demo:1",
    "messages": [{"role": "user", "content": "Hello"}],
}


def _service(gateway: ProductProcess) -> psutil.Process:
    return next(child for child in children_of(gateway.pid) if child.cmdline()[2:3] == ["fastapi_foundry.daemon"])


def test_the_gateway_needs_at_most_100_mb_and_the_service_90_mb(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "home") as gateway:
        for _ in range(20):
            assert ask(gateway.url, "/api/v1/health").status == 200
            with event_stream(gateway.url, "/v1/chat/completions", _GREETING) as stream:
                assert list(stream.events())[-1] == "[DONE]"
        gateway_mb = psutil.Process(gateway.pid).memory_info().rss / MEBIBYTE
        service_mb = _service(gateway).memory_info().rss / MEBIBYTE
    assert gateway_mb <= 100, gateway_mb
    assert service_mb <= 90, service_mb


def test_the_first_token_of_the_demo_model_comes_within_4_s_of_the_start(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        gateway_process(tmp_path / "home") as gateway,
        event_stream(gateway.url, "/v1/chat/completions", _GREETING) as stream,
    ):
        assert stream.status == 200
        for event in stream.events():
            if event["choices"][0]["delta"].get("content"):
                break
        seconds = time.monotonic() - began
    assert seconds <= 4.0, seconds
