from __future__ import annotations

import asyncio

from fastapi_foundry.engines.outbox import Outbox


class Wire(asyncio.Protocol):
    """Keeps what arrives, one entry for each read."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got.append(data)


async def pair() -> tuple[asyncio.Transport, Wire, asyncio.Server]:
    loop, wire = asyncio.get_running_loop(), Wire()
    server = await loop.create_server(lambda: wire, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()[:2])
    return transport, wire, server


async def arrived(wire: Wire, end: bytes) -> bytes:
    while not (got := b"".join(wire.got)).endswith(end):
        await asyncio.sleep(0.001)
    return got


async def test_what_is_put_is_sent_in_order_when_the_turn_ends() -> None:
    outbox = Outbox()
    (one, first, server_one), (two, second, server_two) = await pair(), await pair()
    for number in range(100):
        outbox.put(one, b"%d," % number)
        outbox.put(two, b"%d;" % number)
    assert one.get_write_buffer_size() == 0
    assert not first.got
    async with asyncio.timeout(5):
        assert await arrived(first, b"99,") == b"".join(b"%d," % number for number in range(100))
        assert await arrived(second, b"99;") == b"".join(b"%d;" % number for number in range(100))
    for each in (one, two, server_one, server_two):
        each.close()


async def test_it_can_be_emptied_before_a_connection_is_closed_and_drops_what_comes_too_late() -> None:
    outbox = Outbox()
    transport, wire, server = await pair()
    outbox.put(transport, b"last words")
    outbox.flush()
    transport.close()
    outbox.put(transport, b"too late")
    async with asyncio.timeout(5):
        assert await arrived(wire, b"words") == b"last words"
        await asyncio.sleep(0.02)
    assert b"".join(wire.got) == b"last words"
    outbox.flush()  # nothing waits any more
    server.close()


async def test_what_is_put_while_it_is_emptied_is_sent_as_well() -> None:
    outbox = Outbox()
    transport, wire, server = await pair()
    loop = asyncio.get_running_loop()
    outbox.put(transport, b"a")
    loop.call_soon(outbox.put, transport, b"b")
    async with asyncio.timeout(5):
        assert await arrived(wire, b"b") == b"ab"
    transport.close()
    server.close()
