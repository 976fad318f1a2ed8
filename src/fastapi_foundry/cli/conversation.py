"""One conversation with a model over ``/v1/chat/completions``, streamed."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastapi_foundry import errors

if TYPE_CHECKING:
    from fastapi_foundry.cli.http import HttpApi

__all__ = ["Answer", "Conversation"]

# The first byte may wait for a model to load; between chunks the server itself watches the engine.
_SILENCE_LIMIT_S: Final = 300.0


@dataclass
class Answer:
    """What came back; grows while it streams.

    Attributes:
        duration_s: From the request to the end of the answer, in seconds.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Answer tokens by the time from the request to the end; None without a usage report."""
        tokens = self.usage.get("completion_tokens")
        return tokens / self.duration_s if isinstance(tokens, int) and self.duration_s > 0 else None


@dataclass
class Conversation:
    """Messages so far, and the model that answers them."""

    api: HttpApi
    model: str
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    last: Answer = field(default_factory=Answer)

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages.clear()

    def ask(self, prompt: str) -> Generator[str, None, None]:
        """Send ``prompt`` and yield the answer piece by piece; ``last`` holds the whole of it afterwards.

        Closing the iterator early stops the answer; what had arrived stays in the conversation. After a
        failure the prompt does not stay.

        Raises:
            FoundryError: The server refused or broke; the fact says how.
        """
        self.messages.append({"role": "user", "content": prompt})
        self.last = Answer()
        begin = time.monotonic()
        try:
            yield from self._stream()
        except errors.FoundryError:
            self.messages.pop()
            raise
        except (GeneratorExit, KeyboardInterrupt):
            self.last.finish_reason = "stopped"
            self._keep_answer()
            raise
        self.last.duration_s = time.monotonic() - begin
        self._keep_answer()

    def _keep_answer(self) -> None:
        if self.last.text:
            self.messages.append({"role": "assistant", "content": self.last.text})
        else:
            self.messages.pop()

    def _stream(self) -> Iterator[str]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": [*system, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self.api.lines("/v1/chat/completions", body, timeout_s=_SILENCE_LIMIT_S, model=self.model) as lines:
            for line in lines:
                data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data == b"[DONE]":
                    return
                if data:
                    yield from self._take(_decoded(data))
        raise errors.EngineFailedError("The connection ended before the answer did.")

    def _take(self, chunk: dict[str, Any]) -> Iterator[str]:
        if isinstance(chunk.get("error"), dict):
            raise errors.EngineFailedError(str(chunk["error"].get("message") or "The engine failed."))
        if isinstance(chunk.get("usage"), dict):
            self.last.usage = chunk["usage"]
        for choice in chunk.get("choices") or []:
            self.last.finish_reason = choice.get("finish_reason") or self.last.finish_reason
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                self.last.text += piece
                yield piece


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise errors.EngineFailedError("The answer makes no sense: a chunk is not JSON.") from error
    if not isinstance(chunk, dict):
        raise errors.EngineFailedError("The answer makes no sense: a chunk is not an object.")
    return chunk
