"""Ways to ask the same model the same thing, each one hop longer than the one before.

A session of the engine; a runner, over its pipes; the service, over HTTP; the gateway in front of it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
EVENT = re.compile(rb"data: (\{.*\})\r?\n")
READ_BYTES = 65_536


@dataclass(frozen=True)
class Told:
    """An answer: its documents, and when each was there, in seconds since the request was begun."""

    documents: list[dict[str, Any]]
    times: list[float]

    @property
    def text(self) -> str:
        """What it says, whole or in pieces."""
        return "".join(self._piece(document) for document in self.documents)

    @property
    def tokens(self) -> int:
        """How many it has: the engine's count of a whole one, the pieces with text of a stream."""
        usage = self.documents[-1].get("usage")
        return int(usage["completion_tokens"]) if usage else sum(map(bool, map(self._piece, self.documents)))

    @staticmethod
    def _piece(document: dict[str, Any]) -> str:
        assert "choices" in document, document
        choice = document["choices"][0]
        return str((choice.get("message") or choice["delta"]).get("content") or "")


class Way(ABC):
    """One way.

    Attributes:
        name: For the report.
        processes: Name and id of each process on it.
    """

    def __init__(self, name: str, processes: dict[str, int]) -> None:
        self.name, self.processes = name, processes

    @abstractmethod
    def ask(self, body: dict[str, Any]) -> Told:
        """Ask once; blocks until the end of the answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End what was started for it."""


class _Child(Way):
    """A process that is asked over its pipes, and ends with its stdin."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": python_path()},
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        super().__init__(name, {name: self._popen.pid})

    def close(self) -> None:
        self._stdin.close()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._stdin.write(_encoded(message) + b"\n")
        self._stdin.flush()

    def _line(self) -> bytes:
        line = self._stdout.readline()
        assert line, f"{self.name} has ended"
        return line


class Direct(_Child):
    """A session of the engine in a process that does nothing else; it takes the times itself."""

    def __init__(self, model: Path, model_id: str, data: Path) -> None:
        script = Path(__file__).with_name("direct_session.py")
        super().__init__("direct session", [str(script), str(model), model_id, str(data)])
        self._line()

    def ask(self, body: dict[str, Any]) -> Told:
        self._send(body)
        answer = json.loads(self._line())
        return Told([json.loads(document) for document in answer["data"]], answer["times"])


class Runner(_Child):
    """A runner, spoken to as the service does."""

    def __init__(self, model: Path, model_id: str, data: Path) -> None:
        super().__init__("runner", ["-m", "fastapi_foundry.daemon.runner"])
        config = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
        spec = {"id": model_id, "alias": model_id.partition(":")[0], "path": str(model), "task": "chat-completion"}
        spec |= {"tool_calling": False, "context_length": config["model"]["context_length"]}
        self._send({"op": "init", "role": "model", "data_dir": str(data), "threads": 4, "keep": {}, "model": spec})
        assert json.loads(self._line())["event"] == "ready"

    def ask(self, body: dict[str, Any]) -> Told:
        lines, times, began = [], [], time.perf_counter()
        self._send({"op": "chat", "id": 1, "body": body})
        while not lines or lines[-1].startswith((b'{"event":"chunk"', b'{"event":"begun"')):
            lines.append(self._line())
            times.append(time.perf_counter() - began)
        frames = [(json.loads(line), moment) for line, moment in zip(lines, times, strict=True)]
        assert frames[-1][0]["event"] == "done", frames[-1]
        told = [(frame["data"], moment) for frame, moment in frames if frame.get("data")]
        return Told([data for data, _ in told], [moment for _, moment in told])


class Http(Way):
    """A bare socket that stays open, to the service or to the gateway."""

    def __init__(self, name: str, processes: dict[str, int], url: str, key: str = "") -> None:
        super().__init__(name, processes)
        host, port = url.removeprefix("http://").rsplit(":", 1)
        self._address = host, int(port)
        self._socket = self._connected()
        credentials = f"authorization: Bearer {key}\r\n" if key else ""
        self._head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n{credentials}".encode()
        self._head += b"content-type: application/json\r\ncontent-length: "

    def ask(self, body: dict[str, Any]) -> Told:
        content = _encoded(body)
        request = self._head + b"%d\r\n\r\n" % len(content) + content
        streams = bool(body.get("stream"))
        if self._was_closed():
            self._socket = self._connected()
        reads, times, began = [b""], [0.0], time.perf_counter()
        self._socket.sendall(request)
        while not (_is_last(b"".join(reads[-2:])) if streams else _is_complete(b"".join(reads))):
            reads.append(self._socket.recv(READ_BYTES))
            times.append(time.perf_counter() - began)
            assert reads[-1], f"the {self.name} closed the connection after {times[-1]:.3f} s"
        whole = b"".join(reads)
        assert whole.startswith(b"HTTP/1.1 200"), whole
        if not streams:
            return Told([json.loads(whole.partition(b"\r\n\r\n")[2])], times[-1:])
        events = [(event, moment) for read, moment in zip(reads, times, strict=True) for event in EVENT.findall(read)]
        return Told([json.loads(event) for event, _ in events], [moment for _, moment in events])

    def close(self) -> None:
        self._socket.close()

    def _connected(self) -> socket.socket:
        made = socket.create_connection(self._address)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _was_closed(self) -> bool:
        """Whether the other side gave the connection up, as it does after a while without a request."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False


def _is_last(read: bytes) -> bool:
    return read.endswith(b"\r\n0\r\n\r\n")


def _is_complete(answer: bytes) -> bool:
    head, end, content = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ([0-9]+)", head.lower())
    return bool(end and length and len(content) >= int(length[1]))


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def python_path() -> str:
    """For processes of this checkout."""
    return f"{ROOT}{os.pathsep}{ROOT / 'src'}"
