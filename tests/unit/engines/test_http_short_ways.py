"""What the client takes without its parser: heads that it has read before, and chunks that come alone."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_foundry.engines.http_client import HttpClient, HttpError, HttpResponse, Timeouts, origin_of, request_head
from fastapi_foundry.engines.http_protocol import HttpConnection
from tests.support.raw_server import Peer, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PAUSE_S = 0.02


async def outcome(client: HttpClient, url: str, method: str = "GET") -> tuple[object, ...]:
    """Status, headers and body, or the error; and whether the connection can be used again."""
    try:
        response = await client.request(method, url, timeouts=Timeouts(first_byte_s=1.0, idle_s=0.2))
        got: tuple[object, ...] = (response.status, response.headers, await response.read(1 << 20))
    except HttpError as error:
        got = (type(error),)
    await asyncio.sleep(PAUSE_S)
    return *got, client.idle_connections


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"again"],
        [OK + b"ag", b"ain"],
        [OK, b"again"],
        [OK[:20], OK[20:] + b"again"],
        [OK + b"again!"],
        [OK + b"again", b"!"],
        [OK + b"aga"],
        [OK.replace(b"5", b"7") + b"another"],
        [OK.replace(b"X-A: 1", b"Connection: close") + b"again"],
        [OK.replace(b"200 OK", b"500 Oh") + b"again"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"again"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
    ],
)
async def test_an_answer_means_the_same_whatever_came_before(pieces: list[bytes], method: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        for known in range(3):
            if known or fresh:
                for piece in pieces:
                    await peer.say(piece)
                    await asyncio.sleep(PAUSE_S / 4)
            else:
                await peer.say(OK + b"first")
            await peer.request()

    fresh = True
    async with raw_server(serve) as server:
        client = HttpClient()
        expected = await outcome(client, server.url, method)
        await client.aclose()
        fresh, client = False, HttpClient()
        first = await outcome(client, server.url)
        assert first[2] == b"first"
        assert await outcome(client, server.url, method) == expected
        await client.aclose()


async def test_heads_that_differ_in_anything_are_read(client: HttpClient) -> None:
    answers = [OK + b"first", OK.replace(b"X-A: 1", b"X-A: 2") + b"other", OK.replace(b"200", b"201") + b"third"]

    async def serve(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.say(answer)

    async with raw_server(serve) as server:
        seen = [await outcome(client, server.url) for _ in answers]
    assert [(one[0], one[1]["x-a"], one[2]) for one in seen] == [  # type: ignore[index]
        (200, "1", b"first"),
        (200, "2", b"other"),
        (201, "1", b"third"),
    ]


class Listener:
    """Takes chunks as long as it wants to; all else comes by ``news``."""

    def __init__(self, wants: int) -> None:
        self.wants = wants
        self.response: HttpResponse | None = None
        self.body = b""
        self.chunks: list[bytes] = []
        self.ended = asyncio.Event()

    def news(self) -> None:
        response = self.response
        assert response is not None
        self.body += response.take()
        if response.complete or response.failure is not None:
            self.ended.set()
        else:
            response.expect_more()

    def chunk(self, body: bytes, framed: bytes) -> bool:
        assert framed.endswith(b"\r\n" + body + b"\r\n")
        if not self.wants:
            return False
        self.wants -= 1
        self.body += body
        self.chunks.append(framed)
        return True


async def told(url: str, wants: int, *, idle_s: float = 1.0) -> Listener:
    """What a listener has been told by the end of an answer."""
    client, origin = HttpClient(), origin_of(url)
    await (await client.request("GET", url)).read(10)
    connection = client.take_idle(origin)
    assert isinstance(connection, HttpConnection)
    listener, timeouts = Listener(wants), Timeouts(first_byte_s=1.0, idle_s=idle_s)
    listener.response = connection.send(
        request_head("GET", url, {}) + b"\r\n", b"", timeouts, asyncio.get_running_loop().time(), listener=listener
    )
    await asyncio.wait_for(listener.ended.wait(), 3)
    await client.aclose()
    return listener


def streaming(*pieces: bytes):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"first")
        await peer.request()
        for piece in pieces:
            await peer.say(piece)
            await asyncio.sleep(PAUSE_S / 4)
        await peer.until_client_left()

    return serve


ALONE = [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"10\r\n0123456789abcdef\r\n", b"0\r\n\r\n"]
TEXT = b"onetwo0123456789abcdef"


@pytest.mark.parametrize(
    ("pieces", "taken"),
    [
        ([STREAM, *ALONE], 2),  # the first one tells that chunks follow
        ([STREAM + ALONE[0], *ALONE[1:]], 2),
        ([STREAM + ALONE[0][:4], ALONE[0][4:], *ALONE[1:]], 2),
        ([STREAM + ALONE[0], ALONE[1] + ALONE[2], ALONE[3]], 0),
        ([STREAM + ALONE[0], ALONE[1][:5], ALONE[1][5:], *ALONE[2:]], 1),
        ([STREAM + ALONE[0], b"0" + ALONE[1], *ALONE[2:]], 1),
        ([STREAM + ALONE[0], b"3;a=b\r\ntwo\r\n", *ALONE[2:]], 1),
        ([STREAM + ALONE[0], ALONE[1], ALONE[2] + ALONE[3]], 1),
    ],
)
@pytest.mark.parametrize("wants", [0, 1, 9])
async def test_chunks_that_come_alone_are_handed_on_as_they_are(pieces: list[bytes], taken: int, wants: int) -> None:
    async with raw_server(streaming(*pieces)) as server:
        listener = await told(server.url, wants)
    assert listener.body == TEXT
    assert listener.response is not None
    assert listener.response.complete
    assert len(listener.chunks) == min(taken, wants)


@pytest.mark.parametrize(
    "broken", [b"+3\r\ntwo\r\n", b"0x3\r\ntwo\r\n", b"3\r\ntwo!\r", b"3 3\r\ntwo\r\n", b"-3\r\ntwo\r\n"]
)
async def test_what_is_no_chunk_breaks_the_answer_behind_chunks_too(broken: bytes) -> None:
    async with raw_server(streaming(STREAM, *ALONE[:2], broken, *ALONE[2:])) as server:
        listener = await told(server.url, 9)
    assert listener.response is not None
    assert not listener.response.complete
    assert listener.body in {b"onetwo", b"onetwotwo"}  # what came before the mistake may have been handed on


async def test_silence_behind_chunks_that_were_handed_on_is_noticed() -> None:
    async with raw_server(streaming(STREAM, *ALONE[:3])) as server:
        listener = await told(server.url, 9, idle_s=0.1)
    assert listener.response is not None
    assert "Timeout" in type(listener.response.failure).__name__
    assert listener.body == TEXT
