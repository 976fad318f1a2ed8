"""A small real HTTP server that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Route = Callable[["Asked"], "Said"]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: Any


@dataclass(frozen=True)
class Said:
    """An answer: whole JSON, or raw pieces after which the connection is closed."""

    body: Any = None
    status: int = 200
    pieces: list[bytes] | None = None
    content_length: int | None = None


@dataclass
class StubServer:
    url: str
    routes: dict[str, Said | Route]
    asked: list[Asked] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.asked]


@contextmanager
def stub_server(routes: dict[str, Said | Route]) -> Iterator[StubServer]:
    stub = StubServer("", routes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            self.answer("POST")

        def answer(self, method: str) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Asked(method, self.path, json.loads(raw) if raw else None)
            stub.asked.append(request)
            route = stub.routes.get(f"{method} {self.path}", Said({"error": {"message": "no such route"}}, 404))
            said = route(request) if callable(route) else route
            content = b"".join(said.pieces) if said.pieces is not None else json.dumps(said.body).encode()
            self.send_response(said.status)
            if said.content_length is not None:
                self.send_header("Content-Length", str(said.content_length))
            elif said.pieces is None:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked may have left
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def service_status(pid: int = 0, **more: object) -> Said:
    return Said({"product": "fastapi-foundry-service", "pid": pid, "version": "0.1.0", "runners": [], **more})
