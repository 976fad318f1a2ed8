"""A double of the Foundry service: its HTTP, honestly, and every unpleasantness that the real one will not show.

In a test's own loop: ``async with EngineDouble() as double``. As a process of its own, supervised like the
real service: ``python engine_double.py --supervised [--port N] [--fault NAME] [--die-after S] [--exit-at-start]``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections import Counter, deque
from typing import Any, Self

__all__ = ["FAULTS", "EngineDouble"]

_BEFORE_THE_HEAD = ("stall", "close_before_head", "reset_before_head", "half_head", "no_http")
_ERRORS: dict[str, tuple[int, str, str, dict[str, str]]] = {
    "status_500": (500, "onnx.cc:17 broke", "internal_error", {}),
    "not_loaded": (400, "Model not loaded: double:1", "model_not_loaded", {}),
    "busy": (429, "too many", "queue_full", {"Retry-After": "7"}),
}
_LATER = (
    "half_json",  # announce the whole answer, send half of it
    "close_mid_stream",
    "reset_mid_stream",
    "stall_mid_stream",
    "error_mid_stream",  # an error frame, then a regular end
    "until_close",  # a stream without any framing
    "until_close_broken",  # the same, ended before [DONE]
    "slow_load",
)
FAULTS = ("", *_BEFORE_THE_HEAD, *_ERRORS, *_LATER)


class EngineDouble:
    """One double.

    Args:
        kind: ``ours``, ``gen3`` or ``openai``: what ``/status`` says.
        words: What a completion says, one chunk each.
        delay_s: Before each chunk.
    """

    def __init__(self, *, kind: str = "ours", words: tuple[str, ...] = ("one", "two", "three"), delay_s: float = 0.0):
        self.kind = kind
        self.words = words
        self.delay_s = delay_s
        self.models: list[dict[str, Any]] = [
            {
                "id": "double:1",
                "object": "model",
                "created": 7,
                "owned_by": "tests",
                "state": "cached",
                "alias": "double",
            }
        ]
        self.headers: dict[str, str] = {}
        self.faults: deque[str] = deque()  # one for each inference request to come; "" for none
        self.sticky_fault = ""  # for every inference request
        self.broken = ""  # for every request of any kind
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.left_early = 0
        self.chunks_sent = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(f"{method} {path}" for method, path, _, _ in self.seen)

    async def __aenter__(self) -> Self:
        if self._listener is None:
            await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def listen(self, port: int = 0) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse further connections; those that there are go on."""
        assert self._listener is not None
        self._listener.close()

    async def die(self) -> None:
        """As kill -9 does it: nobody listens, every connection is reset."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._writers):
            _reset(writer)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def move(self, port: int = 0) -> None:
        """Die and come back, on another port unless one is given."""
        await self.die()
        await self.listen(port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while self.broken != "refuse" and await self._one(reader, writer):
                pass
        self._tasks.discard(task)
        self._writers.discard(writer)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest if entry)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append((method, path, headers, body))
        if self.broken == "stall":
            await asyncio.sleep(3600)
        if self.broken == "no_http":
            writer.write(b"SSH-2.0-double\r\n")
            return False
        if path == "/v1/models":
            return await self._json(writer, 200, {"object": "list", "data": self.models})
        if path == "/status" and self.kind != "openai":
            return await self._json(writer, 200, self._status())
        if path.startswith(("/models/load/", "/models/unload/")):
            return await self._change(writer, method, path)
        if path in {"/v1/chat/completions", "/v1/embeddings"} and method == "POST":
            return await self._infer(reader, writer, json.loads(body))
        return await self._error(writer, 404, "no such route", "not_found")

    def _status(self) -> dict[str, Any]:
        status = {"modelCachePath": "/nowhere", "endpoints": [self.url], "pid": os.getpid()}
        return status | ({"product": "fastapi-foundry-service", "version": "0"} if self.kind == "ours" else {})

    async def _change(self, writer: asyncio.StreamWriter, method: str, path: str) -> bool:
        _, _, verb, name = path.split("/")
        if (method == "GET") is not (self.kind == "gen3"):
            return await self._error(writer, 405, "wrong method", "method_not_allowed")
        if self.sticky_fault == "slow_load":
            await asyncio.sleep(3600)
        if name.replace("%3A", ":") not in {model["id"] for model in self.models}:
            return await self._error(writer, 404, f"The model '{name}' is unknown.", "model_not_found")
        return await self._json(writer, 200, {"status": f"{verb}ed", "model": name.replace("%3A", ":")})

    async def _infer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any]) -> bool:
        fault = self.faults.popleft() if self.faults else self.sticky_fault
        if fault in _BEFORE_THE_HEAD:
            return await self._fail_early(reader, writer, fault)
        if fault in _ERRORS:
            status, message, code, headers = _ERRORS[fault]
            return await self._error(writer, status, message, code, headers)
        if request.get("model") not in {model["id"] for model in self.models}:
            return await self._error(writer, 404, f"The model '{request.get('model')}' is unknown.", "model_not_found")
        if request.get("stream"):
            return await self._stream(reader, writer, fault)
        answer = json.dumps({"id": "c1", "choices": [{"message": {"content": " ".join(self.words)}}]}).encode()
        if fault == "half_json":
            writer.write(_head(200, {"Content-Length": str(len(answer))}) + answer[: len(answer) // 2])
            return False
        await asyncio.sleep(self.delay_s)
        return await self._send(writer, 200, answer)

    async def _fail_early(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str) -> bool:
        if fault == "stall":
            await self._until_left(reader)
        elif fault == "reset_before_head":
            _reset(writer)
        elif fault == "half_head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
        elif fault == "no_http":
            writer.write(b"SSH-2.0-double\r\n")
        return False

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str) -> bool:
        framed = not fault.startswith("until_close")
        extra = {"Transfer-Encoding": "chunked"} if framed else {"Connection": "close"}
        writer.write(_head(200, {"Content-Type": "text/event-stream"} | extra | self.headers))
        gone = asyncio.create_task(self._until_left(reader))
        frames = [json.dumps({"id": "c1", "choices": [{"delta": {"content": word}}]}) for word in self.words]
        try:
            for number, frame in enumerate([*frames, "[DONE]"]):
                done, _ = await asyncio.wait([gone], timeout=self.delay_s)
                if done:
                    self.left_early += 1
                    return False
                if number == 1 and fault in {"close_mid_stream", "until_close_broken"}:
                    return False
                if number == 1 and fault == "reset_mid_stream":
                    await asyncio.sleep(0.05)  # a reset overtakes what was sent just before
                    _reset(writer)
                    return False
                if number == 1 and fault == "stall_mid_stream":
                    await gone
                if number == 1 and fault == "error_mid_stream":
                    await self._chunk(writer, b'data: {"error": {"message": "it broke"}}\n\n', framed=framed)
                    break
                await self._chunk(writer, f"data: {frame}\n\n".encode(), framed=framed)
            if framed:
                writer.write(b"0\r\n\r\n")
        finally:
            gone.cancel()
        return False  # the reader's task has eaten what may follow

    async def _chunk(self, writer: asyncio.StreamWriter, data: bytes, *, framed: bool) -> None:
        self.chunks_sent += 1
        writer.write(b"%x\r\n%b\r\n" % (len(data), data) if framed else data)
        await writer.drain()

    async def _until_left(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass

    async def _error(
        self, writer: asyncio.StreamWriter, status: int, message: str, code: str, headers: dict[str, str] | None = None
    ) -> bool:
        body = {"error": {"message": message, "type": "x", "param": None, "code": code}}
        return await self._send(writer, status, json.dumps(body).encode(), headers)

    async def _json(self, writer: asyncio.StreamWriter, status: int, document: object) -> bool:
        return await self._send(writer, status, json.dumps(document).encode())

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> bool:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))} | self.headers | (headers or {})
        writer.write(_head(status, fields) + body)
        await writer.drain()
        return True


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", default="", choices=FAULTS)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--exit-at-start", action="store_true")
    parser.add_argument("--never-ready", action="store_true")
    arguments = parser.parse_args()
    if arguments.exit_at_start:
        sys.stderr.write("RuntimeError: the double gives up\n")
        return 3
    if arguments.never_ready:
        await asyncio.sleep(3600)
    double = EngineDouble(delay_s=arguments.delay)
    double.sticky_fault = arguments.fault
    await double.listen(arguments.port)
    sys.stdout.write(json.dumps({"event": "ready", "url": double.url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    ends = [asyncio.create_task(asyncio.to_thread(sys.stdin.read))] if arguments.supervised else []
    if arguments.die_after is not None:
        ends.append(asyncio.create_task(asyncio.sleep(arguments.die_after, None)))
    await asyncio.wait(ends or [asyncio.create_task(asyncio.sleep(3600))], return_when=asyncio.FIRST_COMPLETED)
    os._exit(0 if arguments.die_after is None else 9)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
