"""The requests of a probe: small, bounded, at temperature 0 unless told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, Engine
from fastapi_foundry.engines.repair.answers import raise_hidden_error
from fastapi_foundry.engines.repair.probe_answers import shown, text_in
from fastapi_foundry.errors import (
    EngineTimeoutError,
    EngineUnavailableError,
    FoundryError,
    ModelNotFoundError,
    ModelUnavailableError,
    QueueFullError,
)
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.sse import SSEDecoder

__all__ = ["HELLO", "ProbeRequests"]

_CHAT: Final = "/v1/chat/completions"
HELLO: Final = ({"role": "user", "content": "Say hello and count to five."},)


class ProbeRequests:
    """Asks one model of a bare engine. The fields of a request are given by name; None takes one away.

    Args:
        engine: What is asked.
        model: By its id.
        timeout_s: For each request, in seconds.
    """

    def __init__(self, engine: Engine, model: str, timeout_s: float) -> None:
        self._engine = engine
        self._model = model
        self._timeout_s = timeout_s

    async def post(self, path: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of any route.

        Raises:
            FoundryError: The engine refuses, or cannot be asked.
        """
        body = {"model": self._model, **values}
        reply = await self._engine.post(Call(path, orjson.dumps(body), "probe", self._timeout_s, body))
        raise_hidden_error(reply.body)
        answer = orjson.loads(reply.body)
        return answer if isinstance(answer, dict) else {}

    async def ask(self, **values: Any) -> dict[str, Any]:
        """The answer to a chat request; raises as ``post`` does."""
        return await self.post(_CHAT, _chat(values))

    async def attempt(self, **values: Any) -> tuple[dict[str, Any] | None, str]:
        """An answer, or None and why the engine refuses to give one.

        Raises:
            FoundryError: The engine cannot be asked at all now, which tells nothing about the feature.
        """
        try:
            return await self.ask(**values), ""
        except (EngineUnavailableError, EngineTimeoutError, ModelNotFoundError, ModelUnavailableError, QueueFullError):
            raise
        except FoundryError as error:
            return None, f"refused: {shown(error.message)}"

    async def text(self, **values: Any) -> tuple[str, str]:
        """The text of an answer, empty where it is refused, and why; raises as ``attempt`` does."""
        answer, refusal = await self.attempt(**values)
        return (text_in(answer) if answer else ""), refusal

    async def stream(self, at_most: int = 1000, **values: Any) -> tuple[list[dict[str, Any]], bool]:
        """The chunks of a stream, and whether it ended with ``[DONE]``; raises as ``post`` does.

        Args:
            at_most: Leave after about so many chunks.
            values: The fields of the request.
        """
        body = {"model": self._model, **_chat(values | {"stream": True})}
        decoder = SSEDecoder()
        chunks: list[dict[str, Any]] = []
        async with (
            asyncio.timeout(self._timeout_s),
            self._engine.stream(Call(_CHAT, orjson.dumps(body), "probe", self._timeout_s, body)) as source,
        ):
            async for part in source:
                for event in decoder.feed(part):
                    if event.data == b"[DONE]":
                        return chunks, True
                    chunk = orjson.loads(event.data)
                    if "error" in chunk:
                        raise fact_from_error_event(event.data)
                    chunks.append(chunk)
                if len(chunks) >= at_most:
                    break
        return chunks, False


def _chat(values: Mapping[str, Any]) -> dict[str, Any]:
    body = {"messages": list(HELLO), "max_tokens": 12, "temperature": 0} | dict(values)
    return {key: value for key, value in body.items() if value is not None}
