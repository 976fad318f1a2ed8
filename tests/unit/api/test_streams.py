"""Streams, and what happens to the engine's work when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.wire.sse import SSEDecoder
from tests.support.fake_engine import content_chunks
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def events(body: bytes) -> list[Any]:
    found = SSEDecoder().feed(body)
    return [event.data.decode() if event.data == b"[DONE]" else orjson.loads(event.data) for event in found]


async def post_and_leave(gateway: RunningGateway, path: str, body: dict[str, Any], *, read: bytes = b"") -> None:
    """Send a request, wait for ``read`` in the answer (or until the engine is at work), and hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    payload = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    if read:
        await asyncio.wait_for(reader.readuntil(read), 5)
    else:
        await eventually(lambda: gateway.engine.active > 0)
    writer.close()
    await writer.wait_closed()


def fall_silent_after_the_first_word(gateway: RunningGateway) -> None:
    async def scripted() -> AsyncIterator[bytes]:
        for chunk in content_chunks("Hel")[:2]:
            yield chunk
        await asyncio.Event().wait()

    gateway.engine._scripted = scripted  # type: ignore[method-assign]


async def test_a_stream_has_its_content_type_and_ends_with_done(gateway: RunningGateway) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"].startswith("no-cache")
    assert events(answer.content)[-1] == "[DONE]"


async def test_chunks_leave_when_they_arrive(gateway: RunningGateway) -> None:
    gateway.engine.gate = asyncio.Event()
    gateway.engine.gate.set()
    first, *rest = content_chunks("Hel", "lo.")
    gateway.engine.chunks = [first, *rest]
    async with gateway.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        pieces = answer.aiter_raw()
        gateway.engine.gate.clear()
        got = await asyncio.wait_for(anext(pieces), 2)
        assert got.startswith(first)
        gateway.engine.gate.set()
        got += b"".join([piece async for piece in pieces])
    assert events(got)[-1] == "[DONE]"


async def test_a_failure_after_the_headers_is_an_error_frame_and_no_done(gateway: RunningGateway) -> None:
    gateway.engine.chunks = [*content_chunks("Hel")[:2], b'data: {"hal', EngineFailedError("The engine died.")]
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 200
    got = events(answer.content)
    assert got[-1]["error"] == {
        "message": "The engine died.",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
    assert "[DONE]" not in got


async def test_a_crash_of_ours_in_a_stream_is_an_error_frame_that_tells_nothing(gateway: RunningGateway) -> None:
    gateway.engine.chunks = [*content_chunks("Hel")[:2], RuntimeError("secret")]
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert events(answer.content)[-1]["error"]["code"] == "internal_error"
    assert b"secret" not in answer.content


async def test_the_native_stream_reports_a_failure_in_the_form_of_its_errors(gateway: RunningGateway) -> None:
    gateway.engine.chunks = [*content_chunks("Hel")[:2], EngineFailedError("The engine died.")]
    answer = await gateway.client.post("/api/v1/generate", json={"prompt": "hi", "stream": True})
    got = events(answer.content)
    assert got[0] == {"content": "Hel"}
    assert got[-1]["error"]["status_code"] == 502
    assert got[-1]["error"]["detail"] == "The engine died."
    assert got[-1]["error"]["request_id"] == answer.headers["x-request-id"]
    assert not any(event.get("done") for event in got)


async def test_the_native_stream_ends_with_usage_reason_and_duration(gateway: RunningGateway) -> None:
    answer = await gateway.client.post("/api/v1/generate", json={"prompt": "hi", "stream": True})
    *pieces, end = events(answer.content)
    assert "".join(piece["content"] for piece in pieces) == "Hello."
    assert end["done"] is True
    assert end["usage"]["total_tokens"] == 7
    assert (end["finish_reason"], end["model"]) == ("stop", "m:1")
    assert end["duration"] > 0


async def test_an_engine_that_says_nothing_at_all_is_502(gateway: RunningGateway) -> None:
    gateway.engine.chunks = []
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 502


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/completions", {"model": "m", "prompt": "x"}),
        ("/v1/embeddings", {"model": "m", "input": "x"}),
        ("/api/v1/generate", {"prompt": "x"}),
        ("/api/v1/generate", {"prompt": "x", "stream": True}),
    ],
)
async def test_a_client_that_leaves_before_the_answer_ends_the_engines_work(
    gateway: RunningGateway, path: str, body: dict[str, Any]
) -> None:
    gateway.engine.gate = asyncio.Event()
    await post_and_leave(gateway, path, body)
    await eventually(lambda: gateway.engine.calls[0].cancelled and gateway.engine.active == 0, timeout_s=2)


async def test_a_client_that_leaves_a_batch_ends_every_item_of_it(gateway: RunningGateway) -> None:
    gateway.engine.gate = asyncio.Event()
    await post_and_leave(gateway, "/api/v1/generate/batch", {"prompts": ["a", "b", "c"]})
    await eventually(lambda: gateway.engine.active == 0, timeout_s=2)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/generate"])
async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_engines_work(
    gateway: RunningGateway, path: str
) -> None:
    fall_silent_after_the_first_word(gateway)
    await post_and_leave(gateway, path, CHAT | {"prompt": "x", "stream": True}, read=b"Hel")
    await eventually(lambda: gateway.engine.calls[0].cancelled and gateway.engine.active == 0, timeout_s=2)


async def test_nothing_is_left_behind_by_clients_that_leave(gateway: RunningGateway) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(20):
        gateway.engine.gate = asyncio.Event()
        await post_and_leave(gateway, "/v1/chat/completions", CHAT | {"stream": True})
        await eventually(lambda: gateway.engine.active == 0, timeout_s=2)
    await eventually(lambda: len(asyncio.all_tasks()) <= before, timeout_s=2)


async def test_what_runs_at_the_end_gets_its_time_and_then_a_clear_error(gateway: RunningGateway) -> None:
    gateway.engine.gate = asyncio.Event()
    waiting = asyncio.create_task(gateway.client.post("/v1/chat/completions", json=CHAT))
    await eventually(lambda: gateway.engine.active > 0)
    gateway.services.stopping.begin(0.1)
    refused = await gateway.client.post("/v1/chat/completions", json=CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert gateway.engine.calls[0].cancelled


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/generate"])
async def test_a_stream_that_runs_at_the_end_gets_an_error_frame(gateway: RunningGateway, path: str) -> None:
    fall_silent_after_the_first_word(gateway)
    async with gateway.client.stream("POST", path, json=CHAT | {"prompt": "x", "stream": True}) as answer:
        gateway.services.stopping.begin(0.05)
        body = b"".join([piece async for piece in answer.aiter_raw()])
    assert b"Hel" in body
    assert events(body)[-1]["error"]["code"] == "shutting_down"
