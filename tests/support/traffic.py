"""Many requests while something happens to the engine: each is answered or fails clearly, and only once.

What must not be is noted as an outcome's ``problem`` instead of ending the run, so that a soak can tell all of it.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx2

__all__ = ["ANSWERED", "CHAT", "KINDS", "Outcome", "Question", "Storm", "Tally", "ask_once"]

CHAT: Final = "chat"
STREAM: Final = "stream"
GENERATE: Final = "generate"
KINDS: Final = (CHAT, STREAM, GENERATE)
ANSWERED: Final = "answered"
# A gateway that is there and cannot answer now; everything else is an answer to something else.
_STATUSES: Final = {CHAT: {502, 503, 504}, STREAM: {502, 503, 504}, GENERATE: {502, 503, 408}}
_TELLTALE: Final = re.compile(r"127\.0\.0\.1|localhost|Traceback|\.cc:\d|/home/|/tmp/", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        expected: The answer's text; None where any will do.
        usage: Whether a stream is asked for its usage.
    """

    model: str
    text: str
    max_tokens: int = 50
    expected: str | None = None
    usage: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        what: ``answered``, ``refused 503 engine_unavailable`` or ``broken off engine_failed``.
        id: The answer's own id.
        text: The answer.
        began: When, by the monotonic clock.
        seconds: From the request to the end of the answer.
        problem: What must not be; empty where nothing was wrong.
    """

    kind: str
    what: str
    id: str = ""
    text: str = ""
    began: float = 0.0
    seconds: float = 0.0
    problem: str = ""


@dataclass
class Tally:
    """The outcomes of a storm, in the order in which they came.

    Attributes:
        disturbed: When each disturbance was done, by the monotonic clock.
        further: What must not be and belongs to no single request.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    further: list[str] = field(default_factory=list)

    def count(self, what: str = "") -> int:
        """How many ended so; ``what`` is the beginning of ``Outcome.what``."""
        return sum(outcome.what.startswith(what) for outcome in self.outcomes)

    @property
    def problems(self) -> list[str]:
        """Everything that must not be, in words."""
        found = [f"{each.kind}, {each.what}: {each.problem}" for each in self.outcomes if each.problem]
        ids = collections.Counter(each.id for each in self.outcomes if each.id)
        found += [f"{times} answers have the id {name}" for name, times in ids.items() if times > 1]
        return found + self.further

    def recoveries(self) -> list[float]:
        """For each disturbance the seconds from its end to the first answer to a request that came after it."""
        answers = [each for each in self.outcomes if each.what == ANSWERED]
        return [
            min((each.began + each.seconds for each in answers if each.began > when), default=math.inf) - when
            for when in self.disturbed
        ]

    def table(self) -> str:
        """Outcomes by kind, with the slowest and the median time of each, as Markdown."""
        groups: dict[str, list[Outcome]] = collections.defaultdict(list)
        for outcome in self.outcomes:
            groups[outcome.what].append(outcome)
        lines = ["| outcome | " + " | ".join(KINDS) + " | median | slowest |", "|---" * (len(KINDS) + 3) + "|"]
        for what, group in sorted(groups.items(), key=lambda item: -len(item[1])):
            counts = [str(sum(each.kind == kind for each in group)) for kind in KINDS]
            times = [each.seconds for each in group]
            lines.append(f"| {what} | {' | '.join(counts)} | {statistics.median(times):.2f} s | {max(times):.2f} s |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Storm:
    """Requests, several at a time, and a disturbance every so many of them.

    Attributes:
        question: By the number of the request: the kind, and what is asked.
        disturb: Called with the number of the disturbance, while requests go on.
        rest_s: The least time between two disturbances; requests pause meanwhile.
        deadline_s: A request that takes longer hangs.
        pause_s: How long a client that was refused waits before it goes on.
    """

    question: Callable[[int], tuple[str, Question]]
    disturb: Callable[[int], Awaitable[None]]
    requests: int
    disturbances: int
    at_once: int
    deadline_s: float
    rest_s: float = 0.0
    pause_s: float = 0.0

    async def over(self, client: httpx2.AsyncClient) -> Tally:
        """Send everything."""
        tally, gate = Tally(), asyncio.Event()
        gate.set()
        numbers = iter(range(self.requests))

        async def work() -> None:
            for number in numbers:
                await gate.wait()
                outcome = await ask_once(client, *self.question(number), deadline_s=self.deadline_s)
                tally.outcomes.append(outcome)
                if outcome.what.startswith("refused"):
                    await asyncio.sleep(self.pause_s)

        await asyncio.gather(self._disturb(tally, gate), *(work() for _ in range(self.at_once)))
        return tally

    async def _disturb(self, tally: Tally, gate: asyncio.Event) -> None:
        share = self.requests // (self.disturbances + 2)
        last = -self.rest_s
        for number in range(self.disturbances):
            await self._seen(tally, (number + 1) * share)
            gate.clear()
            await asyncio.sleep(last + self.rest_s - time.monotonic())
            gate.set()
            if self.rest_s:  # in the midst of requests again
                await self._seen(tally, (number + 1) * share + self.at_once * 2)
            last = time.monotonic()
            await self.disturb(number)
            tally.disturbed.append(time.monotonic())

    async def _seen(self, tally: Tally, count: int) -> None:
        while len(tally.outcomes) < count:
            await asyncio.sleep(0.005)


async def ask_once(client: httpx2.AsyncClient, kind: str, question: Question, *, deadline_s: float) -> Outcome:
    """One request and what became of it; never raises for what the server does."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(deadline_s):
            outcome = await _ASK[kind](client, question)
    except (TimeoutError, httpx2.TimeoutException):
        outcome = Outcome(kind, "hung", problem=f"no end after {deadline_s:g} s")
    except httpx2.HTTPError as error:
        outcome = Outcome(kind, "lost", problem=f"the gateway broke off: {error!r}")
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        outcome = Outcome(kind, "malformed", problem=f"{error!r}")
    return replace(outcome, began=began, seconds=time.monotonic() - began)


async def _chat(client: httpx2.AsyncClient, question: Question) -> Outcome:
    response = await client.post("/v1/chat/completions", json=_chat_body(question))
    document = response.json()
    if response.status_code != 200:
        return _refused(CHAT, response.status_code, document)
    (choice,) = document["choices"]
    _check_end(choice["finish_reason"], document["usage"], question)
    return _answered(CHAT, document["id"], choice["message"]["content"], question)


async def _generate(client: httpx2.AsyncClient, question: Question) -> Outcome:
    body = {"model": question.model, "prompt": question.text, "max_tokens": question.max_tokens, "temperature": 0}
    response = await client.post("/api/v1/generate", json=body)
    document = response.json()
    if response.status_code != 200:
        return _refused(GENERATE, response.status_code, document)
    assert document["success"] is True
    _check_end(document["finish_reason"], document["usage"], question)
    return _answered(GENERATE, document["request_id"], document["content"], question)


async def _stream(client: httpx2.AsyncClient, question: Question) -> Outcome:
    body = _chat_body(question) | {"stream": True}
    if question.usage:
        body["stream_options"] = {"include_usage": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        raw = (await response.aread()).decode()
    if response.status_code != 200:
        return _refused(STREAM, response.status_code, json.loads(raw))
    events = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    assert events, "an empty stream"
    if events[-1] != "[DONE]":
        assert "[DONE]" not in events, "something follows [DONE]"
        documents = [json.loads(event) for event in events]
        assert "error" in documents[-1], f"half an answer and no error: {events[-1]}"
        assert not any("error" in each for each in documents[:-1]), "two errors"
        assert len({each["id"] for each in documents[:-1]}) <= 1, "several ids in one stream"
        return Outcome(STREAM, f"broken off {_code_of(documents[-1]['error'])}")
    assert events.count("[DONE]") == 1, "two [DONE]"
    return _whole_stream([json.loads(event) for event in events[:-1]], question)


_ASK: Final[dict[str, Callable[[httpx2.AsyncClient, Question], Awaitable[Outcome]]]] = {
    CHAT: _chat,
    STREAM: _stream,
    GENERATE: _generate,
}


def _chat_body(question: Question) -> dict[str, Any]:
    messages = [{"role": "user", "content": question.text}]
    return {"model": question.model, "messages": messages, "max_tokens": question.max_tokens, "temperature": 0}


def _whole_stream(chunks: Sequence[dict[str, Any]], question: Question) -> Outcome:
    assert not any("error" in chunk for chunk in chunks), "an error and yet a normal end"
    (stream_id,) = {chunk["id"] for chunk in chunks}
    frames = [chunk for chunk in chunks if not chunk["choices"]]
    assert len(frames) == question.usage, f"{len(frames)} usage frames"
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert choices[0]["delta"].get("role") == "assistant", "no role"
    assert [bool(choice["finish_reason"]) for choice in choices] == [False] * (len(choices) - 1) + [True]
    if question.usage:
        assert chunks[-1] is frames[0], "the usage frame is not the last"
        _check_end(choices[-1]["finish_reason"], frames[0]["usage"], question)
    return _answered(STREAM, stream_id, "".join(each["delta"].get("content") or "" for each in choices), question)


def _check_end(finish_reason: str, usage: dict[str, Any], question: Question) -> None:
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    assert usage["total_tokens"] == prompt + completion, f"usage does not add up: {usage}"
    assert prompt > 0, "no prompt tokens"
    assert 0 < completion <= question.max_tokens, f"{completion} tokens of {question.max_tokens}"
    assert finish_reason in {"stop", "length"}, f"finish_reason is {finish_reason}"


def _answered(kind: str, answer_id: str, text: str, question: Question) -> Outcome:
    assert text, "no text"
    if question.expected is not None:
        assert text == question.expected, f"another text: {text!r} instead of {question.expected!r}"
    return Outcome(kind, ANSWERED, answer_id, text)


def _refused(kind: str, status: int, document: dict[str, Any]) -> Outcome:
    assert status in _STATUSES[kind], f"status {status}: {document}"
    if kind != GENERATE:
        return Outcome(kind, f"refused {status} {_code_of(document['error'])}")
    assert {"error", "detail", "status_code", "code", "request_id"} <= document.keys(), f"not its dialect: {document}"
    assert document["status_code"] == status, f"two statuses: {document}"
    assert document["error"], f"without words: {document}"
    assert document["detail"], f"without words: {document}"
    return Outcome(kind, f"refused {status} {document['code']}")


def _code_of(error: dict[str, Any]) -> str:
    """The code of an error in OpenAI's envelope, which says what happened and nothing of the inside."""
    assert set(error) == {"message", "type", "param", "code"}, f"not OpenAI's envelope: {error}"
    assert error["message"], "an error without a message"
    assert not _TELLTALE.search(error["message"]), f"shows the inside: {error['message']}"
    return str(error["code"])
