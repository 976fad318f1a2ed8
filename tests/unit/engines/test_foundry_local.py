from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import orjson
import pytest

from fastapi_foundry.engines.base import Call, EngineState
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineTimeoutError,
    EngineUnavailableError,
    InvalidInputError,
    ModelLoadingError,
    ModelNotFoundError,
    QueueFullError,
)
from fastapi_foundry.settings import FoundryAISettings, FoundryServiceSettings, Settings
from tests.support.engine_double import EngineDouble
from tests.support.raw_server import raw_server
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
ASK = b'{"model": "double:1", "messages": []}'
STREAM = b'{"model": "double:1", "messages": [], "stream": true}'


@pytest.fixture
async def double():
    async with EngineDouble() as engine:
        yield engine


def settings_for(url: str, home, **ai) -> Settings:
    return Settings(
        home=home,
        foundry_ai=FoundryAISettings(base_url=url, **ai),
        foundry_service=FoundryServiceSettings(start_timeout_s=3.0, load_timeout_s=1.0),
    )


@pytest.fixture
async def engine(double, tmp_path):
    made = FoundryLocalEngine(settings_for(double.url, tmp_path, idle_timeout_s=0.3, first_byte_timeout_s=0.5))
    await made.start()
    await made.wait_ready(3)
    yield made
    await made.aclose()
    assert made._transport._client.open_connections == 0
    mine = [task for task in asyncio.all_tasks() if "fastapi_foundry" in repr(task.get_coro())]
    assert not mine


async def test_answer_passes_through_untouched(engine, double):
    reply = await engine.post(Call(CHAT, ASK, "r-1"))
    assert reply.body == b'{"id": "c1", "choices": [{"message": {"content": "one two three"}}]}'
    method, path, headers, body = double.seen[-1]
    assert (method, path, body) == ("POST", CHAT, ASK)
    assert headers["x-request-id"] == "r-1"
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers


async def test_stream_passes_through_untouched(engine):
    async with engine.stream(Call(CHAT, STREAM, "r-2")) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        data = b"".join([part async for part in stream])
    assert data.startswith(b'data: {"id": "c1", "choices": [{"delta": {"content": "one"}}]}\n\n')
    assert data.endswith(b"data: [DONE]\n\n")


async def test_models_become_cards_with_every_field(engine, double):
    double.models.append({"id": "bare:2"})
    first, second = await engine.list_models()
    assert (first.id, first.created, first.owned_by, first.state) == ("double:1", 7, "tests", "cached")
    assert first.extra == {"alias": "double"}
    assert (second.id, second.created, second.owned_by, second.state, second.extra) == ("bare:2", 0, "", "unknown", {})


async def test_load_and_unload_are_posts_to_our_service(engine, double):
    assert await engine.load_model("double:1") == {"status": "loaded", "model": "double:1"}
    assert await engine.unload_model("double:1") == {"status": "unloaded", "model": "double:1"}
    assert [(method, path) for method, path, _, _ in double.seen[-2:]] == [
        ("POST", "/models/load/double%3A1"),
        ("POST", "/models/unload/double%3A1"),
    ]


async def test_load_and_unload_are_gets_to_microsofts_service(tmp_path):
    async with EngineDouble(kind="gen3") as double:
        engine = FoundryLocalEngine(settings_for(double.url, tmp_path))
        await engine.start()
        assert (await engine.load_model("double:1"))["status"] == "loaded"
        await engine.aclose()


async def test_load_that_takes_too_long_is_a_time_out(engine, double):
    double.sticky_fault = "slow_load"
    with pytest.raises(EngineTimeoutError) as caught:
        await engine.load_model("double:1")
    assert caught.value.limit_s == 1.5, "half a second more than the service's own limit"


async def test_unknown_model_is_named(engine):
    with pytest.raises(ModelNotFoundError) as caught:
        await engine.post(Call(CHAT, b'{"model": "other"}'))
    assert (caught.value.model, caught.value.message) == ("other", "The model 'other' is unknown.")
    with pytest.raises(ModelNotFoundError):
        async with engine.stream(Call(CHAT, b'{"model": "other", "stream": true}')):
            pass
    with pytest.raises(ModelNotFoundError):
        await engine.load_model("other")


