"""A real runner, spoken to in frames without the service."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

import fastapi_foundry
from fastapi_foundry.daemon.runner_process import RunnerProcess, RunnerStartError
from fastapi_foundry.errors import EngineFailedError, EngineUnavailableError, InvalidInputError

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}]}


def init(data_dir: Path, **change: Any) -> dict[str, Any]:
    data_dir.mkdir(parents=True)
    model = {
        "id": "m:1",
        "alias": "m",
        "path": str(DEMO),
        "task": "chat-completion",
        "tool_calling": True,
        "context_length": 4096,
    }
    return {"op": "init", "role": "model", "data_dir": str(data_dir), "threads": 2, "model": model | change}


async def start(message: dict[str, Any]) -> RunnerProcess:
    return await RunnerProcess.start(
        message, timeout_s=60, env=dict(os.environ), on_exit=lambda _: None, on_stderr=lambda _: None
    )


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    started = await start(init(tmp_path / "data"))
    yield started
    await started.stop(EngineUnavailableError("over"))


async def test_it_says_that_its_network_is_denied_and_how_long_it_took(runner: RunnerProcess):
    assert runner.ready["pid"] == runner.pid
    assert runner.ready["network"] == "denied"
    assert 0 < runner.ready["duration"] < 30
    assert runner.ready["context_length"] == 4096


async def test_it_counts_the_tokens_of_a_prompt(runner: RunnerProcess):
    end = await runner.call("count", MESSAGES).result()
    counted = orjson.loads(end.data or b"")
    answered = await runner.call("chat", MESSAGES | {"max_tokens": 1}).result()
    assert counted["context_length"] == 4096
    assert answered.usage is not None
    assert counted["prompt_tokens"] == answered.usage["prompt_tokens"] > 0


async def test_a_request_that_breaks_the_runners_own_code_ends_alone(runner: RunnerProcess):
    with pytest.raises(EngineFailedError, match="unexpectedly"):
        await runner.call("chat", {"messages": 5}).result()
    assert (await runner.call("chat", MESSAGES | {"max_tokens": 1}).result()).tokens == 1


async def test_what_the_engine_refuses_is_an_invalid_request_in_plain_words(runner: RunnerProcess):
    with pytest.raises(InvalidInputError) as caught:
        await runner.call("chat", MESSAGES | {"top_p": 3}).result()
    assert "top_p" in caught.value.message
    assert ".cc" not in caught.value.message


async def test_its_data_directory_goes_with_it(tmp_path: Path):
    runner = await start(init(tmp_path / "data"))
    assert (tmp_path / "data").exists()
    runner.send({"op": "shutdown"})
    while runner.alive:
        await runner.call("count", MESSAGES).next_chunks()
    assert not (tmp_path / "data").exists()
    assert not psutil.pid_exists(runner.pid)


async def test_a_directory_that_vanishes_before_the_load_is_a_polite_failure(tmp_path: Path):
    gone = tmp_path / "gone"
    shutil.copytree(DEMO, gone)
    message = init(tmp_path / "data", path=str(gone))
    shutil.rmtree(gone)
    with pytest.raises(RunnerStartError) as caught:
        await start(message)
    assert not caught.value.crashed
    assert str(tmp_path) not in str(caught.value)
