"""Several choices from an engine that gives one: as many requests, put together as one answer or one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

__all__ = ["gather_answers", "interleave", "request_for_choice"]

AT_ONCE: Final = 4
"""How many of a request's choices are asked for at the same time."""

_QUEUE_CHUNKS: Final = 64

Opened = AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]


def request_for_choice(request: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The request for one choice; a seed is varied, or all choices would be the same."""
    alone = {key: value for key, value in request.items() if key != "n"}
    if index and isinstance(alone.get("seed"), int):
        alone["seed"] += index
    return alone


async def gather_answers(ask: Callable[[int], Awaitable[dict[str, Any]]], count: int) -> dict[str, Any]:
    """One answer with ``count`` choices; the failure of one fails all and cancels the rest.

    Args:
        ask: Gets the number of a choice and returns an answer with that choice alone.
        count: How many.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def limited(index: int) -> dict[str, Any]:
        async with room:
            return await ask(index)

    tasks = [asyncio.create_task(limited(index)) for index in range(count)]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        await _end(tasks)
    choices = [{**answer["choices"][0], "index": index} for index, answer in enumerate(answers)]
    return answers[0] | {"choices": choices, "usage": _summed([answer.get("usage") for answer in answers])}


async def interleave(
    open_choice: Callable[[int], Opened], count: int, *, wants_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of ``count`` streams as they come, under one id, with one usage frame last.

    Args:
        open_choice: Gets the number of a choice and opens the stream of its chunks.
        count: How many.
        wants_usage: Whether the usage frame was asked for.
    """
    queue: asyncio.Queue[tuple[int, dict[str, Any] | BaseException | None]] = asyncio.Queue(_QUEUE_CHUNKS)
    room = asyncio.Semaphore(AT_ONCE)

    async def read(index: int) -> None:
        try:
            async with room, open_choice(index) as chunks:
                async for chunk in chunks:
                    await queue.put((index, chunk))
            await queue.put((index, None))
        except Exception as error:  # noqa: BLE001 - raised again by the one who reads the queue
            await queue.put((index, error))

    tasks = [asyncio.create_task(read(index)) for index in range(count)]
    head: dict[str, Any] | None = None
    usages: list[Mapping[str, Any] | None] = []
    try:
        while count:
            index, chunk = await queue.get()
            if isinstance(chunk, BaseException):
                raise chunk
            if chunk is None:
                count -= 1
                continue
            head = head or {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
            if not chunk["choices"]:
                usages.append(chunk.get("usage"))
                continue
            yield chunk | head | {"choices": [{**each, "index": index} for each in chunk["choices"]]}
        if wants_usage and head is not None:
            yield head | {"choices": [], "usage": _summed(usages)}
    finally:
        await _end(tasks)


def _summed(usages: Sequence[Mapping[str, Any] | None]) -> dict[str, int]:
    """The prompt once, the answers together."""
    counted = [usage for usage in usages if usage]
    prompt = max((int(usage["prompt_tokens"]) for usage in counted), default=0)
    completion = sum(int(usage["completion_tokens"]) for usage in counted)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
