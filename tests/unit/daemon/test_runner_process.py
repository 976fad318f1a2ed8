"""The service's handle on a runner, tried on real processes that misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from fastapi_foundry.daemon import frames
from fastapi_foundry.daemon.runner_process import RunnerProcess, RunnerStartError
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    EngineUnavailableError,
    InvalidInputError,
)
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
GONE = EngineUnavailableError("gone")


@dataclass
class Heard:
    exits: list[RunnerProcess] = field(default_factory=list)
    stuck: list[RunnerProcess] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


Start = Callable[..., Awaitable[tuple[RunnerProcess, Heard]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[RunnerProcess] = []

    async def start_one(
        manner: str, *, timeout_s: float = 20.0, cancel_timeout_s: float = 30.0
    ) -> tuple[RunnerProcess, Heard]:
        heard = Heard()
        runner = await RunnerProcess.start(
            {"manner": manner},
            timeout_s=timeout_s,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            on_exit=heard.exits.append,
            on_stderr=heard.stderr.append,
            on_stuck=heard.stuck.append,
            cancel_timeout_s=cancel_timeout_s,
            module="tests.support.runner_double",
        )
        running.append(runner)
        return runner, heard

    yield start_one
    for runner in running:
        if runner.alive:
            await runner.kill()


async def test_a_call_gives_its_chunks_in_order_and_then_its_end(start: Start):
    runner, _ = await start("chat")
    ends: list[Any] = []
    call = runner.call("chat", {"a": 1}, ends.append)
    seen: list[bytes] = []
    while (chunks := await call.next_chunks()) is not None:
        seen += chunks
    assert seen == [b'"one"', b'"two"']
    end = await call.result()
    assert ends == [end]
    assert end.data == b'{"echo":{"a":1}}'
    assert (end.tokens, end.usage, end.fact) == (2, {"total_tokens": 3}, None)
    assert (runner.requests, runner.tokens_generated, runner.cancelled) == (1, 2, 0)


@pytest.mark.parametrize(
    ("manner", "words", "crashed"),
    [
        ("exit", "ended with status 3", True),
        ("die", "ended by signal 9", True),
        ("refuse", "it does not want to", False),
    ],
)
async def test_a_runner_that_does_not_start_says_how_it_ended(start: Start, manner: str, words: str, crashed: bool):
    with pytest.raises(RunnerStartError, match=words) as caught:
        await start(manner)
    assert caught.value.crashed is crashed


async def test_a_silent_runner_is_killed_when_its_time_is_up(start: Start):
    before = set(psutil.Process().children())
    with pytest.raises(RunnerStartError, match="not ready within 1 s"):
        await start("be silent", timeout_s=1.0)
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize("manner", ["talk nonsense", "never end a line"])
async def test_a_runner_that_leaves_the_protocol_is_killed_and_its_calls_end(
    start: Start, manner: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(frames, "MAX_LINE_BYTES", 4_000_000)
    runner, heard = await start(manner)
    with pytest.raises(EngineFailedError, match="ended unexpectedly"):
        await runner.call("chat", {}).result()
    assert not runner.alive
    assert heard.exits == [runner]
    assert "frame" in runner.last_words


async def test_an_answer_that_nobody_reads_is_given_up(start: Start):
    runner, _ = await start("talk too much")
    call = runner.call("chat", {})
    await eventually(lambda: call.end is not None)
    assert call.end is not None
    assert call.end.cancelled
    assert isinstance(call.end.fact, EngineFailedError)
    assert runner.cancelled == 1


async def test_a_runner_that_ignores_a_cancel_is_ended_once_nobody_else_needs_it(start: Start):
    runner, heard = await start("serve", cancel_timeout_s=0.1)
    stuck, wanted = runner.call("chat", {"hang": True}), runner.call("chat", {"after_s": 0.6})
    assert await stuck.next_chunks() == [b'"one"']
    stuck.cancel()
    await eventually(lambda: heard.stuck == [runner])
    assert runner.alive
    assert (await wanted.result()).fact is None
    await eventually(lambda: not runner.alive)
    assert stuck.end is not None
    assert heard.exits == [runner]
    assert "did not stop a request within 0.1 s" in runner.fault


async def test_a_runner_that_ignores_a_cancel_is_ended_at_last_though_others_are_in_it(start: Start):
    runner, heard = await start("serve", cancel_timeout_s=0.05)
    stuck, endless = runner.call("chat", {"hang": True}), runner.call("chat", {"hang": True})
    await stuck.next_chunks()
    stuck.cancel()
    with pytest.raises(EngineFailedError):
        await endless.result()
    assert heard.stuck == heard.exits == [runner]


async def test_a_prompt_may_be_read_for_longer_than_a_decode_may_go_on(start: Start):
    runner, heard = await start("ignore cancels", cancel_timeout_s=0.2)
    runner.call("chat", {}).cancel()
    await asyncio.sleep(0.5)
    assert runner.alive
    assert not heard.stuck
    await eventually(lambda: not runner.alive)


async def test_a_cancel_that_is_heeded_costs_nobody_anything(start: Start):
    runner, heard = await start("stay", cancel_timeout_s=0.05)
    runner.call("chat", {}).cancel()
    await asyncio.sleep(0.4)
    assert runner.alive
    assert not heard.stuck


async def test_a_killed_runner_ends_its_calls_at_once(start: Start):
    runner, heard = await start("stay")
    call = runner.call("chat", {})
    os.kill(runner.pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(EngineFailedError):
        await call.result()
    assert time.monotonic() - started < 1
    assert (runner.status, heard.exits) == (-9, [runner])
    with pytest.raises(EngineFailedError):
        await runner.call("chat", {}).result()


async def test_a_runner_that_stays_after_the_end_of_its_stdin_is_killed(start: Start):
    runner, heard = await start("stay")
    call = runner.call("chat", {})
    await runner.stop(GONE)
    assert not runner.alive
    with pytest.raises(EngineUnavailableError, match="gone"):
        await call.result()
    with pytest.raises(EngineUnavailableError):
        await runner.call("chat", {}).result()
    assert heard.exits == [runner]


async def test_cancelling_the_start_leaves_no_process(start: Start):
    before = set(psutil.Process().children())
    task = asyncio.create_task(start("be silent"))
    await eventually(lambda: set(psutil.Process().children()) - before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    ("frame", "kind", "param"),
    [
        (
            {
                "code": "context_length_exceeded",
                "message": "too long",
                "param": "messages",
                "prompt_tokens": 9,
                "context_length": 5,
            },
            ContextLengthExceededError,
            "messages",
        ),
        ({"code": "engine_failed", "message": "broken"}, EngineFailedError, None),
        ({"code": "unsupported_parameter", "message": "cannot", "param": "n"}, InvalidInputError, "n"),
    ],
)
async def test_error_frames_become_facts(start: Start, frame: dict[str, Any], kind: type, param: str | None):
    runner, heard = await start("complain")
    with pytest.raises(kind) as caught:
        await runner.call("chat", frame).result()
    assert str(caught.value.message) == frame["message"]
    assert getattr(caught.value, "param", None) == param
    await eventually(lambda: runner.last_words == "last words")
    assert all(len(line) <= 4096 * 3 for line in heard.stderr)
