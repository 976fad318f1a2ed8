"""What a client sees of an engine: whole answers and streams in one form, for ``conformance_checks`` to judge.

Nothing of the repair's own code is used to read the answers, so that what it does wrong shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, Engine
from fastapi_foundry.errors import FoundryError, InvalidInputError
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.sse import SSEDecoder

__all__ = ["CHAT", "HELLO", "BrokenContractError", "Client", "Seen", "SeenChoice", "require"]

CHAT: Final = "/v1/chat/completions"
HELLO: Final = "Say hello and count to five."
_MAX_TOKENS: Final = 16


class BrokenContractError(Exception):
    """An answer is not what OpenAI's contract promises; the message says in which way."""


def require(condition: object, why: str) -> None:
    """Raise ``BrokenContractError`` unless ``condition`` holds."""
    if not condition:
        raise BrokenContractError(why)


@dataclass(slots=True)
class SeenChoice:
    """One choice, of a whole answer or put together from a stream."""

    text: str = ""
    reason: str | None = None
    logprobs: Any = None
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, part: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """Add a message or a delta, and what stands beside it."""
        self.text += part.get("content") or ""
        self.reason = choice.get("finish_reason") or self.reason
        self.logprobs = choice.get("logprobs") or self.logprobs
        for place, call in enumerate(part.get("tool_calls") or ()):
            function = call.get("function") or {}
            seen = self.calls.setdefault(call.get("index", place), {"arguments": ""})
            named = {"id": call.get("id"), "type": call.get("type"), "name": function.get("name")}
            seen.update({key: value for key, value in named.items() if value})
            seen["arguments"] += function.get("arguments") or ""


@dataclass(slots=True)
class Seen:
    """One answer.

    Attributes:
        frames: The documents as they came: one, or the chunks of a stream.
        choices: By index.
        form: ``whole`` or ``stream``, for messages.
    """

    frames: list[dict[str, Any]]
    choices: dict[int, SeenChoice]
    form: str

    @property
    def first(self) -> SeenChoice:
        """The choice 0.

        Raises:
            BrokenContractError: There is none.
        """
        require(0 in self.choices, f"{self.form}: there is no choice 0")
        return self.choices[0]

    @property
    def text(self) -> str:
        """The text of choice 0; raises as ``first`` does."""
        return self.first.text

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt was; 0 where that is not told."""
        used = (self.frames[-1].get("usage") or {}).get("prompt_tokens")
        return used if isinstance(used, int) else 0


class Client:
    """Asks one model, with small requests at temperature 0 unless told otherwise.

    Every method raises the engine's facts (``FoundryError``), and ``BrokenContractError`` for a stream that does not
    end as it has to.

    Args:
        engine: What is asked.
        model: By its full id.
        timeout_s: For each request, in seconds.
    """

    def __init__(self, engine: Engine, model: str, *, timeout_s: float) -> None:
        self.alterations: list[str] = []
        self.model = model
        self._engine = engine
        self._timeout_s = timeout_s
        self._plain: Seen | None = None

    async def plain(self) -> Seen:
        """The whole answer to ``HELLO``; asked for once, as ``reference`` does."""
        if self._plain is None:
            self._plain = await self.reference()
        return self._plain

    async def reference(self, **values: Any) -> Seen:
        """A whole answer to compare with; its alterations are not counted."""
        kept = list(self.alterations)
        seen = await self.whole(**values)
        self.alterations = kept
        return seen

    async def whole(self, **values: Any) -> Seen:
        """A whole chat answer; ``values`` are the fields of the request, None takes one away."""
        answer = await self.post(CHAT, self._body(values))
        choices: dict[int, SeenChoice] = {}
        for choice in answer.get("choices") or ():
            choices.setdefault(choice.get("index", -1), SeenChoice()).take(choice.get("message") or {}, choice)
        return Seen([answer], choices, "whole")

    async def streamed(self, *, at_most: int | None = None, **values: Any) -> Seen:
        """A streamed chat answer.

        Args:
            at_most: Leave after so many chunks.
            values: As for ``whole``.
        """
        frames = await self.frames(CHAT, self._body(values), at_most=at_most)
        choices: dict[int, SeenChoice] = {}
        for frame in frames:
            for choice in frame.get("choices") or ():
                choices.setdefault(choice.get("index", -1), SeenChoice()).take(choice.get("delta") or {}, choice)
        return Seen(frames, choices, "stream")

    async def both(self, **values: Any) -> tuple[Seen, Seen]:
        """The same asked for whole and streamed.

        Raises:
            BrokenContractError: One is answered and the other refused as a wrong request.
        """
        outcomes: list[Seen | InvalidInputError] = []
        for ask in (self.whole, self.streamed):
            try:
                outcomes.append(await ask(**values))
            except InvalidInputError as error:
                outcomes.append(error)
        whole, streamed = outcomes
        if isinstance(whole, Seen) and isinstance(streamed, Seen):
            return whole, streamed
        if isinstance(whole, InvalidInputError) and isinstance(streamed, InvalidInputError):
            require(whole.param == streamed.param, f"refused for '{whole.param}' whole, '{streamed.param}' streamed")
            raise whole
        refused, answered = ("stream", "whole") if isinstance(whole, Seen) else ("whole", "stream")
        raise BrokenContractError(f"answered {answered} and refused {refused}")

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer of any route."""
        reply = await self._engine.post(self._call(path, body))
        self.alterations += reply.notes.alterations
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            raise BrokenContractError("the answer is not JSON") from None
        require(isinstance(answer, dict) and "error" not in answer, "the answer is no object, or an error with 200")
        return dict(answer)

    async def frames(self, path: str, body: Mapping[str, Any], *, at_most: int | None = None) -> list[dict[str, Any]]:
        """The chunks of a stream of any route; it has to end with one ``[DONE]`` unless left early."""
        chunks: list[dict[str, Any]] = []
        decoder, ends = SSEDecoder(), 0
        async with (
            asyncio.timeout(self._timeout_s),
            self._engine.stream(self._call(path, {**body, "stream": True})) as source,
        ):
            async for part in source:
                for event in decoder.feed(part):
                    require(not ends, "something follows [DONE]")
                    if event.data == b"[DONE]":
                        ends += 1
                    else:
                        chunks.append(_chunk(event.data))
                if at_most is not None and len(chunks) >= at_most:
                    break
            self.alterations += source.notes.alterations
        require(ends or at_most is not None, "a stream ends without [DONE]")
        return chunks

    def _call(self, path: str, body: Mapping[str, Any]) -> Call:
        return Call(path, orjson.dumps(body), "conformance", self._timeout_s, body)

    def _body(self, values: Mapping[str, Any]) -> dict[str, Any]:
        hello = [{"role": "user", "content": HELLO}]
        body = {"model": self.model, "messages": hello, "max_tokens": _MAX_TOKENS, "temperature": 0} | dict(values)
        return {key: value for key, value in body.items() if value is not None}


def _chunk(data: bytes) -> dict[str, Any]:
    """One frame's document; raises the fact behind an error frame."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BrokenContractError("a frame is not JSON") from None
    require(isinstance(chunk, dict), "a frame is no object")
    if "error" in chunk:
        fact: FoundryError = fact_from_error_event(data)
        raise fact
    return dict(chunk)
