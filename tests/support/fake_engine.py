"""An engine in this process that does what a test tells it to, and remembers what was asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastapi_foundry.engines.base import NO_NOTES, Call, EngineState, EngineStatus, ModelCard, Notes, Reply, TokenCount
from fastapi_foundry.engines.catalog import Catalog, CatalogModel, CatalogSource, DownloadProgress
from fastapi_foundry.errors import FoundryError

__all__ = ["FakeEngine", "SeenCall", "chunk", "content_chunks", "frame"]

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@dataclass
class SeenCall:
    path: str
    body: bytes
    request_id: str
    cancelled: bool = False

    @property
    def parsed(self) -> dict[str, Any]:
        return dict(orjson.loads(self.body))


class _Stream:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.headers: Mapping[str, str] = {"content-type": "text/event-stream"}
        self.notes: Notes = NO_NOTES
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


def frame(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m:1", "choices": [choice]}


def content_chunks(*texts: str, usage: bool = True) -> list[bytes]:
    frames = [frame(chunk({"role": "assistant", "content": ""}))]
    frames += [frame(chunk({"content": text})) for text in texts]
    frames.append(frame(chunk({}, "stop")))
    if usage:
        frames.append(frame({**chunk({}), "choices": [], "usage": USAGE}))
    return [*frames, b"data: [DONE]\n\n"]


@dataclass
class FakeEngine:
    """Answers with ``text``; ``chunks`` and ``errors`` are what a test scripts.

    ``chunks`` may hold an exception, raised in its turn. ``gate``, when set, has to be released with
    ``gate.set()`` before an answer (or the next chunk) comes.
    """

    text: str = "Hello."
    state: EngineState = EngineState.READY
    reason: str = ""
    url: str = "http://127.0.0.1:50477"
    cards: list[ModelCard] = field(
        default_factory=lambda: [
            ModelCard("m:1", 1, "tests", "loaded", {"alias": "m", "context_length": 512}),
            ModelCard("other:2", 1, "tests", "cached", {"alias": "other"}),
        ]
    )
    chunks: list[bytes | Exception] | None = None
    error: FoundryError | None = None
    counts: Callable[[Call], TokenCount] | None = None
    list_error: FoundryError | None = None
    list_gate: asyncio.Event | None = None
    gate: asyncio.Event | None = None
    calls: list[SeenCall] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    lists: int = 0
    active: int = 0
    most_active: int = 0
    started: bool = False
    closed: bool = False

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            self.state, url=self.url, reason=self.reason, found_by="started", tried=(("base_url", "", "not set"),)
        )

    def direct_line(self) -> None:
        return None

    async def start(self) -> None:
        self.started = True

    async def aclose(self) -> None:
        self.closed = True

    async def wait_ready(self, timeout_s: float) -> None:
        del timeout_s

    async def list_models(self) -> list[ModelCard]:
        self.lists += 1
        if self.list_gate is not None:
            await self.list_gate.wait()
        if self.list_error is not None:
            raise self.list_error
        return self.cards

    async def post(self, call: Call) -> Reply:
        async with self._called(call) as seen:
            await self._wait()
            if self.error is not None:
                raise self.error
            answer = self.answer(seen)
            if isinstance(answer, FoundryError):
                raise answer
            return Reply(orjson.dumps(answer))

    def answer(self, call: SeenCall) -> dict[str, Any] | FoundryError:
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": call.parsed["model"],
            "choices": [choice],
            "usage": USAGE,
        }

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[_Stream]:
        async with self._called(call):
            if self.error is not None:
                raise self.error
            yield _Stream(self._scripted())

    async def _scripted(self) -> AsyncIterator[bytes]:
        for item in self.chunks if self.chunks is not None else content_chunks("Hel", "lo."):
            await self._wait()
            if isinstance(item, Exception):
                raise item
            yield item

    async def _wait(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    @asynccontextmanager
    async def _called(self, made: Call) -> AsyncIterator[SeenCall]:
        call = SeenCall(made.path, made.body, made.request_id)
        self.calls.append(call)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            yield call
        except (asyncio.CancelledError, GeneratorExit):
            call.cancelled = True
            raise
        finally:
            self.active -= 1

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        if self.list_error is not None:
            raise self.list_error
        models = (CatalogModel("far:1", "available", extra={"alias": "far"}),)
        return Catalog((CatalogSource("", "fresh" if refresh else "stale"),), models)

    @asynccontextmanager
    async def download(self, model: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        if self.error is not None:
            raise self.error

        async def progress() -> AsyncIterator[DownloadProgress]:
            yield DownloadProgress(50.0)
            yield DownloadProgress(100.0, f"{model}:1")

        yield progress()

    async def count_tokens(self, call: Call) -> TokenCount | None:
        if self.error is not None:
            raise self.error
        return None if self.counts is None else self.counts(call)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        return {"status": "cancelled", "model": model}

    async def load_model(self, model: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.loaded.append(model)
        return {"status": "loaded", "model": model, "duration": 0.1, "memory_mb": 10.0}

    async def unload_model(self, model: str) -> dict[str, Any]:
        return {"status": "unloaded", "model": model}
