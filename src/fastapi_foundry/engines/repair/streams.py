"""A chat stream as the contract wants it: chunk by chunk, without waiting for more than a mark may need."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.answers import (
    complete_call,
    ended_by,
    estimated_prompt_tokens,
    estimated_tokens,
    new_id,
    usage_of,
)
from fastapi_foundry.engines.repair.cut_calls import cut_usage, is_cut_call
from fastapi_foundry.engines.repair.requests import Plan
from fastapi_foundry.engines.repair.structured import StructuredFormat
from fastapi_foundry.engines.repair.text_gate import TextGate
from fastapi_foundry.engines.repair.tool_text import MARKS, check_calls, find_calls, may_begin_call, wants_call
from fastapi_foundry.errors import EngineFailedError, StructuredOutputError
from fastapi_foundry.wire.errors import fact_from_error_event
from fastapi_foundry.wire.sse import SSEDecoder

__all__ = ["ChunkRepair", "repaired_events"]

_MAX_KEPT_CHARS: Final = 4 * 1024 * 1024
_ENOUGH_TO_TELL: Final = 64


@dataclass(slots=True)
class _Choice:
    """What is known of one choice of a running stream."""

    index: int
    stop_gate: TextGate | None
    call_gate: TextGate | None
    holding: bool
    begun: bool = False
    finish_reason: str | None = None
    text: list[str] = field(default_factory=list)
    kept_chars: int = 0
    call_ids: dict[str, int] = field(default_factory=dict)
    latest_call: int = 0


class ChunkRepair:
    """Repairs the chunks of one stream, in order.

    Args:
        plan: What has to be done.
        form: The format that the text has to keep to, where one was asked for.
        clock: Seconds since the epoch, for chunks without a time.

    Attributes:
        satisfied: Nothing that the engine may still say will be passed on; its work can be ended.
        cut_off: A tool call had more tokens than it may have.
    """

    def __init__(
        self, plan: Plan, form: StructuredFormat | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._plan = plan
        self._form = form
        self._clock = clock
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: dict[str, Any] | None = None
        self._chars = self._pieces = 0
        self.satisfied = self.cut_off = False

    async def chunk(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What goes out in place of one chunk.

        Raises:
            FoundryError: The chunk is an error, or the answer breaks its format.
        """
        if "error" in data:
            error = fact_from_error_event(orjson.dumps(data))
            if not is_cut_call(error, self._plan.request):
                raise error
            return await self._end_cut_off()
        if not isinstance(data.get("choices"), list):
            raise EngineFailedError("The engine's stream holds something that is no chunk.")
        self._usage = usage_of(data.get("usage")) or self._usage
        self._head = self._head or self._head_of(data)
        made: list[dict[str, Any]] = []
        for choice in data["choices"]:
            made += await self._choice(choice)
        self.satisfied = bool(self._plan.stops) and self.ended
        return made

    def _head_of(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": data.get("id") or new_id(),
            "object": "chat.completion.chunk",
            "created": data.get("created") or int(self._clock()),
            "model": data.get("model") or self._plan.request.get("model"),
            "system_fingerprint": data.get("system_fingerprint"),
        }

    async def _end_cut_off(self) -> list[dict[str, Any]]:
        """The end of every choice, in place of the engine's failure."""
        self.cut_off = True
        self._head = self._head or self._head_of({})
        self._usage = self._usage or cut_usage(self._plan.request)
        made: list[dict[str, Any]] = []
        for state in list(self._choices.values()) or [self._state(0)]:
            if state.finish_reason is None:
                made += await self._finish(state, "length")
        return made

    @property
    def estimates_usage(self) -> bool:
        """Whether the engine has told no token counts so far."""
        return self._usage is None

    @property
    def ended(self) -> bool:
        """Whether every choice that has begun has its finish reason."""
        return bool(self._choices) and all(each.finish_reason for each in self._choices.values())

    async def end(self) -> list[dict[str, Any]]:
        """The chunks that are still due when the engine has ended: finish reasons, then the usage.

        Raises:
            FoundryError: Nothing has come at all, or the answer breaks its format.
        """
        if not self._choices:
            raise EngineFailedError("The engine ended its stream before it said anything.")
        made: list[dict[str, Any]] = []
        for state in self._choices.values():
            if state.finish_reason is None:
                made += await self._finish(state, ended_by(self._plan.request, self._usage or self._estimate()))
        if self._plan.wants_usage:
            made.append(self._head | {"choices": [], "usage": self._usage or self._estimate()})
        return made

    def _state(self, index: int) -> _Choice:
        state = self._choices.get(index)
        if state is None:
            stop_gate = TextGate(self._plan.stops) if self._plan.stops else None
            call_gate = TextGate(MARKS) if self._plan.tools_as_text else None
            state = self._choices[index] = _Choice(index, stop_gate, call_gate, holding=self._plan.tools_as_text)
        return state

    async def _choice(self, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
        state = self._state(int(choice.get("index") or 0))
        if state.finish_reason is not None:
            return []
        delta = dict(choice.get("delta") or choice.get("message") or {})
        content = delta.pop("content", None)
        calls = delta.pop("tool_calls", None)
        delta.pop("role", None)
        delta = {key: value for key, value in delta.items() if value is not None}
        if calls:
            delta["tool_calls"] = [self._call(call, state) for call in calls]
        text = self._passing(content, state) if isinstance(content, str) and content else ""
        made = [self._chunk(state, delta | ({"content": text} if text else {}), choice)] if text or delta else []
        if not state.begun and not made and content is not None:
            made = [self._chunk(state, {"content": ""}, choice)]
        if state.stop_gate is not None and state.stop_gate.found is not None:
            return made + await self._finish(state, "stop")
        if choice.get("finish_reason") is not None:
            made += await self._finish(state, str(choice["finish_reason"]))
        return made

    def _passing(self, content: str, state: _Choice) -> str:
        """The part of ``content`` that can go out now."""
        self._chars += len(content)
        self._pieces += 1
        text = content if state.stop_gate is None else state.stop_gate.feed(content)
        return self._past_calls(text, state)

    def _past_calls(self, text: str, state: _Choice) -> str:
        """The part of ``text`` that is no tool call for certain; what the checks at the end need is kept."""
        if self._form is not None or state.holding:
            state.kept_chars += len(text)
            if state.kept_chars > _MAX_KEPT_CHARS:
                raise StructuredOutputError(f"The answer is longer than the {_MAX_KEPT_CHARS} characters checked.")
            state.text.append(text)
        if state.call_gate is None:
            return text
        if state.holding:
            text = "".join(state.text)
            if may_begin_call(text[:_ENOUGH_TO_TELL]):
                return ""
            state.holding = False
        return state.call_gate.feed(text)

    async def _finish(self, state: _Choice, reason: str) -> list[dict[str, Any]]:
        made = []
        if state.stop_gate is not None and state.stop_gate.found is None:
            rest = self._past_calls(state.stop_gate.flush(), state)
            made += [self._chunk(state, {"content": rest})] if rest else []
        if state.call_gate is not None:
            made += await self._finish_calls(state)
        if state.call_ids:
            reason = "tool_calls"
        elif self._form is not None:
            rest, reason = await self._checked("".join(state.text), reason)
            made += [self._chunk(state, {"content": rest})] if rest else []
        state.finish_reason = reason
        made.append(self._chunk(state, {}, finish_reason=reason))
        return made

    async def _checked(self, text: str, reason: str) -> tuple[str, str]:
        """What is still to be added to a text that has gone out already, and how it ended."""
        if self._form is None:
            return "", reason
        verdict = await self._form.verdict(text, reason)
        if verdict.text is not None and not verdict.how:
            return "", "stop"
        if verdict.text is not None and not verdict.whole and verdict.text.startswith(text.strip()):
            return verdict.text[len(text.strip()) :], reason
        problem = verdict.problem or "the answer holds more than JSON, or less"
        raise StructuredOutputError(f"The answer does not keep to 'response_format': {problem}.")

    async def _finish_calls(self, state: _Choice) -> list[dict[str, Any]]:
        """The calls in the text that was held back, or that text."""
        held = state.call_gate.flush() if state.call_gate else ""
        text = "".join(state.text) if state.holding else held
        tools = self._plan.request["tools"]
        found = find_calls(text, tools)
        problem = await check_calls(found, tools) if found else "the model wrote text"
        if found is None or problem:
            if wants_call(self._plan.request) and not state.call_ids:
                raise EngineFailedError(f"The model did not produce a valid tool call: {problem}.")
            return [self._chunk(state, {"content": text})] if text else []
        made = [self._chunk(state, {"content": found.text})] if found.text else []
        for name, arguments in found.calls:
            call = {"function": {"name": name, "arguments": orjson.dumps(arguments).decode()}}
            made.append(self._chunk(state, {"tool_calls": [self._call(complete_call(call), state)]}))
        return made

    def _call(self, call: Mapping[str, Any], state: _Choice) -> dict[str, Any]:
        """A tool-call delta with its index, and its type and id where a call begins."""
        made = dict(call)
        call_id, named = made.get("id"), bool((made.get("function") or {}).get("name"))
        if call_id or named:
            if not call_id:
                call_id = complete_call({"function": {}})["id"]
            state.latest_call = state.call_ids.setdefault(call_id, len(state.call_ids))
            made |= {"id": call_id, "type": "function"}
        made["index"] = state.latest_call
        return made

    def _chunk(
        self,
        state: _Choice,
        delta: dict[str, Any],
        source: Mapping[str, Any] | None = None,
        *,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        if not state.begun:
            state.begun = True
            delta = {"role": "assistant", "content": delta.pop("content", "" if not delta else None), **delta}
        choice = {
            "index": state.index,
            "delta": delta,
            "logprobs": source.get("logprobs") if source else None,
            "finish_reason": finish_reason,
        }
        return self._head | {"choices": [choice]}

    def _estimate(self) -> dict[str, int]:
        prompt = estimated_prompt_tokens(self._plan.request)
        # Foundry sends a token in each chunk; a server that sends everything at once is judged by the length.
        completion = self._pieces if self._pieces > 1 else estimated_tokens("x" * self._chars)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def repaired_events(source: AsyncIterator[bytes], repair: ChunkRepair) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a stream, repaired, as they come; ends where ``[DONE]`` would be.

    Raises:
        FoundryError: An error came in mid-stream, the engine ended before its answer did, or ``repair`` refuses it.
    """
    decoder = SSEDecoder()
    async for part in source:
        try:
            events = decoder.feed(part)
        except ValueError as error:
            raise EngineFailedError("The engine's stream cannot be read.") from error
        for event in events:
            if event.data.strip() == b"[DONE]":
                for chunk in await repair.end():
                    yield chunk
                return
            for chunk in await repair.chunk(_object(event.data)):
                yield chunk
        if repair.satisfied:
            break
    if not repair.ended:
        raise EngineFailedError("The engine's stream ended before the answer did.")
    for chunk in await repair.end():
        yield chunk


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EngineFailedError("The engine's stream cannot be read.") from error
    if not isinstance(value, dict):
        raise EngineFailedError("The engine's stream holds something that is no chunk.")
    return value
