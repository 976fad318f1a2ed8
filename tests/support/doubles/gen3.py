"""Generation 3: the native web service of ``foundry-local-sdk`` 2.2.1, as measured with the demo model.

``test_doubles.py`` compares it with the real service. Routes that load take aliases, routes that infer take ids.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.support.doubles import gen3_responses
from tests.support.doubles.gen3_chat import ChatError, Generated, generate, parse_chat
from tests.support.doubles.gen3_disk import write_cache
from tests.support.doubles.http import Exchange, Request
from tests.support.doubles.models import DoubleModel
from tests.support.doubles.service import DoubleService
from tests.support.doubles.text_model import embedding

__all__ = ["Gen3Double"]

_CHANGE: Final = re.compile(r"/models/(load|unload)/([^/]+)")
_INFERENCE: Final = {"/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/audio/transcriptions"}


_Route = Callable[[Request, Exchange], Awaitable[None]]


class Gen3Double(DoubleService):
    """See the module."""

    generation: ClassVar[str] = "gen3"
    server_header: ClassVar[str] = "oatpp/1.3.0"

    @property
    def cache(self) -> Path:
        """Where the models lie."""
        return self.options.home / "cache" / "models"

    def write_files(self) -> None:
        """Write down where this double is, and its models."""
        super().write_files()
        write_cache(self.cache, self.shelf.models)

    def kind_of(self, request: Request) -> str:
        if change := _CHANGE.fullmatch(request.path):
            return change[1]
        return "inference" if request.path in _INFERENCE else "list"

    async def answer(self, request: Request, exchange: Exchange) -> None:
        routes: dict[tuple[str, str], _Route] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/v1/responses"): self._responses,
            ("POST", "/shutdown"): self._shut_down,
        }
        route = routes.get((request.method, request.path))
        if route is not None:
            await route(request, exchange)
        elif request.method != "GET":
            await self._no_route(request, exchange)
        elif change := _CHANGE.fullmatch(request.path):
            await self._change(change[1], change[2], exchange)
        elif (document := self._document(request.path)) is not None:
            await exchange.json(document)
        elif request.path.startswith("/v1/models/"):
            await self._unknown(exchange, request.path.removeprefix("/v1/models/"))
        else:
            await self._no_route(request, exchange)

    def _document(self, path: str) -> Any:
        """What a route that only tells something answers; None: no such route or model."""
        documents: dict[str, Any] = {
            "/status": self._status(),
            "/models/loaded": [model.id for model in self.shelf.having("loaded")],
            "/v1/models": {"data": [_card(model) for model in self.shelf.models], "object": "list"},
            "/v1/responses": {"data": [], "first_id": None, "has_more": False, "last_id": None, "object": "list"},
        }
        documents |= {f"/v1/models/{model.id}": _card(model) for model in self.shelf.models}
        return documents.get(path)

    async def _shut_down(self, request: Request, exchange: Exchange) -> None:
        del request, exchange
        os._exit(0)

    async def refuse(self, exchange: Exchange, status: int, message: str, retry_after_s: int | None = None) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"code": None, "message": message, "param": None, "type": kind}
        headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
        await exchange.json({"error": error}, status, headers)

    async def not_loaded(self, exchange: Exchange, model: DoubleModel) -> None:
        await self.refuse(exchange, 400, f"Model not loaded: Model '{model.id}' must be loaded before inference")

    def _status(self) -> dict[str, Any]:
        return {"endpoints": [self.url], "modelCachePath": str(self.cache), "pid": os.getpid()}

    async def _unknown(self, exchange: Exchange, name: str) -> None:
        await self.refuse(exchange, 404, f"Model not found: No model matching '{name}'")

    async def _no_route(self, request: Request, exchange: Exchange) -> None:
        exchange.keep_alive = False
        text = f"No mapping for HTTP-method: '{request.method}', URL: '{request.path}'"
        body = f"server=oatpp/1.3.0\ncode=404\ndescription=Not Found\nmessage={text}\n"
        await exchange.send(b"" if request.method == "HEAD" else body.encode(), 404)

    async def _change(self, verb: str, name: str, exchange: Exchange) -> None:
        # By alias alone, and as it stands in the URL: neither an id nor percent-encoding is understood.
        model = self.shelf.by_alias(name)
        if model is None:
            await self._unknown(exchange, name)
        elif verb == "unload":
            loaded, model.state = model.state == "loaded", "cached" if model.state == "loaded" else model.state
            await exchange.json({"status": "unloaded" if loaded else "not_loaded"})
        elif model.state == "catalog":
            await self.refuse(exchange, 400, "Model not cached: Model must be downloaded before loading")
        else:
            before = model.state
            await self.load(model)
            await exchange.json({"status": "already_loaded" if before == "loaded" else "loaded"})

    async def _usable(self, body: dict[str, Any], exchange: Exchange) -> DoubleModel | None:
        model = self.shelf.by_id(body["model"])
        if model is None:
            await self._unknown(exchange, body["model"])
            return None
        return model if await self.available(model, exchange) else None

    async def _chat(self, request: Request, exchange: Exchange) -> None:
        try:
            body = parse_chat(request.body)
        except ChatError as error:
            await self.refuse(exchange, error.status, error.message)
            return
        model = await self._usable(body, exchange)
        if model is None:
            return
        if body.get("stream") is True:
            await self._chat_stream(body, model, exchange)
            return
        try:
            answer = generate(body, model)
            await self._take_time(len(answer.pieces), exchange)
        except ChatError as error:
            prefix = "Inference failed" if error.status >= 500 else "Invalid request"
            await self.refuse(exchange, error.status, f"{prefix}: {error.message}")
            return
        await exchange.json(answer.completion())

    async def _take_time(self, count: int, exchange: Exchange) -> None:
        if self.options.chunk_delay_s:
            await exchange.until_left(self.options.chunk_delay_s * count)

    async def _chat_stream(self, body: dict[str, Any], model: DoubleModel, exchange: Exchange) -> None:
        await exchange.begin("text/event-stream", {"Cache-Control": "no-cache"})
        try:
            answer = generate(body, model)
        except ChatError as error:
            if error.begun is not None:
                await exchange.event(next(error.begun.chunks()))
            await exchange.event({"error": error.as_json()})
        else:
            await self._chunks(answer, body, exchange)
        await exchange.finish()

    async def _chunks(self, answer: Generated, body: dict[str, Any], exchange: Exchange) -> None:
        for number, document in enumerate(answer.chunks()):
            if number and self.options.chunk_delay_s:
                await asyncio.sleep(self.options.chunk_delay_s)
            await exchange.event(document)
        if (body.get("stream_options") or {}).get("include_usage"):
            await exchange.event(answer.usage_chunk())
        await exchange.event("[DONE]")

    async def _embeddings(self, request: Request, exchange: Exchange) -> None:
        try:
            body = json.loads(request.body)
            model_id, given = body["model"], body["input"]
        except (ValueError, KeyError, TypeError) as error:
            await self.refuse(exchange, 400, f"Invalid JSON: [json.exception.out_of_range.403] key {error} not found")
            return
        inputs = [given] if isinstance(given, str) else given
        if not inputs:
            await self.refuse(exchange, 400, '"input" must not be empty')
            return
        if not all(isinstance(text, str) for text in inputs):
            message = "Invalid JSON: [json.exception.type_error.302] type must be string, but is array"
            await self.refuse(exchange, 400, message)
            return
        model = self.shelf.by_id(model_id)
        if model is None:
            await self.refuse(exchange, 404, f"Model not found: {model_id}")
        elif model.state != "loaded":
            await self.refuse(exchange, 400, f"Model not loaded: {model_id}")
        elif model.task != "embeddings":
            message = "Inference failed: Generator output 'hidden_states' was not found."
            await self.refuse(exchange, 500, message)
        else:
            # encoding_format and dimensions are ignored.
            vectors = [
                {"embedding": embedding(text), "index": index, "object": "embedding"}
                for index, text in enumerate(inputs)
            ]
            tokens = sum(len(text.split()) for text in inputs)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            await exchange.json({"data": vectors, "model": model_id, "object": "list", "usage": usage})

    async def _responses(self, request: Request, exchange: Exchange) -> None:
        try:
            body = parse_chat(gen3_responses.as_chat(request.body))
        except ChatError as error:
            await self.refuse(exchange, error.status, error.message)
            return
        model = await self._usable(body, exchange)
        if model is None:
            return
        try:
            answer = generate(body, model)
        except ChatError as error:
            await self.refuse(exchange, error.status, f"Invalid request: {error.message}")
            return
        if body.get("stream") is True:
            await gen3_responses.stream(answer, body, exchange)
        else:
            await exchange.json(gen3_responses.response(answer, body))


def _card(model: DoubleModel) -> dict[str, Any]:
    return {"created": 0, "id": model.id, "object": "model", "owned_by": "Microsoft"}
