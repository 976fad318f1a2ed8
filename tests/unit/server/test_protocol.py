"""The bounds of a connection, over real sockets: heads, bodies, answers that nobody reads, pipelines."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bounded_server import BoundedServer, bounded_server, read_answer, read_until_closed

HEAD_S = 0.3
IDLE_S = 0.4
LINE = b"A: " + b"x" * 400 + b"\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoundedServer]:
    with bounded_server(
        tmp_path_factory.mktemp("home"),
        head_timeout_s=HEAD_S,
        max_head_bytes=4096,
        max_headers=20,
        body_idle_timeout_s=0.3,
        min_body_bytes_per_s=1000,
        body_pace_window_s=0.2,
        write_timeout_s=0.4,
        keep_alive_s=IDLE_S,
    ) as running:
        yield running


def post(path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_on(sock: socket.socket) -> None:
    while sock.recv(262_144):
        pass


def sent_until_cut(sock: socket.socket) -> int:
    """Send for as long as the other side takes it; the bytes that it took, at most 1 GB."""
    sent = 0
    try:
        while sent < 1_000_000_000:
            sock.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            sent += 65_536
    except ConnectionError:
        pass
    return sent


def error(answer: bytes) -> tuple[int, str]:
    """The status and the code of an answer in the native form or in OpenAI's, whole and framed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert b"connection: close" in head
    assert b"x-request-id: req_" in head
    content: dict[str, Any] = json.loads(body)
    status = int(head.split()[1])
    if isinstance(content["error"], dict):
        assert content["error"].keys() == {"message", "type", "param", "code"}
        return status, "openai " + content["error"]["code"]
    assert content["status_code"] == status
    assert content["detail"]
    return status, "native " + content["code"]


def test_a_head_that_trickles_is_408_in_its_dialect_however_steadily_it_comes(server: BoundedServer) -> None:
    begun = time.monotonic()
    with server.connect() as native, server.connect() as openai:
        native.sendall(b"GET /api/v1/models HTTP/1.1\r\n")
        openai.sendall(b"GET /v1/models?x=1 HTTP/1.1\r\n")
        for number in range(6):
            time.sleep(0.07)
            for sock in (native, openai):
                sock.sendall(f"X-{number}: a\r\n".encode())
        assert error(read_until_closed(native)) == (408, "native request_too_slow")
        assert error(read_until_closed(openai)) == (408, "openai request_too_slow")
    assert HEAD_S < time.monotonic() - begun < 2


@pytest.mark.parametrize("piece", [b"", b"\r\n"])
def test_a_connection_without_a_request_is_closed_with_no_bytes_or_only_line_ends(
    server: BoundedServer, piece: bytes
) -> None:
    begun = time.monotonic()
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(piece)
            time.sleep(0.1)
        answer = read_until_closed(sock)
    assert time.monotonic() - begun < 2
    assert answer == b"" if not piece else error(answer) == (408, "native request_too_slow")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /v1/" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"A: x\r\n" * 30 + b"\r\n",
        GET[:-2] % b"v1/models" + LINE * 13 + b"\r\n",
        GET[:-2] % b"v1/models" + b"A: " + b"x" * 300_000,
        GET[:-2] % b"v1/models" + b"Content-Length: 200000\r\n" + LINE * 13 + b"\r\n" + b"x" * 100_000,
    ],
    ids=["one header", "path", "many headers", "sum", "no end", "with a body behind it"],
)
def test_a_head_that_is_too_large_is_431(server: BoundedServer, head: bytes) -> None:
    before = len(server.log)
    assert error(server.send(head)) == (431, "openai head_too_large")
    assert server.log[before:] == []


def test_a_head_within_the_limits_passes_in_whatever_pieces_it_comes(server: BoundedServer) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: " + b"x" * 3900 + b"\r\n\r\n"
    assert server.send(head).endswith(b"hello")
    assert server.send(*(head[start : start + 800] for start in range(0, len(head), 800)), pause_s=0.02).endswith(
        b"hello"
    )


