"""A real runner and chats that go on: the prompt is read once, the answers are those of a runner that keeps nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

import fastapi_foundry
from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.errors import EngineUnavailableError
from tests.support.http import ask as ask_http
from tests.support.processes import ProductProcess
from tests.support.waiting import eventually

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
FACTS = {"role": "system", "content": "FastAPI Foundry is a gateway. " * 60}
QUESTIONS = ("What are you?", "Which port does the gateway use?", "hello", "What is the runner?")
MODEL = {
    "id": "m:1",
    "alias": "m",
    "path": str(DEMO),
    "task": "chat-completion",
    "tool_calling": True,
    "context_length": 4096,
}


async def start(data_dir: Path, **keep: float) -> RunnerProcess:
    data_dir.mkdir(parents=True)
    init = {"op": "init", "role": "model", "data_dir": str(data_dir), "threads": 2, "model": MODEL, "keep": keep}
    return await RunnerProcess.start(
        init, timeout_s=60, env=dict(os.environ), on_exit=lambda _: None, on_stderr=lambda _: None
    )


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    runner = await start(tmp_path / "keeping")
    yield runner
    await runner.stop(EngineUnavailableError("over"))


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    runner = await start(tmp_path / "forgetful", sessions=0)
    yield runner
    await runner.stop(EngineUnavailableError("over"))


async def ask(runner: RunnerProcess, messages: list[Any], **further: Any) -> tuple[str, dict[str, Any]]:
    """The answer and its usage."""
    body = {"messages": messages, "temperature": 0, "max_tokens": 300} | further
    end = await runner.call("chat", body).result()
    answer = orjson.loads(end.data or b"")
    assert end.usage is not None
    assert end.usage["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert end.tokens == answer["usage"]["completion_tokens"]
    return answer["choices"][0]["message"]["content"], answer["usage"]


async def ask_streaming(runner: RunnerProcess, messages: list[Any]) -> tuple[str, dict[str, Any]]:
    body = {"messages": messages, "temperature": 0, "max_tokens": 300, "stream": True}
    call = runner.call("chat", body | {"stream_options": {"include_usage": True}})
    chunks = []
    while (data := await call.next_chunks()) is not None:
        chunks += [orjson.loads(item) for item in data]
    assert call.end is not None
    assert call.end.fact is None
    *content, last, counted = chunks
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert counted["choices"] == []
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in content), counted["usage"]


async def talk(runner: RunnerProcess, how: Any = ask) -> tuple[list[str], list[int]]:
    """The answers to ``QUESTIONS`` in one chat, and the cached tokens of each."""
    messages: list[Any] = [FACTS]
    answers, cached = [], []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer, usage = await how(runner, messages)
        messages.append({"role": "assistant", "content": answer})
        answers.append(answer)
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    return answers, cached


@pytest.mark.parametrize("how", [ask, ask_streaming])
async def test_a_chat_that_goes_on_reads_only_what_is_new_and_says_the_same(
    keeping: RunnerProcess, forgetful: RunnerProcess, how: Any
):
    answers, cached = await talk(keeping, how)
    expected, nothing = await talk(forgetful, how)
    assert answers == expected
    assert nothing == [0, 0, 0, 0]
    assert cached[0] == 0
    assert all(tokens > 370 for tokens in cached[1:])


async def test_a_turn_that_is_edited_is_answered_afresh(keeping: RunnerProcess, forgetful: RunnerProcess):
    answers, _ = await talk(keeping)
    messages = [
        FACTS,
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": answers[0] + " Yes."},
    ]
    messages.append({"role": "user", "content": QUESTIONS[1]})
    answer, usage = await ask(keeping, messages)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert answer == (await ask(forgetful, messages))[0]


async def test_two_clients_in_the_same_chat_both_get_their_answer(keeping: RunnerProcess):
    answer, _ = await ask(keeping, [FACTS, {"role": "user", "content": "hello"}])
    before = [FACTS, {"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}]
    messages = [*before, {"role": "user", "content": "What are you?"}]
    (one, first), (other, second) = await asyncio.gather(ask(keeping, messages), ask(keeping, messages))
    assert one == other
    assert min(usage["prompt_tokens_details"]["cached_tokens"] for usage in (first, second)) == 0


async def test_a_chat_goes_on_after_a_turn_that_was_cancelled(keeping: RunnerProcess, forgetful: RunnerProcess):
    answer, _ = await ask(keeping, [FACTS, {"role": "user", "content": "hello"}])
    before = [FACTS, {"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}]
    call = keeping.call("chat", {"messages": [*before, {"role": "user", "content": "What?"}], "stream": True})
    await call.next_chunks()
    call.cancel()
    messages = [*before, {"role": "user", "content": "What are you?"}]
    assert (await ask(keeping, messages))[0] == (await ask(forgetful, messages))[0]


async def test_the_same_sampling_and_seed_gives_the_same_answer_in_every_turn(keeping: RunnerProcess):
    messages = [{"role": "user", "content": "one two three four " * 80}]
    told = {(await ask(keeping, messages, temperature=2, seed=5, max_tokens=30))[0] for _ in range(3)}
    assert len(told) == 1


async def test_open_sessions_are_bounded_and_their_memory_comes_back(tmp_path: Path):
    runner = await start(tmp_path / "bounded", sessions=8, memory_mb=85, idle_s=1.0)
    process = psutil.Process(runner.pid)
    before = process.memory_info().rss
    for number in range(6):
        await ask(runner, [FACTS, {"role": "user", "content": f"{number}?"}], max_tokens=200)
    # 40 MiB for each of two, and what the engine takes while it works.
    assert process.memory_info().rss - before < 160 * 2**20
    await eventually(lambda: process.memory_info().rss - before < 60 * 2**20, timeout_s=15.0)
    await runner.stop(EngineUnavailableError("over"))


def test_a_client_of_the_gateway_sees_what_was_not_read_again(shared_gateway: ProductProcess):
    messages: list[Any] = [FACTS, {"role": "user", "content": "hello"}]
    body = {"model": "foundry-demo:1", "messages": messages, "temperature": 0}
    first = ask_http(shared_gateway.url, "/v1/chat/completions", body).json
    messages += [first["choices"][0]["message"], {"role": "user", "content": "What are you?"}]
    second = ask_http(shared_gateway.url, "/v1/chat/completions", body).json
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 300
    assert "foundry-demo" in second["choices"][0]["message"]["content"]
