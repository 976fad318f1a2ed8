from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fastapi_foundry.api.interruption import ClientGoneError, interruptible
from fastapi_foundry.errors import StoppingError
from fastapi_foundry.services.stopping import Stopping


def client() -> tuple[Callable[[], Awaitable[dict[str, Any]]], asyncio.Event]:
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive, gone


async def work(receive: Any, stopping: Stopping, *, begun: asyncio.Event | None = None) -> str:
    async with interruptible(receive, stopping):
        if begun is not None:
            begun.set()
            await asyncio.Event().wait()
        return "done"


async def test_work_that_ends_by_itself_is_left_alone_and_leaves_nothing_behind() -> None:
    receive, _ = client()
    before = asyncio.all_tasks()
    assert await work(receive, Stopping()) == "done"
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_disconnect_ends_the_work() -> None:
    receive, gone = client()
    begun = asyncio.Event()
    task = asyncio.create_task(work(receive, Stopping(), begun=begun))
    await begun.wait()
    gone.set()
    with pytest.raises(ClientGoneError):
        await task


async def test_a_body_that_nobody_read_is_no_disconnect() -> None:
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    begun = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        begun.set()
        return await asyncio.Event().wait()

    async with interruptible(receive, Stopping()):
        await asyncio.wait_for(begun.wait(), 1)


async def test_the_end_of_the_process_ends_the_work_after_its_time_of_grace() -> None:
    receive, _ = client()
    begun, stopping = asyncio.Event(), Stopping()
    task = asyncio.create_task(work(receive, stopping, begun=begun))
    await begun.wait()
    stopping.begin(0.05)
    await asyncio.sleep(0.01)
    assert not task.done()
    with pytest.raises(StoppingError):
        await task


async def test_new_work_is_refused_once_the_end_has_begun() -> None:
    receive, _ = client()
    stopping = Stopping()
    stopping.begin(60)
    with pytest.raises(StoppingError):
        await work(receive, stopping)


async def test_a_cancel_from_elsewhere_stays_a_cancel() -> None:
    receive, _ = client()
    begun = asyncio.Event()
    task = asyncio.create_task(work(receive, Stopping(), begun=begun))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_from_elsewhere_at_the_same_time_wins() -> None:
    receive, gone = client()
    begun = asyncio.Event()
    task = asyncio.create_task(work(receive, Stopping(), begun=begun))
    await begun.wait()
    gone.set()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_disconnect_and_the_end_together_interrupt_once() -> None:
    receive, gone = client()
    begun, stopping = asyncio.Event(), Stopping()
    task = asyncio.create_task(work(receive, stopping, begun=begun))
    await begun.wait()
    stopping.begin(0.0)
    gone.set()
    with pytest.raises((ClientGoneError, StoppingError)):
        await task


async def test_what_is_registered_after_the_time_is_up_is_interrupted_at_once() -> None:
    stopping, called = Stopping(), []
    stopping.add(lambda: called.append("early"))
    stopping.begin(0.0)
    await asyncio.sleep(0.01)
    stopping.add(lambda: called.append("late"))
    assert called == ["early", "late"]


async def test_work_that_has_ended_is_not_interrupted_later() -> None:
    receive, _ = client()
    stopping = Stopping()
    assert await work(receive, stopping) == "done"
    stopping.begin(0.0)
    # A late interrupt would cancel this very task.
    await asyncio.sleep(0.02)