@pytest.mark.parametrize(
    ("fault", "error"),
    [("status_500", EngineFailedError), ("busy", QueueFullError)],
)
async def test_error_answers_become_facts_and_are_not_repeated(engine, double, fault, error):
    double.sticky_fault = fault
    with pytest.raises(error) as caught:
        await engine.post(Call(CHAT, ASK))
    assert "onnx.cc" not in caught.value.message
    assert double.counts[f"POST {CHAT}"] == 1
    if fault == "busy":
        assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("fault", ["close_before_head", "reset_before_head"])
async def test_request_of_which_no_byte_was_answered_is_repeated_once(engine, double, fault):
    double.faults.extend([fault])
    assert b"one two three" in (await engine.post(Call(CHAT, ASK))).body
    assert double.counts[f"POST {CHAT}"] == 2
    double.faults.extend([fault, fault, fault])
    with pytest.raises(EngineFailedError):
        await engine.post(Call(CHAT, ASK))
    assert double.counts[f"POST {CHAT}"] == 4


async def test_stream_of_which_no_byte_was_answered_is_repeated_once(engine, double):
    double.faults.append("close_before_head")
    async with engine.stream(Call(CHAT, STREAM)) as stream:
        assert b"[DONE]" in b"".join([part async for part in stream])


@pytest.mark.parametrize("fault", ["half_head", "half_json", "no_http"])
async def test_answer_that_had_begun_is_never_repeated(engine, double, fault):
    double.faults.append(fault)
    with pytest.raises(EngineFailedError):
        await engine.post(Call(CHAT, ASK))
    assert double.counts[f"POST {CHAT}"] == 1


@pytest.mark.parametrize("fault", ["close_mid_stream", "reset_mid_stream", "until_close_broken"])
async def test_stream_that_breaks_is_an_error_after_what_came(engine, double, fault):
    double.faults.append(fault)
    async with engine.stream(Call(CHAT, STREAM)) as stream:
        received = b""
        with pytest.raises(EngineFailedError):  # noqa: PT012 - what came before must not be lost
            async for part in stream:
                received += part
    assert b"one" in received
    assert double.counts[f"POST {CHAT}"] == 1


@pytest.mark.parametrize("fault", ["until_close", "error_mid_stream"])
async def test_stream_that_ends_in_order_is_no_error(engine, double, fault):
    double.faults.append(fault)
    async with engine.stream(Call(CHAT, STREAM)) as stream:
        data = b"".join([part async for part in stream])
    assert (b"[DONE]" in data) is (fault == "until_close")


async def test_silence_before_and_within_a_stream_are_time_outs(engine, double):
    double.faults.extend(["stall", "stall_mid_stream"])
    with pytest.raises(EngineTimeoutError) as caught:
        async with engine.stream(Call(CHAT, STREAM)):
            pass
    assert caught.value.limit_s == 0.5
    async with engine.stream(Call(CHAT, STREAM)) as stream:
        assert b"one" in await anext(aiter(stream))
        with pytest.raises(EngineTimeoutError) as caught:
            await anext(aiter(stream))
    assert caught.value.limit_s == 0.3
    assert double.counts[f"POST {CHAT}"] == 2


async def test_whole_answer_has_the_limit_that_was_asked_for(engine, double):
    double.faults.append("stall")
    with pytest.raises(EngineTimeoutError) as caught:
        await engine.post(Call(CHAT, ASK, timeout_s=0.1))
    assert caught.value.limit_s == 0.1
    assert "0.1 s" in caught.value.message


async def test_leaving_a_stream_early_reaches_the_engine(engine, double):
    double.delay_s = 0.05
    async with engine.stream(Call(CHAT, STREAM)) as stream:
        async for _ in stream:
            break
    await eventually(lambda: double.left_early == 1)
    assert double.chunks_sent <= 2


