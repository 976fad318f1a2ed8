"""``/tokenize``: how many tokens a chat's prompt takes, counted by the engine; the shape is vLLM's."""

from __future__ import annotations

from typing import Any

import orjson

from fastapi_foundry.daemon import validation
from fastapi_foundry.daemon.http import Exchange
from fastapi_foundry.daemon.routes_inference import chat_model, leaving_with_the_client
from fastapi_foundry.daemon.service import Service
from fastapi_foundry.errors import InvalidInputError

__all__ = ["tokenize"]


async def tokenize(service: Service, exchange: Exchange) -> None:
    """Count ``messages`` (with ``tools``), or a ``prompt`` as ``/v1/completions`` would ask it; loads the model."""
    request = _as_chat(await exchange.json())
    validation.check_chat(request)
    async with leaving_with_the_client(exchange):
        model = await chat_model(service, request["model"])
        async with service.pool.call(model, "count", request) as call:
            counted = orjson.loads((await call.result()).data or b"{}")
    # The engine keeps the tokens themselves to itself.
    count = {"count": counted["prompt_tokens"], "max_model_len": counted["context_length"]}
    await exchange.answer(count | dict.fromkeys(("tokens", "token_strs")))


def _as_chat(body: dict[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt")
    if prompt is None:
        return body
    if body.get("messages") is not None:
        raise InvalidInputError("Either 'messages' or 'prompt' can be counted, not both.", param="prompt")
    if not isinstance(prompt, str):
        raise InvalidInputError("'prompt' must be a string.", param="prompt")
    return {**body, "messages": [{"role": "user", "content": prompt}]}
