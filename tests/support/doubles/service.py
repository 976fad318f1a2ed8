"""What every double has: a listener that can move, faults, a memory of what was asked, its files, control routes.

Control, never subject to faults: ``POST /_double/faults`` (one fault, or ``{"faults": [...]}``; replaces them all),
``GET /_double/seen``, ``POST /_double/forget``, ``GET /_double/state``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.support.doubles.faults import Fault, FaultPlan
from tests.support.doubles.http import Exchange, GoneError, Request, read_request, reset
from tests.support.doubles.models import DEFAULT_MODELS, DoubleModel, Shelf

__all__ = ["STATE_FILE", "DoubleOptions", "DoubleService"]

STATE_FILE: Final = "double.json"
_CRASH_STATUS: Final = 9
_STREAM_LIMIT_BYTES: Final = 1 << 20


@dataclass
class DoubleOptions:
    """How a double is started; ``home`` is its ``~/.foundry``, times are in seconds, ``habits`` see ``openai_like``."""

    home: Path
    port: int = 0
    models: tuple[str, ...] = DEFAULT_MODELS
    faults: tuple[str, ...] = ()
    load_s: float = 0.0
    download_s: float = 0.05
    chunk_delay_s: float = 0.0
    habits: tuple[str, ...] = ()


@dataclass
class _Memory:
    seen: list[dict[str, Any]] = field(default_factory=list)
    left_early: int = 0
    active: int = 0
    most_active: int = 0


class DoubleService(ABC):
    """One double, in the event loop of its process."""

    generation: ClassVar[str]
    server_header: ClassVar[str]
    writes_daemon_file: ClassVar[bool] = False

    def __init__(self, options: DoubleOptions) -> None:
        self.options = options
        models = [DoubleModel.from_text(text) for text in options.models]
        self.shelf = Shelf(models, load_s=options.load_s, download_s=options.download_s)
        self.faults = FaultPlan([Fault.from_json(text) for text in options.faults])
        self.memory = _Memory()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    async def answer(self, request: Request, exchange: Exchange) -> None:
        """Answer a request that no fault keeps from its answer."""

    @abstractmethod
    def kind_of(self, request: Request) -> str:
        """Which faults concern it: ``inference``, ``load``, ``download`` or ``list``."""

    @abstractmethod
    async def refuse(self, exchange: Exchange, status: int, message: str, retry_after_s: int | None = None) -> None:
        """An error in this generation's form."""

    async def listen(self, port: int) -> None:
        """Open ``port`` (0: any), and write down where."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=_STREAM_LIMIT_BYTES)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.write_files()

    async def move(self, port: int, but: asyncio.StreamWriter | None) -> None:
        """Close the port, reset every connection but one, and go on at another port."""
        old = self._listener
        await self.listen(port)
        if old is not None:
            old.close()
        for writer in [writer for writer in self._writers if writer is not but]:
            reset(writer)

    def write_files(self) -> None:
        """Write down where this double is."""
        home = self.options.home
        home.mkdir(parents=True, exist_ok=True)
        known = {"generation": self.generation, "url": self.url, "pid": os.getpid()}
        _replace(home / STATE_FILE, known)
        if self.writes_daemon_file:
            _replace(home / "daemon.json", {"web_urls": [self.url], "pid": os.getpid()})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, GoneError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await read_request(reader)
        exchange = Exchange(reader, writer, self.server_header)
        if request.path.startswith("/_double/"):
            await self._control(request, exchange)
            return True
        self._remember(request)
        self.memory.active += 1
        self.memory.most_active = max(self.memory.most_active, self.memory.active)
        try:
            fault = self.faults.take(self.kind_of(request))
            if not await self._instead(fault, exchange, streams=_wants_stream(request)):
                exchange.fault = fault
                await self.answer(request, exchange)
        except GoneError:
            self.memory.left_early += exchange.left
            raise
        finally:
            self.memory.active -= 1
        return exchange.keep_alive and request.headers.get("connection", "").lower() != "close"

    async def _instead(self, fault: Fault | None, exchange: Exchange, *, streams: bool) -> bool:
        """Do what a fault does instead of an answer; whether it was such a fault."""
        match fault.name if fault else "":
            case "stall" | "wedged":
                assert fault is not None
                await exchange.until_left(fault.seconds)
                return False
            case "close":
                raise GoneError
            case "reset":
                exchange.reset()
            case "half_head":
                await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Ty")
            case "no_http":
                await exchange.raw(b"SSH-2.0-double\r\n")
            case "crash":
                os._exit(_CRASH_STATUS)
            case "move":
                assert fault is not None
                await self.move(fault.port, but=None)
                raise GoneError
            case "":
                return False
            case _:
                assert fault is not None
                return await self._other_answer(fault, exchange, streams=streams)
        return True

    async def _other_answer(self, fault: Fault, exchange: Exchange, *, streams: bool) -> bool:
        match fault.name:
            case "unauthorized":
                await self.refuse(exchange, 401, "Unauthorized")
            case "rate_limited":
                await self.refuse(exchange, 429, "Too many requests", fault.retry_after_s)
            case "unavailable":
                await self.refuse(exchange, 503, "Service unavailable", fault.retry_after_s)
            case "broken":
                await self.refuse(exchange, 500, fault.error("the engine broke")["message"])
            case "error_in_200" if streams:
                await exchange.begin("text/event-stream")
                await exchange.event({"error": fault.error("the engine broke")})
                await exchange.finish()
            case "error_in_200":
                await exchange.json({"error": fault.error("the engine broke")})
            case _:
                return False
        return True

    async def available(self, model: DoubleModel, exchange: Exchange) -> bool:
        """Whether a model is loaded; waits, or refuses with 503, while it loads and the fault says so."""
        slow = self.faults.slow_load
        if slow is not None and slow.on_demand and model.state == "cached":
            loading = asyncio.create_task(self.shelf.load(model, slow.seconds))
            self._tasks.add(loading)
            loading.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)
        if model.state == "loading" and slow is not None:
            if slow.meanwhile == "refuse":
                await self.refuse(exchange, 503, f"Model is loading: {model.id}", slow.retry_after_s)
                return False
            await self.shelf.load(model)
        if model.state == "loaded":
            return True
        await self.not_loaded(exchange, model)
        return False

    async def load(self, model: DoubleModel) -> None:
        """Load a model in the time that the options or the fault set."""
        slow = self.faults.slow_load
        await self.shelf.load(model, None if slow is None else slow.seconds)

    @abstractmethod
    async def not_loaded(self, exchange: Exchange, model: DoubleModel) -> None:
        """Say that a model is not loaded."""

    def _remember(self, request: Request) -> None:
        self.memory.seen.append(
            {
                "method": request.method,
                "path": request.target,
                "headers": request.headers,
                "body": request.body.decode("utf-8", "replace"),
            }
        )

    async def _control(self, request: Request, exchange: Exchange) -> None:
        match (request.method, request.path.removeprefix("/_double/")):
            case ("GET", "seen"):
                await exchange.json(self.memory.seen)
            case ("GET", "state"):
                await exchange.json(self._state())
            case ("POST", "forget"):
                self.memory = _Memory()
                await exchange.json({})
            case ("POST", "faults"):
                await self._set_faults(json.loads(request.body), exchange)
            case _:
                await exchange.json({"error": "no such control route"}, 404)

    async def _set_faults(self, body: Any, exchange: Exchange) -> None:
        try:
            given = body["faults"] if isinstance(body, dict) and "faults" in body else [body]
            faults = [Fault.from_json(value) for value in given]
        except (ValueError, TypeError) as error:
            await exchange.json({"error": str(error)}, 400)
            return
        if any(fault.name == "crash" and fault.at_once for fault in faults):
            os._exit(_CRASH_STATUS)
        for fault in faults:
            if fault.at_once:
                await self.move(fault.port, but=exchange.writer)
        self.faults.replace([fault for fault in faults if not fault.at_once])
        await exchange.json({"url": self.url})

    def _state(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "url": self.url,
            "models": [model.as_json() for model in self.shelf.models],
            "connections": len(self._writers) - 1,
            "active": self.memory.active,
            "most_active": self.memory.most_active,
            "left_early": self.memory.left_early,
        }


def _wants_stream(request: Request) -> bool:
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(request.body).get("stream") is True
    return False


def _replace(path: Path, document: object) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)