@pytest.mark.parametrize(
    ("request_", "dialect"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "native"),
        (b"HELLO / HTTP/1.1\r\n\r\n", "native"),
        (b"GET /v1/models HTTP/1.1\r\nHost localhost\r\n\r\n", "openai"),
        (b"POST /api/v1/generate HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "native"),
        (b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "openai"),
        (b"POST /v1/embeddings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "openai"),
    ],
    ids=["TLS", "method", "header", "length", "two lengths", "chunk"],
)
def test_what_is_no_http_is_400_in_its_dialect(server: BoundedServer, request_: bytes, dialect: str) -> None:
    assert error(server.send(request_)) == (400, f"{dialect} http_invalid")


def test_a_body_that_falls_silent_is_408_and_over_for_the_application(server: BoundedServer) -> None:
    begun = time.monotonic()
    assert error(server.send(post("/v1/upload", "Content-Length: 100", body=b"{"))) == (408, "openai request_too_slow")
    assert time.monotonic() - begun < 2
    server.eventually_logged("gone /v1/upload 408")


def test_a_body_that_trickles_is_408_although_it_never_falls_silent(server: BoundedServer) -> None:
    begun = time.monotonic()
    with server.connect() as sock:
        sock.sendall(post("/a/upload", "Transfer-Encoding: chunked"))
        while not select.select([sock], [], [], 0.05)[0] and time.monotonic() - begun < 5:
            sock.sendall(b"5\r\nhello\r\n")
        assert time.monotonic() - begun < 2
        assert error(read_until_closed(sock)) == (408, "native request_too_slow")
    server.eventually_logged("gone /a/upload 408")


def test_a_slow_body_above_the_pace_passes_however_long_it_takes(server: BoundedServer) -> None:
    begun = time.monotonic()
    pieces = [post("/upload", "Content-Length: 3200", "Connection: close")] + [b"x" * 160] * 20
    assert server.send(*pieces, pause_s=0.04).endswith(b"3200")
    assert time.monotonic() - begun > 0.6


def test_a_client_that_waits_for_a_late_application_is_not_blamed(server: BoundedServer) -> None:
    with server.connect() as eager, server.connect() as polite:
        eager.sendall(post("/late", "Content-Length: 400000", "Connection: close"))
        polite.sendall(post("/late", "Content-Length: 400000", "Connection: close", "Expect: 100-continue"))
        eager.sendall(b"x" * 400_000)
        assert polite.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        polite.sendall(b"x" * 400_000)
        assert read_until_closed(eager).endswith(b"400000")
        assert read_until_closed(polite).endswith(b"400000")


@pytest.mark.parametrize(
    "flood",
    [b"1;" + b"x" * 600_000, b"1\r\na\r\n0\r\nA: " + b"x" * 600_000, b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 100],
    ids=["chunk extension", "trailer", "trailers"],
)
def test_bytes_that_no_body_comes_of_are_bounded(server: BoundedServer, flood: bytes) -> None:
    answer = server.send(post("/v1/upload", "Transfer-Encoding: chunked", body=flood))
    assert error(answer) == (431, "openai head_too_large")


def test_an_answer_before_the_end_of_a_large_body_arrives_although_the_client_sends_on(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(post("/refuse", "Content-Length: 9000000"))
        sock.sendall(b"x" * 9_000_000)
        begun = time.monotonic()
        answer = read_until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"too large")
    assert b"connection: close" in answer
    assert time.monotonic() - begun < 3


def test_what_is_sent_behind_such_an_answer_has_an_end(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(post("/refuse", "Transfer-Encoding: chunked"))
        assert read_answer(sock).startswith(b"HTTP/1.1 413 ")
        begun = time.monotonic()
        assert sent_until_cut(sock) < 120_000_000
        assert time.monotonic() - begun < 4


def test_the_rest_of_a_small_body_is_read_so_that_the_connection_can_be_used_again(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(post("/refuse", "Content-Length: 3000", body=b"x"))
        assert b"connection: close" not in read_answer(sock)
        sock.sendall(b"x" * 2999 + GET % b"again")
        assert read_answer(sock).endswith(b"hello")
        sock.sendall(post("/refuse", "Content-Length: 3000", body=b"x"))
        assert read_answer(sock).endswith(b"too large")
        sock.sendall(b"x" * 2999)
        assert sock.recv(1) == b""  # idle for too long, and not blamed for anything


def test_a_connection_can_be_used_again_after_a_large_body(server: BoundedServer) -> None:
    with server.connect() as sock:
        for piece in (post("/upload", "Content-Length: 300000"), b"x" * 150_000, b"x" * 150_000):
            sock.sendall(piece)
            time.sleep(0.02)
        assert b"connection: close" not in read_answer(sock)
        sock.sendall(GET % b"again")
        assert read_answer(sock).endswith(b"hello")


def test_the_rest_of_a_small_body_is_not_waited_for_any_longer_than_a_head(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(post("/refuse", "Content-Length: 3000", body=b"x"))
        assert read_answer(sock).endswith(b"too large")
        begun = time.monotonic()
        assert error(read_until_closed(sock)) == (408, "native request_too_slow")
        assert time.monotonic() - begun < 2


def test_an_idle_connection_is_closed_and_one_in_use_is_kept(server: BoundedServer) -> None:
    with server.connect() as sock:
        for _ in range(3):
            time.sleep(IDLE_S / 2)
            sock.sendall(GET % b"")
            assert read_answer(sock).endswith(b"hello")
        begun = time.monotonic()
        assert sock.recv(1) == b""
        assert IDLE_S * 0.9 < time.monotonic() - begun < IDLE_S * 2


def test_a_client_that_does_not_read_is_cut_off_and_holds_little(server: BoundedServer) -> None:
    with server.connect(receive_buffer=8192) as of_stream, server.connect(receive_buffer=8192) as of_whole:
        for sock, path in ((of_stream, b"stream"), (of_whole, b"large")):
            sock.sendall(GET % path)
            sock.recv(100)
        time.sleep(0.9)
        for sock in (of_stream, of_whole):
            with pytest.raises(ConnectionError):
                read_on(sock)
    server.eventually_logged("gone /stream None")
    sent = next(int(line.partition(" ")[2]) for line in server.log if line.startswith("sent "))
    assert sent < 1_000_000


def test_a_slow_reader_that_goes_on_reading_gets_everything(server: BoundedServer) -> None:
    with server.connect(receive_buffer=65_536) as sock:
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"large")
        begun = time.monotonic()
        received = 0
        while data := sock.recv(1_500_000):
            received += len(data)
            if time.monotonic() - begun < 1.2:
                time.sleep(0.05)
        assert time.monotonic() - begun > 1.0
    assert received > 20_000_000


def test_pipelined_requests_are_answered_in_order(server: BoundedServer) -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = server.send(GET % b"slow" + GET % b"" + last % b"slow")
    assert [part[-5:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"\nslow", b"hello", b"\nslow"]


def test_a_pipeline_has_an_end(server: BoundedServer) -> None:
    before = len(server.log)
    assert server.send(GET % b"pipeline/slow" * 1000).count(b"HTTP/1.1 200") < 10
    server.eventually_logged("begin /pipeline/slow")
    assert len(server.log) - before < 20


def test_a_client_that_leaves_is_noticed_by_the_request_that_runs_before_the_last_one(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(GET % b"first/wait" + GET % b"second/wait")
        server.eventually_logged("begin /first/wait")
    server.eventually_logged("gone /first/wait None")


def test_rubbish_behind_a_request_ends_that_request(server: BoundedServer) -> None:
    with server.connect() as sock:
        sock.sendall(GET % b"rubbish/wait")
        server.eventually_logged("begin /rubbish/wait")
        sock.sendall(b"\0\0\0\0")
        assert error(read_until_closed(sock))[0] == 400
    server.eventually_logged("gone /rubbish/wait 400")


def test_rubbish_behind_an_answer_that_has_begun_ends_it_without_a_word(server: BoundedServer) -> None:
    with server.connect(receive_buffer=8192) as sock:
        sock.sendall(GET % b"cut/stream")
        assert sock.recv(20).startswith(b"HTTP/1.1 200")
        sock.sendall(b"\0\0\0\0")
        rest = read_until_closed(sock)
    assert b"HTTP/1.1 400" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    server.eventually_logged("gone /cut/stream 400")


def test_nothing_stays_behind(server: BoundedServer, tmp_path: Path) -> None:
    del tmp_path
    deadline = time.monotonic() + 5
    while server.server.bounds.taken and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.server.bounds.taken == 0
    assert server.server.server_state.connections == set()
