"""What a real runner still decodes after it was told to stop, counted in every phase of a request; in raw frames."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

import fastapi_foundry

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
MOST_AFTER_CANCEL = 5
# An answer that cannot end before its limit: a string of at least 9,000 characters.
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "minLength": 9000}}, "required": ["a"]}
ENDLESS = {
    "max_tokens": 1500,
    "temperature": 0,
    "response_format": {"type": "json_schema", "json_schema": {"name": "long", "schema": SCHEMA}},
    "messages": [{"role": "user", "content": "Tell me."}],
}
LONG_PROMPT = ENDLESS | {"messages": [{"role": "user", "content": "one two three " * 550}]}
MODEL = {
    "id": "m:1",
    "alias": "m",
    "path": str(DEMO),
    "task": "chat-completion",
    "tool_calling": True,
    "context_length": 4096,
}
Frame = dict[str, Any]


class Frames:
    """The two pipes of a runner."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._in = cast("asyncio.StreamWriter", process.stdin)
        self._out = cast("asyncio.StreamReader", process.stdout)

    def send(self, **frame: Any) -> None:
        self._in.write(orjson.dumps(frame) + b"\n")

    async def next(self) -> Frame:
        return dict(orjson.loads(await self._out.readline()))

    async def until(self, found: Callable[[Frame], bool]) -> tuple[Frame, int]:
        """The first frame like that, and how many chunks with text came before it."""
        texts = 0
        while True:
            frame = await self.next()
            if found(frame):
                return frame, texts
            if frame["event"] == "chunk":
                texts += bool(frame["data"]["choices"][0]["delta"].get("content"))

    async def end_of(self, number: int) -> tuple[Frame, int]:
        return await self.until(lambda frame: frame["event"] in {"done", "error"} and frame["id"] == number)

    async def begun(self, number: int) -> None:
        await self.until(lambda frame: frame["event"] == "begun" and frame["id"] == number)


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Frames]:
    async with _running(tmp_path / "data") as frames:
        yield frames


@asynccontextmanager
async def _running(data_dir: Path, threads: int = 1) -> AsyncIterator[Frames]:
    data_dir.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastapi_foundry.daemon.runner"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=2**24,
    )
    frames = Frames(process)
    frames.send(op="init", role="model", data_dir=str(data_dir), threads=threads, model=MODEL)
    assert (await frames.next())["event"] == "ready"
    yield frames
    frames.send(op="shutdown")
    await process.wait()


def assert_stopped(end: Frame) -> None:
    assert (end["event"], end["code"]) == ("error", "cancelled")
    assert end["after_cancel"] <= MOST_AFTER_CANCEL


async def test_in_the_middle_of_a_stream(runner: Frames):
    runner.send(op="chat", id=1, body=ENDLESS | {"stream": True})
    for _ in range(40):
        await runner.until(lambda frame: frame["event"] == "chunk")
    runner.send(op="cancel", id=1)
    end, _ = await runner.end_of(1)
    assert_stopped(end)
    # The first chunk names the speaker.
    assert 39 <= end["tokens"] < 500


async def test_its_tokens_are_those_it_has_sent_and_those_it_has_swallowed(runner: Frames):
    runner.send(op="chat", id=1, body=ENDLESS | {"stream": True})
    before = 0
    while before < 30:
        frame = await runner.next()
        before += frame["event"] == "chunk" and bool(frame["data"]["choices"][0]["delta"].get("content"))
    runner.send(op="cancel", id=1)
    end, later = await runner.end_of(1)
    assert end["tokens"] == before + later + end["after_cancel"]


async def test_in_the_middle_of_a_whole_answer(runner: Frames):
    runner.send(op="chat", id=1, body=ENDLESS)
    await runner.begun(1)
    await asyncio.sleep(0.3)
    runner.send(op="cancel", id=1)
    end, _ = await runner.end_of(1)
    assert_stopped(end)
    assert 0 < end["tokens"] < 1500


@pytest.mark.parametrize("streams", [True, False])
async def test_while_the_prompt_is_read(runner: Frames, streams: bool):
    runner.send(op="chat", id=1, body=LONG_PROMPT | {"stream": streams})
    await runner.begun(1)
    runner.send(op="cancel", id=1)
    end, _ = await runner.end_of(1)
    assert_stopped(end)
    assert end["tokens"] <= MOST_AFTER_CANCEL


@pytest.mark.parametrize("streams", [True, False])
async def test_while_it_waits_for_a_thread(runner: Frames, streams: bool):
    runner.send(op="chat", id=1, body=ENDLESS)
    await runner.begun(1)
    runner.send(op="chat", id=2, body=ENDLESS | {"stream": streams})
    runner.send(op="cancel", id=2)
    runner.send(op="cancel", id=1)
    assert_stopped((await runner.end_of(1))[0])
    end, texts = await runner.end_of(2)
    assert_stopped(end)
    assert end["tokens"] == texts == 0


async def test_one_cancel_does_not_wait_for_another(tmp_path: Path):
    """The second of two stops although the first still reads its prompt."""
    async with _running(tmp_path / "data", threads=2) as runner:
        runner.send(op="chat", id=1, body=LONG_PROMPT)
        await runner.begun(1)
        runner.send(op="cancel", id=1)
        runner.send(op="chat", id=2, body=ENDLESS | {"stream": True})
        await runner.until(lambda frame: frame["event"] == "chunk" and frame["id"] == 2)
        runner.send(op="cancel", id=2)
        assert_stopped((await runner.end_of(2))[0])


async def test_a_cancelled_turn_of_a_chat_that_is_kept_open(runner: Frames):
    messages = [{"role": "user", "content": "word and word and thing and thing " * 60}]
    runner.send(op="chat", id=1, body={"messages": messages, "stream": True, "max_tokens": 1500, "temperature": 2})
    for _ in range(5):
        await runner.until(lambda frame: frame["event"] == "chunk")
    runner.send(op="cancel", id=1)
    end, _ = await runner.end_of(1)
    if end["event"] == "error":
        assert_stopped(end)


async def test_an_answer_that_ends_as_it_should_counts_its_tokens_once(runner: Frames):
    for number, streams in enumerate((True, False), 1):
        runner.send(op="chat", id=number, body=ENDLESS | {"max_tokens": 50, "stream": streams})
        end, _ = await runner.end_of(number)
        assert (end["event"], end["tokens"], end["usage"]["completion_tokens"]) == ("done", 50, 50)
        assert "after_cancel" not in end
