"""The gateway as a process: what it costs, how it starts, what it does when the engine is ill, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.http import LONG_ANSWER, ask, event_stream
from tests.support.processes import ProductProcess, children_of, gateway_process, product_environment
from tests.support.waiting import eventually_sync

CHAT = {"model": "foundry-demo:1", "messages": [{"role": "user", "content": "What are you?"}]}
FORBIDDEN = {
    "aiohttp", "azure", "foundry_local_sdk", "httpx", "httpx2", "numpy", "onnxruntime", "onnxruntime_genai", "openai",
    "optimum", "requests", "torch", "transformers", "typer", "rich",
}  # fmt: skip
IDLE_MB = 100


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[ProductProcess]:
    """A gateway that a test may hurt."""
    with gateway_process(tmp_path / "home", arguments=["--port", "0"]) as process:
        eventually_sync(lambda: health(process)["status"] == "healthy", timeout_s=30)
        yield process


def health(process: ProductProcess, query: str = "") -> dict[str, object]:
    return dict(ask(process.url, f"/api/v1/health{query}", timeout_s=15).json)


def port_of(process: ProductProcess) -> int:
    return int(process.url.rpartition(":")[2])


def service_of(process: ProductProcess) -> psutil.Process:
    status = ask(process.url, "/api/v1/foundry/status").json
    return psutil.Process(int(status["pid"]))


def test_the_application_imports_no_inference_stack_and_no_other_http_client() -> None:
    code = (
        "import sys; from fastapi_foundry.app import create_app; from fastapi_foundry.settings import Settings; "
        "create_app(Settings()).openapi(); print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert FORBIDDEN & set(out.stdout.split()) == set()


def test_an_idle_gateway_is_small(own_gateway: ProductProcess) -> None:
    for _ in range(20):
        assert ask(own_gateway.url, "/v1/chat/completions", CHAT | {"max_tokens": 2}).status == 200
    ask(own_gateway.url, "/openapi.json")
    assert psutil.Process(own_gateway.pid).memory_info().rss / 1e6 < IDLE_MB


def test_health_answers_within_a_second_while_the_engine_hangs(own_gateway: ProductProcess) -> None:
    service = service_of(own_gateway)
    service.suspend()
    try:
        for query in ("", "?level=gateway", "?level=foundry"):
            begun = time.monotonic()
            health(own_gateway, query)
            assert time.monotonic() - begun < 1.0, query
        begun = time.monotonic()
        report = health(own_gateway, "?level=model")
        assert time.monotonic() - begun < 10.0
        assert report["status"] == "degraded"
        assert health(own_gateway)["foundry_status"] == "disconnected"
    finally:
        service.resume()
    eventually_sync(lambda: health(own_gateway)["status"] == "healthy", timeout_s=30)


def test_a_client_that_leaves_stops_the_decode_in_the_runner(own_gateway: ProductProcess) -> None:
    def busy() -> int:
        url = str(ask(own_gateway.url, "/api/v1/foundry/status").json["url"])
        return sum(runner["active"] for runner in ask(url, "/status").json["runners"])

    with event_stream(own_gateway.url, "/v1/chat/completions", CHAT | LONG_ANSWER) as stream:
        next(iter(stream.events()))
        assert busy() == 1
    eventually_sync(lambda: busy() == 0, timeout_s=2)

    with socket.create_connection(("127.0.0.1", port_of(own_gateway))) as waiting:
        body = json.dumps(CHAT | LONG_ANSWER).encode()
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        waiting.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + body)
        eventually_sync(lambda: busy() == 1, timeout_s=5)
    eventually_sync(lambda: busy() == 0, timeout_s=2)


def test_sigterm_ends_the_gateway_its_service_and_its_runners(own_gateway: ProductProcess) -> None:
    assert ask(own_gateway.url, "/v1/chat/completions", CHAT | {"max_tokens": 1}).status == 200
    children = children_of(own_gateway.pid)
    assert children
    begun = time.monotonic()
    assert own_gateway.stop(15) == 0
    assert time.monotonic() - begun < 10
    eventually_sync(lambda: not any(child.is_running() for child in children), timeout_s=5)
    assert not (own_gateway.home / "daemon.json").exists()
    log = (own_gateway.home / "logs" / "fastapi-foundry.log").read_text(encoding="utf-8")
    assert re.search(r"gateway starting.*port=\d+", log)
    assert re.search(r"gateway stopped.*port=\d+", log)


def test_a_taken_port_is_passed_over_for_the_next_free_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with gateway_process(tmp_path / "home", arguments=["--port", str(port)]) as process:
            assert port_of(process) in range(9696, 9797)
            assert ask(process.url, "/api/v1/version").status == 200


def test_a_taken_port_is_an_error_that_names_it_when_another_may_not_be_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = product_environment(
            tmp_path, {"FASTAPI_FOUNDRY__PORT_MANAGEMENT__CONFLICT_RESOLUTION": "fail", "API_PORT": str(port)}
        )
        command = [sys.executable, "-m", "fastapi_foundry", "serve"]
        done = subprocess.run(command, capture_output=True, env=env, timeout=60, text=True, check=False)
    assert done.returncode != 0
    assert str(port) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_are_not_let_in_without_a_key_that_somebody_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastapi_foundry", "serve", "--host", "0.0.0.0", "--port", "0"]
    env = product_environment(tmp_path)
    done = subprocess.run(command, capture_output=True, env=env, timeout=60, text=True, check=False)
    assert done.returncode != 0
    assert "keys create" in done.stderr
    assert "FOUNDRY_ADMIN_KEY" in done.stderr
    assert "ffk_" not in done.stdout + done.stderr


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is delivered otherwise there")
def test_ctrl_c_ends_an_open_stream_with_a_clear_error(tmp_path: Path) -> None:
    env = {"FASTAPI_FOUNDRY__FASTAPI_SERVER__SHUTDOWN_TIMEOUT_S": "0.3"}
    with gateway_process(tmp_path / "home", arguments=["--port", "0"], env=env) as process:
        eventually_sync(lambda: health(process)["status"] == "healthy", timeout_s=30)
        with event_stream(process.url, "/v1/chat/completions", CHAT | LONG_ANSWER) as stream:
            next(iter(stream.events()))
            process.popen.send_signal(signal.SIGINT)
            events, seconds = stream.rest()
        assert events[-1]["error"]["code"] == "shutting_down"
        assert "[DONE]" not in events
        assert seconds < 3
        process.popen.wait(10)
