"""Any OpenAI-compatible server: lists its models, chats, heeds penalties. Its habits make it worse.

A word that a penalty is on is said three times at most. Tool calls are streamed as OpenAI does: a first delta with
id, type and name, then the arguments in pieces.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from tests.support.doubles.gen3 import Gen3Double
from tests.support.doubles.gen3_chat import ChatError, Generated, generate, parse_chat
from tests.support.doubles.http import Exchange, Request
from tests.support.doubles.service import DoubleOptions

__all__ = ["HABITS", "OpenAIDouble"]

HABITS: Final = {
    "penalties_ignored": "they change nothing",
    "penalties_refused": "400",
    "never_twice": "no two answers are the same",
    "terse": "says nothing twice, whatever it is asked to repeat",
    "no_index": "deltas of tool calls without their index",
    "no_id": "the first delta of a tool call without its id",
    "no_type": "the same without its type",
    "no_name": "the same without the name of its function",
}
_SAID_AT_MOST: Final = 3
_PENALTIES: Final = ("frequency_penalty", "presence_penalty")


class OpenAIDouble(Gen3Double):
    """See the module."""

    generation: ClassVar[str] = "openai"
    server_header: ClassVar[str] = "uvicorn"

    def __init__(self, options: DoubleOptions) -> None:
        super().__init__(options)
        self._numbers = itertools.count()

    async def answer(self, request: Request, exchange: Exchange) -> None:
        if (request.method, request.path) == ("POST", "/v1/chat/completions"):
            await self._answer_chat(request, exchange)
        elif (request.method, request.path) == ("GET", "/v1/models"):
            cards = [
                {"id": model.id, "object": "model", "created": 7, "owned_by": "tests"} for model in self.shelf.models
            ]
            await exchange.json({"object": "list", "data": cards})
        else:
            await self.refuse(exchange, 404, "Not Found")

    async def _answer_chat(self, request: Request, exchange: Exchange) -> None:
        body = json.loads(request.body)
        penalties = [body.pop(name, 0) for name in _PENALTIES]
        penalised = any(penalties)
        if penalised and self._has("penalties_refused"):
            await self.refuse(exchange, 400, "penalties are not supported")
            return
        try:
            body = parse_chat(json.dumps(body).encode())
            model = await self._usable(body, exchange)
            if model is None:
                return
            answer = generate(body, model)
        except ChatError as error:
            await self.refuse(exchange, error.status, error.message)
            return
        answer.pieces = list(self._said(answer, penalised=penalised and not self._has("penalties_ignored")))
        if body.get("stream") is not True:
            await exchange.json(answer.completion())
            return
        await exchange.begin("text/event-stream")
        await self._chunks(answer, body, exchange)
        await exchange.finish()

    def _said(self, answer: Generated, *, penalised: bool) -> Iterator[str]:
        at_most = 1 if self._has("terse") else _SAID_AT_MOST if penalised else len(answer.pieces)
        if self._has("never_twice"):
            yield f"{next(self._numbers)}:"
        said: collections.Counter[str] = collections.Counter()
        for piece in answer.pieces:
            said[piece.strip()] += 1
            if said[piece.strip()] <= at_most:
                yield piece

    async def _chunks(self, answer: Generated, body: dict[str, Any], exchange: Exchange) -> None:
        for document in answer.chunks():
            (choice,) = document["choices"]
            calls = choice["delta"].get("tool_calls")
            deltas = [{"tool_calls": [part]} for part in self._parts(calls[0])] if calls else [choice["delta"]]
            for delta in deltas:
                await exchange.event(document | {"choices": [choice | {"delta": delta}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await exchange.event(answer.usage_chunk())
        await exchange.event("[DONE]")

    def _parts(self, call: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The deltas of a call, without what the habits leave out."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        first = {"index": 0, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
        for habit in ("id", "type"):
            if self._has(f"no_{habit}"):
                del first[habit]
        if self._has("no_name"):
            first["function"] = {"arguments": ""}
        parts = [first, *({"index": 0, "function": {"arguments": part}} for part in (arguments[:4], arguments[4:]))]
        left_out = {"index"} if self._has("no_index") else set()
        return [{key: value for key, value in part.items() if key not in left_out} for part in parts]

    def _has(self, habit: str) -> bool:
        return habit in self.options.habits
