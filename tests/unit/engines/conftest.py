"""Every asynchronous test in here runs on both event loops that the product runs on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from fastapi_foundry.engines.http_client import HttpClient, Timeouts


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415 - does not exist on Windows

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client with short time-outs; at the end nothing of it may be left."""
    before = asyncio.all_tasks()
    http = HttpClient(timeouts=Timeouts(connect_s=2, first_byte_s=2, idle_s=2))
    yield http
    await http.aclose()
    await asyncio.sleep(0)
    assert http.open_connections == 0
    assert http.idle_connections == 0
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not [task for task in left if "fastapi_foundry" in repr(task)]
