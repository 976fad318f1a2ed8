"""Plain chat requests go the express way, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from fastapi_foundry.storage.usage import UsageQuery
from fastapi_foundry.wire.openai import ChatCompletionRequest
from fastapi_foundry.wire.plain_chat import is_plain_chat
from tests.support.engine_double import EngineDouble
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

PATH = "/v1/chat/completions"
PLAIN = {"model": "double:1", "messages": [{"role": "user", "content": "Hello"}]}
UNUSUAL = {"te": "trailers"}  # means nothing here, and is reason enough for the ordinary way
DIFFERS = {"date", "x-request-id", "server"}


@pytest.fixture
async def double() -> AsyncIterator[EngineDouble]:
    async with EngineDouble() as made:
        yield made


@pytest.fixture
async def gateway(double: EngineDouble, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    overrides: dict[str, Any] = {
        "foundry_ai__base_url": double.url,
        "foundry_ai__default_model": "double:1",
        "foundry_ai__probe_engines": False,
        "foundry_ai__timeout_s": 2.0,
        "foundry_ai__first_byte_timeout_s": 2.0,
        "foundry_ai__idle_timeout_s": 0.5,
    }
    async with running_gateway(tmp_path, **overrides) as running:
        await running.services.engine.wait_ready(5)
        await running.services.models.cards()
        yield running


async def warm(gateway: RunningGateway) -> None:
    """Leave a connection to the engine behind, and every breaker closed."""
    for routed in gateway.services.engine.engines.values():  # type: ignore[attr-defined]
        routed.breaker.succeeded()
    answer = await gateway.client.post(PATH, json=PLAIN, headers=UNUSUAL)
    assert answer.status_code == 200, answer.text


def shown(answer: Any) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in DIFFERS}
    return answer.status_code, headers, answer.content.replace(answer.headers["x-request-id"].encode(), b"ID")


async def test_a_plain_request_takes_it_and_an_unusual_one_does_not(gateway: RunningGateway) -> None:
    await warm(gateway)
    assert gateway.services.express.taken == 0
    answer = await gateway.client.post(PATH, json=PLAIN)
    assert gateway.services.express.taken == 1
    assert answer.json()["choices"][0]["message"]["content"] == "one two three"


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_at_the_same_time_get_connections_of_their_own(
    gateway: RunningGateway, double: EngineDouble, stream: bool
) -> None:
    await warm(gateway)
    double.delay_s = 0.1
    answers = await asyncio.gather(
        *(gateway.client.post(PATH, json=PLAIN | {"stream": stream}) for _ in range(4))
    )  # as many places as there are
    assert [answer.status_code for answer in answers] == [200] * 4
    assert gateway.services.express.taken == 4
    router: Any = gateway.services.engine
    assert sum(routed.active for routed in router.engines.values()) == 0


async def test_who_leaves_before_there_is_a_connection_leaves_nothing_behind(
    gateway: RunningGateway, double: EngineDouble
) -> None:
    await warm(gateway)
    double.delay_s, router = 0.2, cast("Any", gateway.services.engine)
    busy = asyncio.create_task(gateway.client.post(PATH, json=PLAIN))  # holds the connection that there is
    await eventually(lambda: gateway.services.express.taken == 1)
    body = json.dumps(PLAIN).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head.encode() + body)
        await asyncio.sleep(0)
        writer.transport.abort()
    assert (await busy).status_code == 200
    await eventually(lambda: sum(routed.active for routed in router.engines.values()) == 0)
    assert (await gateway.client.post(PATH, json=PLAIN)).status_code == 200


async def test_where_no_further_connection_can_be_made_the_ordinary_way_answers(
    gateway: RunningGateway, double: EngineDouble
) -> None:
    await warm(gateway)
    double.delay_s = 0.3
    busy = asyncio.create_task(gateway.client.post(PATH, json=PLAIN))
    await eventually(lambda: gateway.services.express.taken == 1)
    await double.stop_listening()
    second = await gateway.client.post(PATH, json=PLAIN)
    assert gateway.services.express.taken == 2
    assert second.status_code == 200, second.text  # the ordinary way has waited for the connection that became free
    assert (await busy).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["", "status_500", "busy", "half_head", "half_json", "reset_before_head", "close_before_head", "stall"]
)
async def test_both_ways_answer_alike(gateway: RunningGateway, double: EngineDouble, fault: str, stream: bool) -> None:
    double.sticky_fault = ""
    await warm(gateway)
    double.sticky_fault = fault
    express = shown(await gateway.client.post(PATH, json=PLAIN | {"stream": stream}))
    assert gateway.services.express.taken == 1
    double.sticky_fault = ""
    await warm(gateway)
    double.sticky_fault = fault
    ordinary = shown(await gateway.client.post(PATH, json=PLAIN | {"stream": stream}, headers=UNUSUAL))
    assert gateway.services.express.taken == 1
    assert express == ordinary


@pytest.mark.parametrize(
    "fault",
    [
        "close_mid_stream",
        "reset_mid_stream",
        "stall_mid_stream",
        "error_mid_stream",
        "until_close",
        "until_close_broken",
    ],
)
async def test_streams_that_break_off_end_alike(gateway: RunningGateway, double: EngineDouble, fault: str) -> None:
    ends = []
    for headers in ({}, UNUSUAL):
        double.sticky_fault = ""
        await warm(gateway)
        double.sticky_fault = fault
        ends.append(shown(await gateway.client.post(PATH, json=PLAIN | {"stream": True}, headers=headers)))
    assert gateway.services.express.taken == 1
    assert ends[0] == ends[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_leaves_nothing_behind(gateway: RunningGateway, double: EngineDouble, stream: bool) -> None:
    double.delay_s = 30.0 if not stream else 0.05
    double.words = ("word",) * 400
    await warm_without_delay(gateway, double)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(PLAIN | {"stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    if stream:
        await reader.readuntil(b"data: ")
    else:
        await asyncio.sleep(0.1)
    assert gateway.services.express.taken == 1
    router: Any = gateway.services.engine
    assert sum(routed.active for routed in router.engines.values()) == 1
    writer.transport.abort()
    await eventually(lambda: sum(routed.active for routed in router.engines.values()) == 0)
    if stream:
        await eventually(lambda: double.left_early == 1)
        assert double.chunks_sent < 100
    rows = await gateway.services.usage.rows(UsageQuery("2000-01-01", "2999-12-31"), limit=10)
    assert sum(row.figures.requests for row in rows) == 2


async def warm_without_delay(gateway: RunningGateway, double: EngineDouble) -> None:
    delay_s, double.delay_s = double.delay_s, 0.0
    await warm(gateway)
    double.delay_s = delay_s


async def test_requests_on_one_connection_are_answered_in_order(gateway: RunningGateway, double: EngineDouble) -> None:
    double.delay_s = 0.02
    await warm(gateway)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    ids = [f"req-{number}" for number in range(6)]
    for number, request_id in enumerate(ids):
        body = json.dumps(PLAIN).encode()
        extra = "te: trailers\r\n" if number % 2 else ""
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-request-id: {request_id}\r\n{extra}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
    seen = []
    for _ in ids:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        await reader.readexactly(int(lines["content-length"]))
        assert head.startswith(b"HTTP/1.1 200 ")
        seen.append(lines["x-request-id"])
    writer.close()
    assert seen == ids


async def test_a_body_that_comes_in_pieces_is_answered(gateway: RunningGateway) -> None:
    await warm(gateway)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(PLAIN).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    for piece in (head[:40].encode(), head[40:].encode() + body[:5], body[5:]):
        writer.write(piece)
        await asyncio.sleep(0.02)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_client_that_reads_slowly_gets_all_of_a_long_stream(
    gateway: RunningGateway, double: EngineDouble
) -> None:
    await warm(gateway)
    double.words = ("x" * 20_000,) * 1500  # more than all the buffers on the way hold
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=2**16)
    body = json.dumps(PLAIN | {"stream": True}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await asyncio.sleep(1.0)  # longer than the engine may be silent
    assert double.chunks_sent < 1500
    received = 0
    while not (part := await reader.read(65_536)).endswith(b"0\r\n\r\n"):
        received += len(part)
    assert received > 1500 * 20_000
    assert gateway.services.express.taken == 1
    writer.close()


PLAIN_FIELDS: dict[str, list[Any]] = {
    "model": ["m", "m" * 512, "", "m" * 513, 1, None],
    "messages": [
        [{"role": "user", "content": ""}],
        [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "developer", "content": "a"}],
        [{"role": ["user"], "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": "a", "name": "b"}],
        [{"role": "user"}],
        [],
        {},
        "text",
        ["text"],
    ],
    "max_tokens": [1, 10_000_000, 0, 10_000_001, True, 1.5, "1", None],
    "temperature": [0, 2, 0.5, -0.1, 2.1, True, "1", None],
    "top_p": [0, 1, 0.5, 1.1, -1, False, None],
    "seed": [0, -(2**63), 2**63 - 1, 2**63, 1.5, True, None],
    "stream": [True, False, 1, None, "true"],
    "stream_options": [{"include_usage": True}, {"include_usage": 1}, {}, {"include_usage": True, "x": 1}, None, []],
    "user": ["me", "", 1, None],
    "n": [1, 2],
    "stop": ["a"],
    "unknown": [1],
}


def test_what_is_plain_is_right() -> None:
    plain = 0
    for name, values in PLAIN_FIELDS.items():
        for value in values:
            for request in (PLAIN | {name: value}, {"model": "m", name: value}):
                if is_plain_chat(request):
                    plain += 1
                    if request.get("stream_options") and not request.get("stream"):
                        continue
                    ChatCompletionRequest.model_validate(request)
    assert plain == 22
    assert not is_plain_chat([])
    assert not is_plain_chat("text")
