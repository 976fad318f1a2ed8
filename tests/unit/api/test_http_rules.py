"""What holds for every request, over a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.api import middleware
from fastapi_foundry.errors import EngineTimeoutError, EngineUnavailableError, QueueFullError
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def access_log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        type(middleware.logger), "log_api_request", lambda self, *arguments, **fields: seen.append(arguments)
    )
    return seen


async def raw(gateway: RunningGateway, request: bytes, *, read: int = 65536) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request)
    await writer.drain()
    async with asyncio.timeout(10):
        answer = await reader.read(read)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/nope", "/static/nope", "/api/v1/health", "/openapi.json", "/docs"]
)
async def test_every_answer_carries_its_id_its_role_and_nosniff(gateway: RunningGateway, path: str) -> None:
    headers = (await gateway.client.get(path)).headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-fastapi-foundry-role"] == "gateway"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_sane_request_id_is_kept_and_handed_to_the_engine(gateway: RunningGateway) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-1.2_3"})
    assert answer.headers["x-request-id"] == gateway.engine.calls[0].request_id == "mine-1.2_3"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, 'in"jection'])
async def test_an_insane_request_id_is_replaced(gateway: RunningGateway, bad: str) -> None:
    answer = await gateway.client.get("/api/v1/version", headers={"x-request-id": bad})
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nope", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1", 404), ("PUT", "/v1/models", 405)],
)
async def test_openais_envelope_is_used_for_everything_under_v1(
    gateway: RunningGateway, method: str, path: str, status: int
) -> None:
    answer = await gateway.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/v1/nope", 404), ("GET", "/api/v1/generate", 405), ("GET", "/nope", 404), ("POST", "/", 405)],
)
async def test_the_native_form_is_used_everywhere_else(
    gateway: RunningGateway, method: str, path: str, status: int
) -> None:
    answer = await gateway.client.request(method, path)
    body = answer.json()
    assert answer.status_code == body["status_code"] == status
    assert body["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/api/v1/health", "/docs", "/static/docs/docs.js", "/openapi.json"]
)
async def test_a_rebound_host_is_refused_on_every_path(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.client.get(path, headers={"host": "evil.example"})
    assert answer.status_code == 403
    assert "text/html" not in answer.headers["content-type"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
async def test_a_foreign_origin_may_change_nothing(gateway: RunningGateway, origin: str) -> None:
    for path in ("/v1/chat/completions", "/api/v1/generate", "/api/v1/models/m:1/load"):
        answer = await gateway.client.post(path, json=CHAT, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert gateway.engine.calls == []


async def test_our_own_pages_may_ask(gateway: RunningGateway) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT, headers={"origin": gateway.url})
    assert answer.status_code == 200


async def test_a_foreign_preflight_gets_no_permission(gateway: RunningGateway) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = await gateway.client.options("/v1/chat/completions", headers=headers)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_large_content_length_is_413_before_the_body_is_sent(gateway: RunningGateway) -> None:
    for path, form in ((b"/v1/chat/completions", b'{"error":{'), (b"/api/v1/generate", b'"status_code":413')):
        answer = await raw(
            gateway,
            b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 52428800\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert form in answer


async def test_a_chunked_body_is_413_as_soon_as_it_passes_the_limit(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, fastapi_server__max_body_bytes=2000) as gateway:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        piece = b"400\r\n" + b" " * 1024 + b"\r\n"
        answer = await raw(gateway, head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 2)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"body_too_large"' in answer


async def test_a_body_of_the_allowed_size_passes(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, fastapi_server__max_body_bytes=2000) as gateway:
        body = b'{"prompt":"hi"}'.ljust(2000)
        headers = {"content-type": "application/json"}
        assert (await gateway.client.post("/api/v1/generate", content=body, headers=headers)).status_code == 200
        assert (await gateway.client.post("/api/v1/generate", content=body + b" ", headers=headers)).status_code == 413


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json", ""]
)
async def test_json_under_another_content_type_is_refused(gateway: RunningGateway, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    for path in ("/v1/chat/completions", "/v1/embeddings", "/api/v1/generate", "/api/v1/generate/batch"):
        answer = await gateway.client.post(path, content=b'{"prompt":"hi"}', headers=headers)
        assert answer.status_code == 400
        assert "application/json" in answer.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/vnd.x+json",
    ],
)
async def test_json_is_taken_under_every_spelling_of_its_content_type(
    gateway: RunningGateway, content_type: str
) -> None:
    headers = {"content-type": content_type}
    answer = await gateway.client.post("/api/v1/generate", content=b'{"prompt":"hi"}', headers=headers)
    assert answer.status_code == 200


async def test_a_body_that_stalls_is_answered_and_logged_as_what_it_was(
    tmp_path: Path, access_log: list[tuple[Any, ...]]
) -> None:
    async with running_gateway(tmp_path, http_limits__body_idle_timeout_s=0.1) as gateway:
        answer = await raw(
            gateway,
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"model"',
        )
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_too_slow" in answer
        await eventually(lambda: len(access_log) == 1)
    assert access_log[0][2] == 408


async def test_large_bodies_are_held_up_to_a_bound_and_given_back(tmp_path: Path) -> None:
    held = 1_048_576
    async with running_gateway(
        tmp_path, http_limits__max_held_body_bytes=held, http_limits__body_idle_timeout_s=5.0
    ) as gateway:
        head = (
            b"POST /%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head % b"v1/chat/completions" + b" " * 800_000)
        await writer.drain()
        await asyncio.sleep(0.1)
        for path, code in ((b"v1/embeddings", b'"code":"overloaded"'), (b"api/v1/generate", b'"status_code":503')):
            answer = await raw(gateway, head % path + b" " * 400_000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer
            assert code in answer
        small = await gateway.client.post("/v1/chat/completions", json=CHAT)
        assert small.status_code == 200
        writer.write(b" " * 99_970 + json.dumps({"prompt": "hi"}).rjust(30).encode())
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 400 ")
        writer.close()
        body = b'{"prompt":"hi"}'.ljust(900_000)
        for _ in range(3):
            answer_ = await gateway.client.post(
                "/api/v1/generate", content=body, headers={"content-type": "application/json"}
            )
            assert answer_.status_code == 200


async def test_pages_have_a_strict_policy_and_json_needs_none(gateway: RunningGateway) -> None:
    page = (await gateway.client.get("/")).headers
    assert "default-src 'none'" in page["content-security-policy"]
    assert "unsafe" not in page["content-security-policy"]
    assert page["referrer-policy"] == "no-referrer"
    assert "content-security-policy" not in (await gateway.client.get("/v1/models")).headers


async def test_requests_are_logged_by_template_with_status_and_duration(
    gateway: RunningGateway, access_log: list[tuple[Any, ...]]
) -> None:
    for method, path in (
        ("GET", "/v1/models/m:1"),
        ("POST", "/api/v1/models/m:1/load"),
        ("GET", "/api/v1/health"),
        ("GET", "/nope/secret"),
        ("GET", "/static/docs/docs.js"),
        ("GET", "/"),
        ("GET", "/v1/embeddings"),
    ):
        await gateway.client.request(method, path)
    # A line is written when the request has ended, which the client may learn earlier.
    await eventually(lambda: len(access_log) == 7)
    logged = {(method, path, status) for method, path, status, _ in access_log}
    assert logged == {
        ("GET", "/v1/models/{model_id}", 200),
        ("POST", "/api/v1/models/{model_id}/load", 200),
        ("GET", "/api/v1/health", 200),
        ("GET", "(unmatched)", 404),
        ("GET", "/static/{path}", 200),
        ("GET", "/", 200),
        ("GET", "/v1/embeddings", 405),
    }
    assert all(0 < duration < 5 for *_, duration in access_log)


@pytest.mark.parametrize(
    ("fact", "openai", "native"),
    [
        (EngineUnavailableError("Not there.", url="http://127.0.0.1:50477"), 503, 503),
        (EngineTimeoutError("Silent.", limit_s=300.0), 504, 408),
        (QueueFullError("Full.", retry_after_s=2.0), 429, 429),
    ],
)
async def test_an_engines_failure_becomes_a_status_in_both_dialects_streamed_or_not(
    gateway: RunningGateway, fact: Any, openai: int, native: int
) -> None:
    gateway.engine.error = fact
    for stream in (False, True):
        answer = await gateway.client.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        assert answer.status_code == openai
        assert answer.headers["content-type"] == "application/json"
        answer = await gateway.client.post("/api/v1/generate", json={"prompt": "hi", "stream": stream})
        assert answer.status_code == answer.json()["status_code"] == native


async def test_a_crash_is_500_in_both_dialects_and_leaves_its_trace_in_the_log(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway.engine, "answer", lambda call: 1 / 0)
    with caplog.at_level(logging.ERROR):
        answer = await gateway.client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"]
    answer = await gateway.client.post("/api/v1/generate", json={"prompt": "hi"})
    assert (answer.status_code, answer.json()["error"]) == (500, "Internal server error")
    assert "ZeroDivisionError" in caplog.text


async def test_validation_never_answers_422(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/api/v1/health?level=cellar")
    assert (answer.status_code, answer.json()["error"], answer.json()["param"]) == (400, "Invalid input", "level")


async def test_a_client_that_leaves_while_it_sends_is_logged_as_gone(
    gateway: RunningGateway, access_log: list[tuple[Any, ...]]
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await eventually(lambda: len(access_log) == 1)
    assert access_log[0][2] == 499
    assert gateway.engine.calls == []


async def test_a_length_that_is_no_number_is_refused(gateway: RunningGateway) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n"
    assert (await raw(gateway, head)).startswith(b"HTTP/1.1 400 ")
