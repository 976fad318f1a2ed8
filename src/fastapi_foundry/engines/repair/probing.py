"""Ask a live engine what it does with each feature of the contract.

Some thirty small requests, one after the other, each of a few tokens and with a bound of its own. What an engine
refuses, ignores or does is told from its answers alone; what cannot be told keeps the starting profile's word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi_foundry.engines.base import Engine
from fastapi_foundry.engines.repair.answers import usage_of
from fastapi_foundry.engines.repair.json_text import find_json
from fastapi_foundry.engines.repair.probe_answers import (
    delta,
    first_choice,
    lacking_in_deltas,
    repetitions,
    shown,
    support,
    text_in,
)
from fastapi_foundry.engines.repair.probe_requests import HELLO, ProbeRequests
from fastapi_foundry.engines.repair.profile import EngineProfile
from fastapi_foundry.engines.repair.tool_text import find_calls
from fastapi_foundry.errors import FoundryError

__all__ = ["Finding", "Probed", "probe_profile"]

_SCHEMA: Final = {
    "type": "object",
    "properties": {"zq": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["zq"],
    "additionalProperties": False,
}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# One white pixel.
_IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8AAwMCAO+ip1sAAAAASUVORK5CYII="
)
_REPETITION: Final = "Repeat exactly, without a word of your own:" + 24 * " hello"
# A penalty takes 2 from a token's logit for each repetition, so that after this many another token has won.
_MANY_REPETITIONS: Final = 12
_BEYOND_ANY_CONTEXT: Final = 9_000_000
_STREAMED_CHUNKS: Final = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe of one feature saw.

    Attributes:
        feature: A field of ``EngineProfile``.
        behaviour: Its value.
        raw: What the engine did, in words.
    """

    feature: str
    behaviour: str
    raw: str


@dataclass(frozen=True, slots=True)
class Probed:
    """A profile and what it rests on, in the order of asking."""

    profile: EngineProfile
    findings: tuple[Finding, ...]


async def probe_profile(
    engine: Engine,
    model: str,
    *,
    start: EngineProfile,
    request_timeout_s: float = 20.0,
    total_timeout_s: float = 120.0,
) -> Probed:
    """Find out how ``engine`` behaves with ``model``; never raises for what the engine does.

    Args:
        engine: The bare engine, not a repairing one.
        model: A chat model, best a small one that is loaded.
        start: What is believed so far; kept for every feature whose probe tells nothing.
        request_timeout_s: For each request, in seconds.
        total_timeout_s: For all of them; features whose turn does not come keep ``start``'s word.
    """
    probe = _Probe(ProbeRequests(engine, model, request_timeout_s), start)
    steps: tuple[Callable[[], Awaitable[None]], ...] = (
        probe.plain,
        probe.schema,
        probe.choices,
        probe.logprobs,
        probe.penalties,
        probe.bias,
        probe.stops,
        probe.messages,
        probe.tools,
        probe.stream,
        probe.limits,
        probe.text_completions,
    )
    deadline = time.monotonic() + total_timeout_s
    for step in steps:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        try:
            await asyncio.wait_for(step(), left_s)
        except (FoundryError, TimeoutError) as error:
            probe.failed(step.__name__, error)
    return probe.result()


