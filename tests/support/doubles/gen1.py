"""Generation 1: the service of CLI 0.x, from its SDK 0.5, its documentation and its issues; nobody could measure it.

Known: the routes, ``/foundry/list`` and ``/openai/status``; the odd fields ``delta``, ``CreatedAt``, ``IsDelta``,
``Successful``, ``HttpStatusCode``; no ``finish_reason`` (#299, #399), no ``usage`` (#115, #369), ``model`` null (#92).
Assumed, at its worst: tool calls come as text, ``stop`` and ``response_format`` are ignored, errors are plain text.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from tests.support.doubles.http import Exchange, Request
from tests.support.doubles.models import DoubleModel
from tests.support.doubles.service import DoubleOptions, DoubleService
from tests.support.doubles.text_model import (
    answer_to,
    instance_of,
    pieces,
    prompt_tokens,
    schema_in_prose,
    tool_arguments,
)

__all__ = ["Gen1Double"]

_CHANGE: Final = re.compile(r"/openai/(load|unload)/(.+)")
_CHAT: Final = "/v1/chat/completions"
_COUNT: Final = "/v1/chat/completions/tokenizer/encode/count"
_DEFAULT_MAX_TOKENS: Final = 2048
# The SDKs look for these words; they mean unknown, not downloaded, or not loaded.
_NO_PROVIDER: Final = "No OpenAIService provider found for modelName:"
_RESULT: Final = {"IsDelta": False, "Successful": True, "HttpStatusCode": 0}
_EPS: Final = "Successfully downloaded and registered the following EPs: .\r\nValid EPs: CPUExecutionProvider"


_Route = Callable[[Request, Exchange], Awaitable[None]]


class Gen1Double(DoubleService):
    """See the module."""

    generation: ClassVar[str] = "gen1"
    server_header: ClassVar[str] = "Kestrel"

    def __init__(self, options: DoubleOptions) -> None:
        super().__init__(options)
        self.answers = 0
        self._kept: set[str] = set()

    def kind_of(self, request: Request) -> str:
        if change := _CHANGE.fullmatch(request.path):
            return change[1]
        if request.path == "/openai/download":
            return "download"
        return "inference" if request.path == _CHAT else "list"

    async def answer(self, request: Request, exchange: Exchange) -> None:
        routes: dict[tuple[str, str], _Route] = {
            ("POST", "/openai/download"): self._download,
            ("POST", _CHAT): self._chat,
            ("POST", _COUNT): self._count,
        }
        change = _CHANGE.fullmatch(request.path)
        route = routes.get((request.method, request.path))
        if route is not None:
            await route(request, exchange)
        elif change and request.method == "GET":
            await self._change(change[1], unquote(change[2]), request.query, exchange)
        elif request.method == "GET" and (document := self._document(request.path)) is not None:
            await exchange.json(document)
        else:
            await exchange.send(b"", 404)

    def _document(self, path: str) -> Any:
        """What a route that only tells something answers; None: no such route."""
        documents = {
            "/foundry/list": [self._listed(model) for model in self.shelf.models],
            "/openai/status": self._status(),
            "/openai/models": [model.id for model in self.shelf.cached],
            "/openai/loadedmodels": [model.id for model in self.shelf.having("loaded")],
            "/v1/models": {"data": [_card(model) for model in self.shelf.cached]} | _RESULT | {"object": "list"},
        }
        return documents.get(path)

    async def _count(self, request: Request, exchange: Exchange) -> None:
        await exchange.json({"tokenCount": prompt_tokens(json.loads(request.body).get("messages", []))})

    async def refuse(self, exchange: Exchange, status: int, message: str, retry_after_s: int | None = None) -> None:
        headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
        await exchange.send(message.encode(), status, "text/plain; charset=utf-8", headers)

    async def not_loaded(self, exchange: Exchange, model: DoubleModel) -> None:
        await self.refuse(exchange, 400, _NO_PROVIDER + model.id)

    def _status(self) -> dict[str, Any]:
        return {
            "endpoints": [self.url],
            "modelDirPath": str(self.options.home / "cache" / "models"),
            "pipeName": None,
            "isAutoRegistrationResolved": True,
            "autoRegistrationStatus": _EPS,
        }

    def _listed(self, model: DoubleModel) -> dict[str, Any]:
        return {
            "name": model.id,
            "displayName": model.name,
            "providerType": "AzureFoundry",
            "uri": f"azureml://registries/azureml/models/{model.name}/versions/{model.version}",
            "version": model.version,
            "modelType": "ONNX",
            "promptTemplate": {"prompt": "<|im_start|>user\n{Content}<|im_end|>\n<|im_start|>assistant\n"},
            "publisher": "Microsoft",
            "task": model.task,
            "runtime": {"deviceType": "CPU", "executionProvider": "CPUExecutionProvider"},
            "fileSizeMb": model.size_mb,
            "modelSettings": {"parameters": []},
            "alias": model.alias,
            "supportsToolCalling": True,
            "license": "MIT",
            "licenseDescription": "This model is provided under the License Terms of MIT.",
            "parentModelUri": f"azureml://registries/azureml/models/{model.alias}/versions/1",
            "maxOutputTokens": 2048,
            "minFLVersion": "",
        }

    async def _change(self, verb: str, name: str, query: dict[str, str], exchange: Exchange) -> None:
        model = self.shelf.by_id_or_name(name)
        if model is None or model.state == "catalog":
            await self.refuse(exchange, 400, _NO_PROVIDER + name)
            return
        if verb == "load":
            await self.load(model)
            if int(query.get("ttl", "0")) > 0:
                self._kept.add(model.id)
        elif query.get("force", "").lower() == "true" or model.id not in self._kept:
            # Without force, a model that was loaded with a time to live stays, and the answer is the same.
            self._kept.discard(model.id)
            model.state = "cached"
        await exchange.send(b"")

    async def _download(self, request: Request, exchange: Exchange) -> None:
        wanted = _lowered(json.loads(request.body)).get("model")
        name = str(_lowered(wanted).get("name") if isinstance(wanted, dict) else wanted)
        model = self.shelf.by_id_or_name(name)
        await exchange.begin("text/plain; charset=utf-8")
        result: dict[str, Any] = {"success": True, "errorMessage": None}
        if model is None:
            result = {"success": False, "errorMessage": f"Model {name} was not found in the catalog"}
        else:
            async for percent in self.shelf.download(model):
                await exchange.chunk(f"Total {percent:.2f}% Downloading model.onnx.data\n".encode())
        await exchange.chunk(json.dumps(result).encode())
        await exchange.finish()

    async def _chat(self, request: Request, exchange: Exchange) -> None:
        try:
            body = json.loads(request.body)
            messages = body["messages"]
        except (ValueError, KeyError, TypeError):
            await self.refuse(exchange, 400, "The request could not be understood")
            return
        model = self.shelf.by_id_or_name(str(body.get("model")))
        if model is None:
            await self.refuse(exchange, 400, _NO_PROVIDER + str(body.get("model")))
            return
        if not await self.available(model, exchange):
            return
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or _DEFAULT_MAX_TOKENS
        if prompt_tokens(messages) + limit > model.context_length:
            message = f"Error: input_ids size ({prompt_tokens(messages)}) + max_length is over {model.context_length}"
            await self.refuse(exchange, 500, f"Microsoft.ML.OnnxRuntimeGenAI.OnnxRuntimeGenAIException: {message}")
            return
        await self.say(body, model, limit, exchange)

    async def say(self, body: dict[str, Any], model: DoubleModel, limit: int, exchange: Exchange) -> None:
        """Answer a chat request that can be answered."""
        self.answers += 1
        made = pieces(self.text(body))
        if body.get("stream") is not True:
            if self.options.chunk_delay_s:
                await exchange.until_left(self.options.chunk_delay_s * len(made))
            await exchange.json(self.completion(body, model, made, limit))
            return
        await exchange.begin("text/event-stream")
        for number, chunk in enumerate(self.chunks(body, model, made, limit)):
            if number and self.options.chunk_delay_s:
                await asyncio.sleep(self.options.chunk_delay_s)
            await exchange.event(chunk)
        await exchange.event("[DONE]")
        await exchange.finish()

    def text(self, body: dict[str, Any]) -> str:
        """What the model says: tool calls in its template's own words, a schema in prose answered in a fence."""
        messages = body["messages"]
        if body.get("tools") and messages[-1].get("role") != "tool":
            tool = body["tools"][0]
            call = {"name": tool["function"]["name"], "arguments": tool_arguments(tool)}
            return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        schema = schema_in_prose(messages)
        if isinstance(schema, dict):
            return f"Here it is:\n```json\n{json.dumps(instance_of(schema))}\n```"
        return answer_to(messages)

    def completion(self, body: dict[str, Any], model: DoubleModel, made: list[str], limit: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(made[:limit]), "tool_calls": []}
        return self.envelope("chat.completion", [{"delta": message, "message": message, "index": 0}])

    def chunks(self, body: dict[str, Any], model: DoubleModel, made: list[str], limit: int) -> Iterator[dict[str, Any]]:
        for piece in made[:limit]:
            message = {"role": "assistant", "content": piece, "tool_calls": []}
            yield self.envelope("chat.completion.chunk", [{"delta": message, "message": message, "index": 0}])

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        now = time.time()
        return {
            "model": None,
            "choices": choices,
            "created": int(now),
            "CreatedAt": datetime.fromtimestamp(int(now), UTC).isoformat(),
            "id": f"chat.id.{self.answers}",
            **_RESULT,
            "object": kind,
        }


def _lowered(document: dict[str, Any]) -> dict[str, Any]:
    """The service reads field names without regard to case."""
    return {name.lower(): value for name, value in document.items()}


def _card(model: DoubleModel) -> dict[str, Any]:
    return {
        "vision": False,
        "toolCalling": True,
        "maxInputTokens": model.context_length,
        "maxOutputTokens": 2048,
        "id": model.id,
        "owned_by": "Microsoft",
        "created": 1_700_000_000,
        "object": "model",
    }
