"""Generation 2: the service of CLI 0.10; it writes ``daemon.json`` and speaks generation 1's own routes.

Known: the CLI, the daemon file. Assumed, between its neighbours: chat as in generation 3 as to parameters, with
JSON errors, ``model`` given; still no ``usage``, and ``finish_reason`` is ``stop`` even with tool calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tests.support.doubles.gen1 import Gen1Double
from tests.support.doubles.gen3_chat import ChatError, Generated, generate, parse_chat
from tests.support.doubles.http import Exchange, Request
from tests.support.doubles.models import DoubleModel

__all__ = ["Gen2Double"]


class Gen2Double(Gen1Double):
    """See the module."""

    generation: ClassVar[str] = "gen2"
    writes_daemon_file: ClassVar[bool] = True

    async def not_loaded(self, exchange: Exchange, model: DoubleModel) -> None:
        await self.refuse(exchange, 400, f"Model not loaded: {model.id}")

    async def refuse(self, exchange: Exchange, status: int, message: str, retry_after_s: int | None = None) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": None}
        headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
        await exchange.json({"error": error}, status, headers)

    async def _chat(self, request: Request, exchange: Exchange) -> None:
        try:
            body = parse_chat(request.body)
            model = self.shelf.by_id_or_name(body["model"])
            if model is None:
                await self.refuse(exchange, 404, f"Model not found: {body['model']}")
                return
            if not await self.available(model, exchange):
                return
            answer = generate(body, model)
        except ChatError as error:
            await self.refuse(exchange, error.status, error.message)
            return
        await self.give(answer, body, exchange)

    async def give(self, answer: Generated, body: dict[str, Any], exchange: Exchange) -> None:
        """Send what was generated, whole or in frames."""
        if body.get("stream") is not True:
            if self.options.chunk_delay_s:
                await exchange.until_left(self.options.chunk_delay_s * len(answer.pieces))
            document = answer.completion()
            del document["usage"]
            document["choices"][0]["finish_reason"] = _finish(answer)
            await exchange.json(document)
            return
        await exchange.begin("text/event-stream")
        for number, chunk in enumerate(_chunks(answer)):
            if number and self.options.chunk_delay_s:
                await exchange.until_left(self.options.chunk_delay_s)
            await exchange.event(chunk)
        await exchange.event("[DONE]")
        await exchange.finish()


def _finish(answer: Generated) -> str:
    return "stop" if answer.call else answer.finish_reason


def _chunks(answer: Generated) -> Iterator[dict[str, Any]]:
    for chunk in answer.chunks():
        choice = chunk["choices"][0]
        choice["finish_reason"] = _finish(answer) if choice["finish_reason"] else None
        yield chunk
