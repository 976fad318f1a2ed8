"""How many connections there may be, and what happens to one too many."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastapi_foundry.server.connections import Connections
from fastapi_foundry.settings import HttpLimitsSettings
from tests.support.bounded_server import BoundedServer, bounded_server, read_answer, read_until_closed
from tests.support.waiting import eventually_sync

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


def waiting_connections(stack: ExitStack, server: BoundedServer, count: int) -> list[socket.socket]:
    """Connections with a request on each of them that gets no answer."""
    before = server.log.count("begin /wait")
    socks = [stack.enter_context(server.connect()) for _ in range(count)]
    for sock in socks:
        sock.sendall(GET % b"wait")
    eventually_sync(lambda: server.log.count("begin /wait") == before + count)
    return socks


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_connections": 5}, "The server has too many"),
        ({"max_connections_per_client": 5}, "Your address has too many"),
    ],
)
def test_one_connection_too_many_is_503_in_its_dialect_until_there_is_room(
    tmp_path: Path, limits: dict[str, int], says: str
) -> None:
    with bounded_server(tmp_path, **limits) as server, ExitStack() as stack:
        waiting_connections(stack, server, 4)
        (fifth,) = waiting_connections(stack, server, 1)
        native, openai = server.send(GET % b"api/v1/health"), server.send(GET % b"v1/models")
        for answer, form in ((native, b'"status_code":503'), (openai, b'"type":"server_error"')):
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert form in answer
            assert says.encode() in answer
        fifth.close()
        eventually_sync(lambda: server.server.bounds.taken == 4)
        with server.connect() as sock:
            sock.sendall(GET % b"")
            assert read_answer(sock).endswith(b"hello")


def test_idle_connections_make_room_the_longest_idle_first(tmp_path: Path) -> None:
    with bounded_server(tmp_path, max_connections=3) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(3)]
        for sock in idle:
            sock.sendall(GET % b"")
            assert read_answer(sock).endswith(b"hello")
        idle[0].sendall(GET % b"")
        assert read_answer(idle[0]).endswith(b"hello")
        waiting_connections(stack, server, 1)
        assert idle[1].recv(1) == b""
        for sock in (idle[0], idle[2]):
            sock.sendall(GET % b"")
            assert read_answer(sock).endswith(b"hello")


def test_connections_far_beyond_the_bound_are_dropped_without_a_word(tmp_path: Path) -> None:
    with bounded_server(tmp_path, max_connections=2) as server, ExitStack() as stack:
        waiting_connections(stack, server, 2)
        flood = [stack.enter_context(server.connect()) for _ in range(120)]
        eventually_sync(lambda: server.server.bounds.taken == 2 + 64)
        ended = 0
        for sock in flood:
            sock.settimeout(0.01)
            try:
                ended += sock.recv(1) == b""
            except ConnectionError:
                ended += 1
            except TimeoutError:
                pass
        assert ended == 120 - 64
        assert len(server.server.server_state.connections) <= 2 + 64


def limits(**more: int) -> Connections:
    return Connections(HttpLimitsSettings(**more))


def test_this_machine_is_bound_only_when_that_is_asked_for() -> None:
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""):
        unset, asked = limits(max_connections=40), limits(max_connections=40, max_connections_per_client=2)
        assert _granted(unset, address, 30) == 30
        assert _granted(asked, address, 30) == 2


@pytest.mark.parametrize(
    "addresses", [["192.0.2.7"], ["::ffff:192.0.2.7", "192.0.2.7"], ["2001:db8::1", "2001:db8::a:b"]]
)
def test_another_machine_gets_a_quarter_by_whichever_of_its_addresses_it_comes(addresses: list[str]) -> None:
    connections = limits(max_connections=40)
    assert sum(_granted(connections, address, 8) for address in addresses * 2) == 10
    assert _granted(connections, "192.0.2.8", 8) == 8
    assert _granted(connections, "2001:db8:0:1::1", 8) == 8


def test_a_place_is_given_back_once() -> None:
    connections = limits(max_connections=4)
    seats = [connections.take("192.0.2.7") for _ in range(3)]
    for seat in seats:
        assert seat is not None
        seat.release()
        seat.release()
    assert connections.taken == 0
    assert _granted(connections, "192.0.2.7", 4) == 1


def _granted(connections: Connections, address: str, count: int) -> int:
    seats = [connections.take(address) for _ in range(count)]
    return sum(seat is not None and seat.refusal is None for seat in seats)


def test_a_refused_connection_that_asks_for_nothing_is_closed_like_any_other(tmp_path: Path) -> None:
    with bounded_server(tmp_path, max_connections=1, head_timeout_s=0.2) as server, ExitStack() as stack:
        waiting_connections(stack, server, 1)
        with server.connect() as sock:
            begun = time.monotonic()
            assert read_until_closed(sock) == b""
            assert time.monotonic() - begun < 2
