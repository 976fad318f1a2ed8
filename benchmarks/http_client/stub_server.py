"""A server that costs next to nothing: fixed bytes for every request, or a stream of fixed chunks.

``/json`` answers with a chat completion of 500 bytes, ``/stream?chunks=N&every_ms=M`` with N server-sent
events of 170 bytes, one every M milliseconds, each with the time at which it was sent (@, then
``time.monotonic_ns`` in 20 digits).
"""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.parse import parse_qs, urlsplit

import uvloop

BODY = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"%b"}}]}' % (b"x" * 415)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Stub(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            path = self.buffer.split(b" ", 2)[1]
            self.buffer = self.buffer[end + 4 + length :]
            if path.startswith(b"/stream"):
                asyncio.get_running_loop().create_task(self.stream(path.decode()))
            else:
                self.transport.write(ANSWER)

    async def stream(self, path):
        wanted = parse_qs(urlsplit(path).query)
        every_s = float(wanted["every_ms"][0]) / 1000
        self.transport.write(STREAM_HEAD)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(int(wanted["chunks"][0])):
            due += every_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.transport.is_closing():
                return
            chunk = EVENT % (b"x" * 42 + b"@%020d" % time.monotonic_ns())
            self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.transport.write(b"0\r\n\r\n")


async def main():
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
