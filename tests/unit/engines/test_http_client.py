from __future__ import annotations

import asyncio
import gc
import itertools
import socket

import pytest

from fastapi_foundry.engines.http_client import (
    ConnectFailedError,
    ConnectionLostError,
    HttpClient,
    Limits,
    ProtocolError,
    ResponseTimeoutError,
    Timeouts,
)
from tests.support.raw_server import Peer, raw_server
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Empty:\r\nX-Two: a\r\nX-Two: b\r\n\r\n"
    b"5\r\nhello\r\n1;name=value\r\n,\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
)


def answering(*answers: bytes):
    """Serve one answer per request, on as many connections as it takes."""
    left = iter(answers)

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(next(left))

    return serve


def once(answer: bytes, *, close: bool = True, slowly: bool = False):
    """Serve one answer per connection, then close it (or wait)."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await (peer.say_slowly(answer) if slowly else peer.say(answer))
        if not close:
            await peer.until_client_left()

    return serve


async def get(client: HttpClient, url: str, **options) -> tuple[int, bytes]:
    response = await client.request("GET", url, **options)
    return response.status, await response.read(1 << 20)


async def test_request_line_headers_and_body_arrive_as_given(client):
    seen: list[bytes] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(OK)

    async with raw_server(serve) as server:
        response = await client.request(
            "POST", f"{server.url}/v1/x?y=1", headers={"x-request-id": "r1"}, body=b'{"a":1}'
        )
        assert await response.read(100) == b"hello"
        assert seen == [
            b"POST /v1/x?y=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 7\r\nx-request-id: r1\r\n\r\n"
            b'{"a":1}' % server.port
        ]


async def test_large_request_body_arrives_whole(client):
    body = bytes(range(256)) * 4096 * 8
    seen: list[bytes] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(OK)

    async with raw_server(serve) as server:
        response = await client.request("POST", server.url, body=body)
        assert response.status == 200
        await response.read(100)
    assert seen[0].endswith(body)


async def test_empty_body_is_announced_with_length_zero(client):
    seen: list[bytes] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(OK)

    async with raw_server(serve) as server:
        await (await client.request("POST", server.url, body=b"")).read(100)
    assert b"content-length: 0\r\n" in seen[0]


async def test_response_may_be_split_anywhere(client):
    async def serve(peer: Peer) -> None:
        for cut in range(1, len(CHUNKED)):
            await peer.request()
            await peer.say(CHUNKED[:cut])
            await asyncio.sleep(0.001)
            await peer.say(CHUNKED[cut:])

    async with raw_server(serve) as server:
        for cut in range(1, len(CHUNKED)):
            response = await client.request("GET", server.url)
            assert await response.read(100) == b"hello, world", cut
            assert response.headers == {"transfer-encoding": "chunked", "x-empty": "", "x-two": "a, b"}, cut
        assert server.connections == 1


async def test_response_may_come_byte_by_byte(client):
    async with raw_server(once(CHUNKED, slowly=True)) as server:
        response = await client.request("GET", server.url)
        parts = [part async for part in response]
    assert b"".join(parts) == b"hello, world"
    assert response.headers["x-empty"] == ""


async def test_parts_are_handed_on_before_the_response_ends(client):
    go_on = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        await peer.say(b"3\r\ntwo\r\n0\r\n\r\n")

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url)
        parts = response.__aiter__()
        assert await anext(parts) == b"one"
        go_on.set()
        assert await anext(parts) == b"two"
        with pytest.raises(StopAsyncIteration):
            await anext(parts)


async def test_body_without_length_ends_with_the_connection(client):
    async with raw_server(once(b"HTTP/1.1 200 OK\r\n\r\nall there is")) as server:
        response = await client.request("GET", server.url)
        assert response.ends_with_connection
        assert await response.read(100) == b"all there is"
        await eventually(lambda: client.open_connections == 0)


async def test_body_without_length_cut_by_a_reset_is_an_error(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await peer.request()
        peer.reset()

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url)
        assert await anext(response.__aiter__()) == b"some"
        response._carrier._transport.write(b"GET / HTTP/1.1\r\n\r\n")  # lets the server go on
        with pytest.raises(ConnectionLostError):
            await anext(response.__aiter__())


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_end_at_the_head(client, status):
    head = b"HTTP/1.1 %d X\r\nContent-Length: 10\r\n\r\n" % status if status == 304 else b"HTTP/1.1 204 X\r\n\r\n"
    async with raw_server(answering(head, OK)) as server:
        assert await get(client, server.url) == (status, b"")
        assert await get(client, server.url) == (200, b"hello")
        assert server.connections == 1


async def test_head_response_has_no_body_whatever_its_length_says(client):
    async with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", OK)) as server:
        response = await client.request("HEAD", server.url)
        assert await response.read(100) == b""
        assert response.headers["content-length"] == "10"
        assert await get(client, server.url) == (200, b"hello")
        assert server.connections == 1


async def test_body_after_a_head_response_costs_the_connection_alone(client):
    async with raw_server(answering(OK, OK)) as server:
        response = await client.request("HEAD", server.url)
        assert await response.read(100) == b""
        assert await get(client, server.url) == (200, b"hello")
        assert server.connections == 2


@pytest.mark.parametrize("slowly", [False, True])
async def test_interim_responses_are_skipped(client, slowly):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with raw_server(once(interim + CHUNKED, slowly=slowly)) as server:
        response = await client.request("GET", server.url)
        assert response.status == 200
        assert "link" not in response.headers
        assert await response.read(100) == b"hello, world"


async def test_endless_interim_responses_meet_the_limit_of_the_head(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        for _ in range(100_000):
            await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    async with raw_server(serve) as server:
        with pytest.raises(ProtocolError, match="head is larger"):
            await client.request("GET", server.url)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 Strange\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"y" * 70_000,
    ],
)
async def test_what_is_no_response_is_a_protocol_error(client, answer):
    async with raw_server(once(answer, close=False)) as server:
        with pytest.raises(ProtocolError):
            await client.request("GET", server.url)
        await eventually(lambda: client.open_connections == 0)


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhelloX", b"-1\r\n", b"fffffffffffffffff\r\n"])
async def test_broken_chunks_are_a_protocol_error(client, body):
    async with raw_server(once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, close=False)) as server:
        with pytest.raises(ProtocolError):
            await get(client, server.url)


async def test_endless_trailers_meet_the_limit_of_the_head(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        for _ in range(100_000):
            await peer.say(b"X: y\r\n" * 100)

    async with raw_server(serve) as server:
        with pytest.raises(ProtocolError, match="head is larger"):
            await get(client, server.url)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_connection_lost_before_the_head_is_whole(client, answer):
    async with raw_server(once(answer)) as server:
        with pytest.raises(ConnectionLostError) as caught:
            await client.request("GET", server.url)
        assert caught.value.received_any is bool(answer)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ],
)
async def test_connection_lost_before_the_body_is_whole_is_never_an_end(client, answer):
    async with raw_server(once(answer)) as server:
        response = await client.request("GET", server.url)
        assert not response.ends_with_connection
        assert await anext(response) == b"half"
        with pytest.raises(ConnectionLostError) as caught:
            await anext(response)
        assert caught.value.received_any
        with pytest.raises(ConnectionLostError):
            await anext(response)


async def test_reset_in_the_body_is_a_lost_connection(client):
    go_on = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await go_on.wait()
        peer.reset()

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url)
        assert await anext(response) == b"half"
        go_on.set()
        with pytest.raises(ConnectionLostError):
            await response.read(100)
        await eventually(lambda: client.open_connections == 0)


async def test_connection_is_used_again(client):
    async with raw_server(answering(OK, CHUNKED, OK)) as server:
        for expected in (b"hello", b"hello, world", b"hello"):
            assert await get(client, server.url) == (200, expected)
        assert server.connections == 1
        assert (client.open_connections, client.idle_connections) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"garbage",
        OK + OK,
        OK + b"\x00",
    ],
)
async def test_connection_is_not_used_again(client, answer):
    async with raw_server(answering(answer, OK)) as server:
        assert await get(client, server.url) == (200, b"hello")
        assert await get(client, server.url) == (200, b"hello")
        assert server.connections == 2


async def test_bytes_that_nobody_asked_for_cost_the_idle_connection(client):
    say_more = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        if peer.number == 1:
            await say_more.wait()
            await peer.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.until_client_left()

    async with raw_server(serve) as server:
        assert await get(client, server.url) == (200, b"hello")
        say_more.set()
        await eventually(lambda: client.open_connections == 0)
        assert await get(client, server.url) == (200, b"hello")
        assert server.connections == 2


async def test_server_that_closed_the_idle_connection_is_asked_on_a_new_one(client):
    async with raw_server(once(OK)) as server:
        assert await get(client, server.url) == (200, b"hello")
        await eventually(lambda: client.open_connections == 0)
        assert await get(client, server.url) == (200, b"hello")


def closing_the_second_request(requests: list[bytes], *, first_bytes: bytes = b""):
    """A server whose first connection answers one request and drops the next, as a keep-alive race does."""

    async def serve(peer: Peer) -> None:
        requests.append(await peer.request())
        await peer.say(OK)
        requests.append(await peer.request())
        if peer.number == 1:
            if first_bytes:
                await peer.say(first_bytes)
            return
        await peer.say(OK)
        await peer.until_client_left()

    return serve


async def test_request_that_met_a_stale_connection_is_sent_once_more(client):
    requests: list[bytes] = []
    async with raw_server(closing_the_second_request(requests)) as server:
        await get(client, server.url)
        assert await get(client, server.url) == (200, b"hello")
        assert (server.connections, len(requests)) == (2, 3)


async def test_stale_repetition_happens_once_and_on_a_new_connection(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        if peer.number <= 2:
            await peer.say(OK)
            await peer.request()

    async with raw_server(serve) as server:
        both = [await client.request("GET", server.url, fresh=True) for _ in range(2)]
        for response in both:
            await response.read(100)
        assert client.idle_connections == 2
        with pytest.raises(ConnectionLostError):
            await client.request("GET", server.url)
        assert server.connections == 3


async def test_request_that_had_part_of_an_answer_is_not_repeated(client):
    requests: list[bytes] = []
    async with raw_server(closing_the_second_request(requests, first_bytes=b"HTTP/1.1 2")) as server:
        await get(client, server.url)
        with pytest.raises(ConnectionLostError) as caught:
            await client.request("GET", server.url)
        assert caught.value.received_any
        assert (server.connections, len(requests)) == (1, 2)


async def test_stale_repetition_can_be_refused(client):
    requests: list[bytes] = []
    async with raw_server(closing_the_second_request(requests)) as server:
        await get(client, server.url)
        with pytest.raises(ConnectionLostError) as caught:
            await client.request("GET", server.url, repeat_if_stale=False)
        assert not caught.value.received_any
        assert len(requests) == 2


async def test_first_request_on_a_new_connection_is_not_repeated(client):
    async with raw_server(once(b"")) as server:
        with pytest.raises(ConnectionLostError):
            await client.request("POST", server.url, body=b"x")
        assert server.connections == 1


async def test_refused_connection_says_so(client):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ConnectFailedError) as caught:
            await client.request("GET", f"http://{host}:{port}")
        assert caught.value.refused


async def test_connect_has_a_limit_of_its_own():
    # A full backlog makes the kernel drop further attempts to connect.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        client = HttpClient(timeouts=Timeouts(connect_s=0.1, first_byte_s=0.1))
        outcomes = []
        for _ in range(4):  # the first may still find room
            try:
                await client.request("GET", f"http://127.0.0.1:{full.getsockname()[1]}")
            except (ConnectFailedError, ResponseTimeoutError) as error:
                outcomes.append(error)
        await client.aclose()
        for filler in fillers:
            filler.close()
    assert isinstance(outcomes[-1], ConnectFailedError)
    assert "within 0.1 s" in str(outcomes[-1])
    assert not outcomes[-1].refused


async def test_unknown_host_is_a_failed_connection(client):
    with pytest.raises(ConnectFailedError) as caught:
        await client.request("GET", "http://does-not-exist.invalid/")
    assert not caught.value.refused


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_head_that_does_not_come_is_a_time_out(client, first):
    async with raw_server(once(first, close=False)) as server:
        with pytest.raises(ResponseTimeoutError) as caught:
            await client.request("GET", server.url, timeouts=Timeouts(first_byte_s=0.05, idle_s=9))
        assert (caught.value.phase, caught.value.limit_s) == ("first_byte", 0.05)
        await eventually(lambda: client.open_connections == 0)


async def test_body_that_stalls_is_a_time_out_after_what_came(client):
    stalling = once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", close=False)
    async with raw_server(stalling) as server:
        response = await client.request("GET", server.url, timeouts=Timeouts(first_byte_s=9, idle_s=0.05))
        assert await anext(response) == b"half"
        with pytest.raises(ResponseTimeoutError) as caught:
            await anext(response)
        assert (caught.value.phase, caught.value.limit_s) == ("between_bytes", 0.05)
        await eventually(lambda: client.open_connections == 0)


async def test_long_stream_of_small_parts_meets_no_time_out(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0.02)
            await peer.say(b"1\r\nx\r\n")
        await peer.say(b"0\r\n\r\n")

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url, timeouts=Timeouts(idle_s=0.15))
        assert b"".join([part async for part in response]) == b"x" * 20


async def test_slow_reader_is_not_taken_for_a_slow_server(client):
    async with raw_server(once(CHUNKED, slowly=True)) as server:
        response = await client.request("GET", server.url, timeouts=Timeouts(idle_s=0.05))
        parts = []
        async for part in response:
            parts.append(part)
            if len(parts) == 1:
                await asyncio.sleep(0.2)
        assert b"".join(parts) == b"hello, world"


async def test_total_limit_covers_head_and_body(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in itertools.count():
            await peer.say(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url, timeouts=Timeouts(total_s=0.1))
        with pytest.raises(ResponseTimeoutError) as caught:
            await response.read(1 << 20)
        assert (caught.value.phase, caught.value.limit_s) == ("total", 0.1)


async def test_short_limit_holds_on_a_connection_that_had_a_long_one(client):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.until_client_left()

    async with raw_server(serve) as server:
        await get(client, server.url, timeouts=Timeouts(first_byte_s=100))
        with pytest.raises(ResponseTimeoutError):
            async with asyncio.timeout(1):
                await get(client, server.url, timeouts=Timeouts(first_byte_s=0.05))


@pytest.mark.parametrize("announced", [True, False])
async def test_body_over_the_limit_is_refused(client, announced):
    head = b"Content-Length: 1000\r\n\r\n" if announced else b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"
    async with raw_server(once(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 1000, close=False)) as server:
        response = await client.request("GET", server.url)
        with pytest.raises(ProtocolError, match="999 bytes"):
            await response.read(999)
        await eventually(lambda: client.open_connections == client.idle_connections)


async def test_body_at_the_limit_is_read(client):
    async with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)) as server:
        response = await client.request("GET", server.url)
        assert len(await response.read(1000)) == 1000


async def test_reader_that_does_not_read_stops_the_sender():
    sent = 0

    async def serve(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await peer.say(b"x" * 100_000)
            sent += 100_000

    client = HttpClient(limits=Limits(max_buffered_bytes=200_000))
    async with raw_server(serve) as server:
        response = await client.request("GET", server.url)
        await eventually(lambda: sent > 0)
        before = -1
        while before != sent:  # until the sender has come to a stop
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 50_000_000
        assert response._buffered_bytes < 1_000_000
        total = 0
        async for part in response:
            total += len(part)
        assert total == 100_000_000
        assert client.idle_connections == 1
        await client.aclose()


async def test_cancelled_task_closes_the_connection(client):
    left = asyncio.Event()
    asked = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.until_client_left()
        left.set()

    async with raw_server(serve) as server:
        task = asyncio.create_task(get(client, server.url))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(2):
            await left.wait()
        assert client.idle_connections == 0


async def test_cancelled_reader_closes_the_connection(client):
    left = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await peer.until_client_left()
        left.set()

    async with raw_server(serve) as server:
        response = await client.request("GET", server.url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.read(100)
        async with asyncio.timeout(2):
            await left.wait()


async def test_reader_cancelled_as_its_response_ends_leaves_the_next_user_of_the_connection_alone(client):
    say_first, say_second = asyncio.Event(), asyncio.Event()

    async def serve(peer: Peer) -> None:
        for event in (say_first, say_second):
            await peer.request()
            await event.wait()
            await peer.say(OK)

    async with raw_server(serve) as server:
        first = asyncio.create_task(get(client, server.url))
        await eventually(lambda: server.connections == 1)
        say_first.set()
        await eventually(lambda: client.idle_connections == 1, interval_s=0)
        second = asyncio.create_task(get(client, server.url))
        first.cancel()
        await asyncio.sleep(0.01)
        say_second.set()
        assert await second == (200, b"hello")
        assert server.connections == 1


async def test_closed_response_closes_the_connection_unless_it_has_ended(client):
    async with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", OK, OK)) as server:
        response = await client.request("GET", server.url)
        response.close()
        with pytest.raises(ConnectionLostError):
            await response.read(100)
        response = await client.request("GET", server.url)
        await response.read(100)
        response.close()
        await get(client, server.url)
        assert server.connections == 2


async def test_response_that_came_whole_can_be_read_after_its_connection_serves_another(client):
    async with raw_server(answering(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")) as server:
        first = await client.request("GET", server.url)
        assert await get(client, server.url) == (200, b"two")
        assert await first.read(100) == b"hello"
        assert server.connections == 1


async def test_idle_connections_are_bounded_in_number_and_age():
    client = HttpClient(max_idle_per_origin=2, max_idle_s=0.1)
    async with raw_server(answering(*[OK] * 5)) as server:
        responses = await asyncio.gather(*(client.request("GET", server.url) for _ in range(4)))
        for response in responses:
            await response.read(100)
        assert client.idle_connections <= 2
        await eventually(lambda: client.open_connections == 0, timeout_s=2)
        assert client._idle == {}
    await client.aclose()


async def test_answer_before_the_whole_request_was_sent_costs_the_connection(client):
    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await asyncio.sleep(0.5)

    async with raw_server(serve) as server:
        response = await client.request("POST", server.url, body=b"x" * 50_000_000)
        assert (response.status, await response.read(100)) == (413, b"large")
        assert client.idle_connections == 0


async def test_closed_client_refuses_and_leaves_nothing(client):
    async with raw_server(once(b"", close=False)) as server:
        task = asyncio.create_task(get(client, server.url))
        await eventually(lambda: server.connections == 1)
        await client.aclose()
        with pytest.raises(ConnectionLostError):
            await task
        with pytest.raises(ConnectFailedError):
            await client.request("GET", server.url)


@pytest.mark.parametrize(
    ("name", "value"), [("x", "a\r\nb: c"), ("x", "a\nb"), ("x\r\ny", "a"), ("x", "a\0b"), ("x", "\N{SNOWMAN}")]
)
async def test_header_that_would_be_more_than_a_header_is_refused(client, name, value):
    with pytest.raises(ValueError):  # noqa: PT011 - encoding errors are among them
        await client.request("GET", "http://127.0.0.1:1/", headers={name: value})


@pytest.mark.parametrize(
    "url", ["ftp://x/", "/v1", "http://", "http://u:p@h/", "http://h:99999/", "http://h/a b", "http://h/\N{SNOWMAN}"]
)
async def test_url_that_is_none_is_refused(client, url):
    with pytest.raises(ValueError):  # noqa: PT011 - the standard library words some of them
        await client.request("GET", url)


async def test_https_without_a_context_is_refused(client):
    with pytest.raises(ConnectFailedError, match="https"):
        await client.request("GET", "https://127.0.0.1:1/")


async def test_ipv6_address_is_reached_and_named_in_the_host_header(client):
    seen: list[bytes] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(OK)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with raw_server(serve, host="::1") as server:
        assert await get(client, f"http://[::1]:{server.port}/") == (200, b"hello")
        assert b"host: [::1]:%d\r\n" % server.port in seen[0]
        assert await get(client, f"http://localhost:{server.port}/") == (200, b"hello")


async def test_many_tasks_share_the_client_without_mixing_answers(client):
    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.request()
            body = request.split(b" ")[1]
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with raw_server(serve) as server:

        async def ask(number: int) -> None:
            for turn in range(20):
                path = f"/{number}/{turn}"
                assert await get(client, server.url + path) == (200, path.encode())

        await asyncio.gather(*(ask(number) for number in range(20)))
        assert server.connections <= 20


async def test_lost_connections_leave_no_objects_behind(client):
    from fastapi_foundry.engines.http_protocol import HttpConnection  # noqa: PLC0415 - counted here alone

    def living() -> int:
        return sum(isinstance(thing, HttpConnection) for thing in gc.get_objects())

    async with raw_server(once(OK)) as server:
        before = living()
        gc.disable()
        try:
            for _ in range(20):
                await get(client, server.url, fresh=True)
            await eventually(lambda: client.open_connections == 0)
            await asyncio.sleep(0.01)
            assert living() - before <= 2, "connections are freed by reference counts alone"
        finally:
            gc.enable()
