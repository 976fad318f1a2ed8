"""What the storms of ``test_restarts`` and ``soak_restarts`` would see, if it were there."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.support.raw_server import Peer, raw_server
from tests.support.traffic import Outcome, Question, Tally, ask_once

USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
ERROR = {"message": "The engine broke off.", "type": "server_error", "param": None, "code": "engine_failed"}
NATIVE = {"error": "Bad gateway", "detail": "It broke.", "status_code": 502, "code": "engine_failed", "request_id": "r"}
QUESTION = Question("m:1", "Hi", 5, expected="Hello.")


def whole(text: str = "Hello.", reason: str | None = "stop", usage: dict[str, int] = USAGE) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"message": {"content": text}, "finish_reason": reason}], "usage": usage}


def frame(content: str | None = None, reason: str | None = None, answer_id: str = "c1") -> dict[str, Any]:
    delta = {"role": "assistant", "content": content} if content == "Hel" else {"content": content}
    return {"id": answer_id, "choices": [{"delta": delta if content else {}, "finish_reason": reason}]}


def stream(*events: object) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


BEGUN = (frame("Hel"), frame("lo."))
RIGHT = (*BEGUN, frame(reason="stop"), "[DONE]")


async def outcome_of(kind: str, body: object, status: int = 200, *, missing: int = 0, then: str = "") -> Outcome:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()

    async def serve(peer: Peer) -> None:
        await peer.request()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data) + missing}\r\n\r\n"
        await peer.say(head.encode() + data)
        if then == "silence":
            await peer.until_client_left()

    async with (
        raw_server(serve) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=None) as client,
    ):
        return await ask_once(client, kind, QUESTION, deadline_s=0.5)


@pytest.mark.parametrize(
    ("kind", "body", "status", "what"),
    [
        ("chat", whole(), 200, "answered"),
        ("chat", {"error": ERROR}, 502, "refused 502 engine_failed"),
        ("stream", stream(*RIGHT), 200, "answered"),
        ("stream", stream(*BEGUN, {"error": ERROR}), 200, "broken off engine_failed"),
        ("stream", {"error": ERROR}, 503, "refused 503 engine_failed"),
        ("generate", NATIVE, 502, "refused 502 engine_failed"),
    ],
)
async def test_what_may_be_has_no_problem(kind: str, body: object, status: int, what: str) -> None:
    outcome = await outcome_of(kind, body, status)
    assert (outcome.what, outcome.problem) == (what, "")


@pytest.mark.parametrize(
    ("kind", "body", "status", "problem"),
    [
        ("chat", whole("Hel"), 200, "another text"),
        ("chat", whole(reason=None), 200, "finish_reason is None"),
        ("chat", whole(usage=USAGE | {"total_tokens": 6}), 200, "usage does not add up"),
        ("chat", {"error": ERROR}, 500, "status 500"),
        ("chat", {"error": ERROR | {"message": "lost http://127.0.0.1:50477"}}, 502, "shows the inside"),
        ("chat", {"detail": "Bad gateway"}, 502, "KeyError"),
        ("chat", "Bad gateway", 502, "JSONDecodeError"),
        ("generate", {"error": ERROR}, 502, "not its dialect"),
        ("stream", stream(*BEGUN), 200, "half an answer and no error"),
        ("stream", stream(*BEGUN, "[DONE]"), 200, "AssertionError"),
        ("stream", stream(*RIGHT, "[DONE]"), 200, "two [DONE]"),
        ("stream", stream(*RIGHT, frame("more")), 200, "something follows [DONE]"),
        ("stream", stream(*BEGUN, {"error": ERROR}, "[DONE]"), 200, "an error and yet a normal end"),
        ("stream", stream(frame("Hel"), frame("lo.", answer_id="c2"), *RIGHT[2:]), 200, "too many values"),
        ("stream", stream(*BEGUN, *RIGHT), 200, "another text"),
    ],
)
async def test_what_must_not_be_is_a_problem(kind: str, body: object, status: int, problem: str) -> None:
    outcome = await outcome_of(kind, body, status)
    assert problem in outcome.problem, outcome


async def test_half_a_body_and_silence_are_problems() -> None:
    assert "broke off" in (await outcome_of("chat", "{", missing=100)).problem
    assert (await outcome_of("chat", "{", missing=100, then="silence")).problem == "no end after 0.5 s"


def test_the_same_id_twice_is_a_problem_and_the_table_counts() -> None:
    twice = [Outcome(kind, "answered", "c1", "Hello.", began=1.0, seconds=2.0) for kind in ("chat", "stream")]
    tally = Tally([*twice, Outcome("chat", "refused 503 engine_unavailable")], disturbed=[0.5], further=["a leftover"])
    assert tally.problems == ["2 answers have the id c1", "a leftover"]
    assert tally.recoveries() == [2.5]
    assert "| answered | 1 | 1 | 0 | 2.00 s | 2.00 s |" in tally.table()
