"""An engine that costs next to nothing: the same answer to every request, or a stream of chunks at a fixed pace.

``python -m benchmarks.proxies.stub`` prints a ready line with its address and ends with its standard input. It answers
``POST /v1/chat/completions`` with a completion of 500 bytes. With ``"stream": true`` the prompt says what is wanted:
``chunks=N every_ms=M`` gives N events of some 170 bytes, the first at once and then one every M milliseconds, each with
the time at which it was written (``@`` and ``time.monotonic_ns`` in 20 digits), so that whoever receives it knows how
long it was under way. Streams begin anywhere, but their chunks are due at times spread evenly over the M milliseconds.

The requests are looked at by hand: the heads of a proxy come in one piece, and a parser would cost as much as all else.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop
from benchmarks.proxies.pacer import Pacer

MODEL = "stub:1"
ANSWER_BYTES = 500
MARK = b"@"
DIGITS = 20
SPREAD = 97
"""Places within one interval that streams are given in turn; a prime, since intervals are round numbers."""

_WISH = re.compile(rb"chunks=(\d+) every_ms=(\d+)")
_LENGTH = b"\r\ncontent-length:"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_USAGE = {"prompt_tokens": 100, "completion_tokens": 60, "total_tokens": 160}


def completion() -> bytes:
    """A chat completion of ``ANSWER_BYTES`` bytes."""

    def document(text: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
        return json.dumps({**whole, "choices": [choice], "usage": _USAGE}, separators=(",", ":")).encode()

    return document("x" * (ANSWER_BYTES - len(document(""))))


def _event(**fields: object) -> bytes:
    document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
    return b"data: %b\n\n" % json.dumps(document, separators=(",", ":")).encode()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(document: object) -> bytes:
    body = json.dumps(document).encode()
    return _JSON_HEAD % len(body) + body


COMPLETION = completion()
_ANSWER = _JSON_HEAD % len(COMPLETION) + COMPLETION
_FILLER = "@" + "0" * DIGITS
_CHUNK_HEAD, _CHUNK_TAIL = _framed(
    _event(choices=[{"index": 0, "delta": {"content": _FILLER}, "finish_reason": None}])
).split(_FILLER.encode())
_LAST = _framed(_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
_USED = _framed(_event(choices=[], usage=_USAGE))
_DONE = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
# What is asked by those who look for an engine or see whether one lives.
_PAGES = {
    b"/v1/models": _json(
        {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "stub"}]}
    ),
    b"/status": _json({"product": "stub"}),
    b"/health": _json({"status": "ok"}),
}


class Stub(asyncio.Protocol):
    """One connection; requests on it follow each other."""

    _streams = 0

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is one by its methods alone
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._buffer = data
            return
        head = data[:end]
        at = head.find(_LENGTH)
        if at < 0:
            head = head.lower()
            at = head.find(_LENGTH)
        size = end
        if at >= 0:
            size += int(head[at + len(_LENGTH) : head.index(b"\r", at + 2)])
        elif b"\r\ntransfer-encoding: chunked" in head:
            found = data.find(b"0\r\n\r\n", end)
            size = found + 5 if found >= 0 else len(data) + 1
        if len(data) < size:
            self._buffer = data
            return
        self._buffer = b""
        self._answer(data, end)
        if len(data) > size:
            self.data_received(data[size:])

    def _answer(self, data: bytes, end: int) -> None:
        if data.startswith((b"POST /v1/chat/completions", b"post /v1/chat/completions")):
            if data.find(b'"stream":true', end) >= 0 or data.find(b'"stream": true', end) >= 0:
                self._stream(data)
            else:
                self._transport.write(_ANSWER)
        else:
            self._transport.write(_PAGES.get(data.split(b" ", 2)[1].partition(b"?")[0], _NOT_FOUND))

    def _stream(self, data: bytes) -> None:
        wish = _WISH.search(data)
        chunks, every_ms = (int(wish[1]), int(wish[2])) if wish else (10, 1)
        self._every_s = every_ms / 1000
        self._left = chunks
        self._end = _LAST + (_USED if b'"include_usage"' in data else b"") + _DONE
        Stub._streams += 1
        place_s = Stub._streams % SPREAD / SPREAD * self._every_s
        self._due = (time.monotonic() // self._every_s + 1) * self._every_s + place_s
        self._transport.write(_STREAM_HEAD + self._chunk())
        self._go_on()

    def _chunk(self) -> bytes:
        self._left -= 1
        return b"%b@%020d%b" % (_CHUNK_HEAD, time.monotonic_ns(), _CHUNK_TAIL)

    def _go_on(self) -> None:
        if self._left:
            self._pacer.call_at(self._due, self._next)
        else:
            self._transport.write(self._end)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._chunk())
        self._due += self._every_s
        self._go_on()


async def main() -> None:
    pacer = Pacer()
    server = await asyncio.get_running_loop().create_server(lambda: Stub(pacer), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