async def test_cancelled_answer_reaches_the_engine(engine, double):
    double.faults.append("stall")
    task = asyncio.create_task(engine.post(Call(CHAT, ASK)))
    await eventually(lambda: double.counts[f"POST {CHAT}"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine._transport._client.open_connections == engine._transport._client.idle_connections)


async def test_engine_that_comes_back_at_its_address_serves_the_next_request(engine, double):
    port = double.port
    await double.die()
    with pytest.raises(EngineUnavailableError) as caught:
        await engine.post(Call(CHAT, ASK, timeout_s=0.3))
    assert caught.value.url == f"http://127.0.0.1:{port}"
    assert engine.status.state is EngineState.CRASHED
    assert engine.status.reason
    await double.listen(port)
    await eventually(lambda: engine.status.state is EngineState.READY)
    assert b"one two three" in (await engine.post(Call(CHAT, ASK))).body


async def test_engine_restarted_between_two_requests_is_not_noticed(engine, double):
    await engine.post(Call(CHAT, ASK))
    await double.move(double.port)
    assert b"one two three" in (await engine.post(Call(CHAT, ASK))).body


@pytest.mark.parametrize("broken", ["stall", "no_http", "refuse"])
async def test_what_is_no_engine_at_the_configured_address_never_gets_a_request(tmp_path, broken):
    async with EngineDouble() as double:
        double.broken = broken
        engine = FoundryLocalEngine(settings_for(double.url, tmp_path))
        await engine.start()
        with pytest.raises(EngineUnavailableError):
            await engine.post(Call(CHAT, ASK, timeout_s=0.3))
        assert f"POST {CHAT}" not in double.counts
        await engine.aclose()


async def test_nothing_to_find_and_nothing_to_start_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    settings = Settings(
        home=tmp_path,
        foundry_service=FoundryServiceSettings(
            start="never", port=free, port_range_start=free, port_range_end=free, start_timeout_s=30.0
        ),
    )
    engine = FoundryLocalEngine(settings)
    await engine.start()
    async with asyncio.timeout(2):
        with pytest.raises(EngineUnavailableError, match="do not allow"):
            await engine.post(Call(CHAT, ASK))
    assert engine.status.state is EngineState.ABSENT
    assert [step for step, _, _ in engine.status.tried] == ["daemon_file", "cli", "scan", "default_port"]
    await engine.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "no", "type": "invalid_request_error", "code": "bad", "param": "x"}, InvalidInputError),
        ({"message": "no", "type": "invalid_request_error", "code": "model_not_found"}, ModelNotFoundError),
        ({"message": "no", "type": "server_error", "code": "engine_failed"}, EngineFailedError),
        ("in words", EngineFailedError),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
async def test_an_error_in_the_first_event_is_raised_while_it_can_still_be_a_status(tmp_path, error, kind, pieces):
    frame = b"data: " + orjson.dumps({"error": error}) + b"\n\n"
    size = -(-len(frame) // pieces)

    async def serve(peer):
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for start in range(0, len(frame), size):
            await peer.say(frame[start : start + size])
            await asyncio.sleep(0)

    async with answering(serve, tmp_path) as engine:
        with pytest.raises(kind):
            async with engine.stream(Call(CHAT, STREAM)):
                pytest.fail("entered")


@pytest.mark.parametrize("error", [{"message": "no", "type": "server_error"}, "in words"])
async def test_an_error_that_comes_with_status_200_is_raised(tmp_path, error):
    body = orjson.dumps({"error": error})

    async def serve(peer):
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with answering(serve, tmp_path) as engine:
        with pytest.raises(EngineFailedError):
            await engine.post(Call(CHAT, ASK))


@pytest.mark.parametrize(
    ("message", "kind"), [("Loading model", ModelLoadingError), ("out of order", EngineUnavailableError)]
)
async def test_a_model_that_is_loading_is_told_from_an_engine_that_cannot(tmp_path, message, kind):
    body = orjson.dumps({"error": {"message": message, "type": "unavailable_error", "code": 503}})

    async def serve(peer):
        head = b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: %d\r\n\r\n" % len(body)
        await peer.say(head + body)

    async with answering(serve, tmp_path) as engine:
        with pytest.raises(EngineUnavailableError) as caught:
            await engine.post(Call(CHAT, ASK))
        assert type(caught.value) is kind
        assert caught.value.retry_after_s == 7
        loading = kind is ModelLoadingError
        assert engine.status.state is (EngineState.LOADING if loading else EngineState.READY)


@asynccontextmanager
async def answering(serve, home):
    """An engine whose inference answers are what ``serve`` says."""

    async def serve_all(peer):
        while True:
            request = await peer.request()
            if request.startswith(b"POST"):
                await serve(peer)
                return
            body = b'{"object": "list", "data": []}' if b"/v1/models" in request else b"{}"
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with raw_server(serve_all) as server:
        made = FoundryLocalEngine(settings_for(server.url, home))
        await made.start()
        await made.wait_ready(3)
        yield made
        await made.aclose()