class _Probe:
    def __init__(self, requests: ProbeRequests, start: EngineProfile) -> None:
        self._requests = requests
        self._start = start
        self._findings: list[Finding] = []
        self._text = ""

    def result(self) -> Probed:
        found = {each.feature: each.behaviour for each in self._findings if each.behaviour}
        return Probed(self._start.changed(**found), tuple(self._findings))

    def failed(self, step: str, error: Exception) -> None:
        self._findings.append(Finding(step, "", f"the probe failed: {shown(str(error) or type(error).__name__)}"))

    async def plain(self) -> None:
        answer = await self._requests.ask()
        choice = first_choice(answer)
        message = choice.get("message") or {}
        self._text = message.get("content") or ""
        usage, reason = answer.get("usage"), choice.get("finish_reason")
        self._found("usage", "present" if usage_of(usage) else "missing", f"usage is {shown(usage)}")
        if reason not in ("stop", "length"):
            self._found("finish_reason", "unreliable", f"finish_reason is {shown(reason)}")
        absent = [key for key in ("id", "created", "model") if not answer.get(key)]
        absent += [key for key in ("role",) if not message.get(key)]
        absent += [key for key, place in (("refusal", message), ("logprobs", choice)) if key not in place]
        words = f"without {' '.join(absent)}" if absent else "every field is there"
        self._found("envelope", "incomplete" if absent else "complete", words)

    async def schema(self) -> None:
        forms: tuple[tuple[str, dict[str, Any]], ...] = (
            ("wrapped", {"type": "json_schema", "json_schema": {"name": "probe", "schema": _SCHEMA}}),
            ("bare", {"type": "json_schema", "json_schema": _SCHEMA}),
            ("json_object_only", {"type": "json_object"}),
        )
        for behaviour, response_format in forms:
            # Some white space before a brace is a habit of small models under a grammar.
            text, refusal = await self._requests.text(response_format=response_format, max_tokens=64)
            values = [found.value for found in find_json(text)]
            if behaviour == "json_object_only":
                fits = any(isinstance(value, dict) for value in values) or text.lstrip().startswith("{")
                self._found("json_object", "native" if fits else "refused" if refusal else "ignored", refusal or text)
            else:
                fits = any(isinstance(value, dict) and list(value) == ["zq"] for value in values)
                fits = fits or "".join(text.split()).startswith('{"zq"')
            if fits:
                self._found("json_schema", behaviour, f"as {behaviour} it answers {shown(text)}")
                return
        self._found("json_schema", "ignored", "no form of a schema has an effect")

    async def choices(self) -> None:
        answer, refusal = await self._requests.attempt(n=2, temperature=1.0)
        count = len((answer or {}).get("choices") or ())
        behaviour = "refused" if answer is None else "native" if count == 2 else "ignored"  # noqa: PLR2004 - n
        self._found("n", behaviour, refusal or f"n of 2 gives {count}")

    async def logprobs(self) -> None:
        answer, refusal = await self._requests.attempt(logprobs=True, top_logprobs=2)
        there = bool(answer and first_choice(answer).get("logprobs"))
        self._found("logprobs", support(answer, there), refusal or f"logprobs are {'there' if there else 'null'}")

    async def penalties(self) -> None:
        """Whether they change a text that says one word again and again, which they must where they are heeded."""
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": _REPETITION}], "max_tokens": 48, "seed": 7}
        plain = text_in(await self._requests.ask(**asked))
        answer, refusal = await self._requests.attempt(**asked, frequency_penalty=2.0, presence_penalty=2.0)
        if answer is None:
            self._found("penalties", "refused", refusal)
        elif repetitions(plain) < _MANY_REPETITIONS:
            self._found("penalties", self._start.penalties, "taken; no effect shows, as the model repeats nothing")
        elif text_in(answer) == plain:
            self._found("penalties", "ignored", f"a word is said {repetitions(plain)} times in spite of them")
        elif text_in(await self._requests.ask(**asked)) == plain:
            self._found("penalties", "native", "a word is said less often")
        else:
            self._found("penalties", self._start.penalties, "taken; no effect shows, as no two answers are the same")

    async def bias(self) -> None:
        # A strong push of one token shows in the text of any engine that heeds it.
        answer, refusal = await self._requests.attempt(logit_bias={"100": 100})
        changed = answer is not None and text_in(answer) != self._text
        words = "text changes" if changed else "text is the same"
        self._found("logit_bias", support(answer, changed), refusal or words)

    async def stops(self) -> None:
        stop = self._text[2:4].strip() or self._text[:1]
        if not stop:
            return
        answer, refusal = await self._requests.attempt(stop=[stop])
        heeded = answer is not None and stop not in text_in(answer)
        words = f"text {'ends before' if heeded else 'goes on after'} the stop sequence"
        self._found("stop", support(answer, heeded), refusal or words)

    async def messages(self) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
        answer, refusal = await self._requests.attempt(messages=parts)
        same = answer is not None and text_in(answer) == self._text
        self._found("content_parts", support(answer, same), refusal or ("same text" if same else "another text"))
        image = [
            {"role": "user", "content": [*parts[0]["content"], {"type": "image_url", "image_url": {"url": _IMAGE}}]}
        ]
        seen, refusal = await self._requests.attempt(messages=image)
        behaviour = (
            "refused" if seen is None else "dropped" if answer and text_in(seen) == text_in(answer) else "native"
        )
        self._found("images", behaviour, refusal or f"an image is {'taken' if behaviour == 'native' else behaviour}")
        system = {"role": "system", "content": "Answer in one word."}
        told, _ = await self._requests.attempt(messages=[system, *HELLO])
        developer, refusal = await self._requests.attempt(messages=[{**system, "role": "developer"}, *HELLO])
        if developer is not None and (told is None or text_in(told) == self._text):
            self._found("developer_role", self._start.developer_role, "a system message changes nothing here")
            return
        same = told is not None and developer is not None and text_in(told) == text_in(developer)
        self._found("developer_role", support(developer, same), refusal or f"as system: {'yes' if same else 'no'}")

    async def tools(self) -> None:
        asked: dict[str, Any] = {"tools": [_TOOL], "tool_choice": "required", "max_tokens": 96}
        question = [{"role": "user", "content": "What is the weather in Paris?"}]
        answer, refusal = await self._requests.attempt(messages=question, **asked)
        if answer is None:
            self._found("tools", "none", refusal)
            return
        choice = first_choice(answer)
        calls = (choice.get("message") or {}).get("tool_calls")
        if not calls:
            found = find_calls(text_in(answer), [_TOOL])
            # Without a single call nobody can tell whether the model or the engine is at fault.
            self._found("tools", "text", f"{'a call as text' if found else 'no call'}: {shown(text_in(answer))}")
            return
        self._found("tools", "native", "calls are calls")
        if choice.get("finish_reason") != "tool_calls":
            self._found("finish_reason", "unreliable", f"with a call it is {shown(choice.get('finish_reason'))}")
        strict = {**_TOOL, "function": {**_TOOL["function"], "strict": True}}  # type: ignore[dict-item]
        answer, refusal = await self._requests.attempt(messages=question, **(asked | {"tools": [strict]}))
        self._found("strict_tools", "refused" if answer is None else "native", refusal or "taken")
        chunks, _ = await self._requests.stream(messages=question, **asked)
        deltas = [call for chunk in chunks for call in delta(chunk).get("tool_calls") or ()]
        lacking = lacking_in_deltas(deltas)
        words = f"deltas lack {', '.join(lacking)}" if lacking else "every field is there" if deltas else "no deltas"
        self._found("tool_deltas", "incomplete" if lacking or not deltas else "complete", words)

    async def stream(self) -> None:
        chunks, done = await self._requests.stream(stream_options={"include_usage": True})
        usage = [chunk["usage"] for chunk in chunks if usage_of(chunk.get("usage"))]
        self._found("stream_usage", "present" if usage else "missing", f"{len(usage)} usage frames")
        reasons = [first_choice(chunk).get("finish_reason") for chunk in chunks if chunk.get("choices")]
        if not any(reasons):
            self._found("finish_reason", "unreliable", "no finish_reason in a stream")
        first = delta(chunks[0]) if chunks else {}
        if not done or first.get("role") != "assistant" or not all(chunk.get("id") for chunk in chunks):
            self._found("envelope", "incomplete", "a stream lacks its role or id or [DONE]")

    async def limits(self) -> None:
        answer, refusal = await self._requests.attempt(max_completion_tokens=1, max_tokens=None)
        used = (usage_of((answer or {}).get("usage")) or {}).get("completion_tokens")
        heeded = answer is not None and (used == 1 if used is not None else len(text_in(answer)) < len(self._text))
        self._found("max_completion_tokens", support(answer, heeded), refusal or f"of 1 gives {used} tokens")
        try:
            await self._requests.stream(max_tokens=_BEYOND_ANY_CONTEXT, at_most=_STREAMED_CHUNKS)
        except FoundryError as error:
            self._found("max_tokens_overflow", "refused", shown(error.message))
        else:
            self._found("max_tokens_overflow", "clamped", "more than any context is taken")

    async def text_completions(self) -> None:
        try:
            await self._requests.post("/v1/completions", {"prompt": "Hello", "max_tokens": 1})
        except FoundryError as error:
            self._found("completions", "missing", shown(error.message))
        else:
            self._found("completions", "native", "answers")

    def _found(self, feature: str, behaviour: str, raw: str) -> None:
        self._findings.append(Finding(feature, behaviour, shown(raw)))
