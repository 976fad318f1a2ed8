"""One request inside a runner, as the service sees it: its chunks as they come, and how it ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    FoundryError,
    InvalidInputError,
)

__all__ = ["End", "RunnerCall", "end_from_frame"]

# A client that reads this far behind its answer is given up; at 300 bytes a token it is 27,000 tokens.
_MAX_BACKLOG_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended.

    Attributes:
        fact: The error, or None after a normal end.
        data: JSON of a whole answer; None after a stream.
        tokens: Tokens generated.
        usage: The engine's own count, when it ended normally.
        cancelled: Whether the runner stopped because it was told to.
        untouched: Whether the runner died before it took the request up, so that another one may be given it.
    """

    fact: FoundryError | None = None
    data: bytes | None = None
    tokens: int = 0
    usage: dict[str, Any] | None = None
    cancelled: bool = False
    untouched: bool = False


class RunnerCall:
    """One request inside a runner: read ``next_chunks`` until it returns None, then ``end`` is set.

    Whoever leaves early calls ``cancel``; the call is settled when the runner says so, not before.

    Attributes:
        id: The number in its frames.
        end: How it ended; None until then.
        abandoned: Whether it was cancelled.
        begun: Whether the runner has taken it up.
        decoding: Whether a chunk of its answer has arrived.
    """

    def __init__(
        self, request_id: int, on_cancel: Callable[[RunnerCall], None], on_settled: Callable[[End], None]
    ) -> None:
        self.id = request_id
        self.end: End | None = None
        self._on_cancel = on_cancel
        self._on_settled = on_settled
        self._chunks: deque[bytes] = deque()
        self._backlog = 0
        self._waiter: asyncio.Future[None] | None = None
        self.abandoned = False
        self.begun = False
        self.decoding = False

    async def taken_up(self) -> None:
        """Wait until the runner works on it, or it has ended."""
        while not self.begun and self.end is None:
            await self._news()

    async def next_chunks(self) -> list[bytes] | None:
        """Every chunk that has arrived and not been read, at least one; None at the end.

        Waits for the runner; a runner's death ends the wait.
        """
        while not self._chunks:
            if self.end is not None:
                return None
            await self._news()
        chunks = list(self._chunks)
        self._chunks.clear()
        self._backlog = 0
        return chunks

    async def result(self) -> End:
        """Wait for the end; raises the fact if it is an error."""
        while await self.next_chunks() is not None:
            pass
        assert self.end is not None  # noqa: S101 - None from next_chunks says so
        if self.end.fact is not None:
            raise self.end.fact
        return self.end

    def cancel(self) -> None:
        """Stop the decode; harmless after the end."""
        self._chunks.clear()
        if self.end is None and not self.abandoned:
            self._on_cancel(self)
        self.abandoned = True

    def note_begun(self) -> None:
        """The runner took it up."""
        self.begun = True
        self._wake()

    def add_chunk(self, data: bytes) -> None:
        """Take a chunk from the runner."""
        self.decoding = True
        if self.abandoned:
            return
        self._chunks.append(data)
        self._backlog += len(data)
        if self._backlog > _MAX_BACKLOG_BYTES:
            self.cancel()
            self._backlog = 0
            return
        self._wake()

    def settle(self, end: End) -> None:
        """Take the end from the runner, or from its death; the first one counts."""
        if self.end is not None:
            return
        self.end = end
        self._on_settled(end)
        self._wake()

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def end_from_frame(message: dict[str, Any]) -> End:
    """What a ``done`` or ``error`` frame says."""
    tokens = int(message.get("tokens") or 0)
    if message["event"] == "error":
        return End(fact=_fact(message), tokens=tokens, cancelled=message["code"] == "cancelled")
    data = message.get("data")
    return End(data=None if data is None else orjson.dumps(data), tokens=tokens, usage=message.get("usage"))


def _fact(message: dict[str, Any]) -> FoundryError:
    code, text = message["code"], message["message"]
    if code == "context_length_exceeded":
        fact = ContextLengthExceededError(
            prompt_tokens=message["prompt_tokens"], context_length=message["context_length"], model=""
        )
        fact.param, fact.message = message["param"], text
        return fact
    if code == "engine_failed":
        return EngineFailedError(text)
    if code == "cancelled":
        return EngineFailedError("The answer was given up because it was not read.", code=code)
    return InvalidInputError(text, param=message.get("param"), code=code)
