from __future__ import annotations

import asyncio
import json

from fastapi_foundry.daemon.downloads import DownloadJob
from fastapi_foundry.daemon.routes_gen1 import progress_lines
from fastapi_foundry.errors import CatalogUnavailableError


async def lines_of(job: DownloadJob, end: CatalogUnavailableError | None) -> list[str]:
    """The lines of a job that is told to be half done, and then to have ended."""
    lines: list[str] = []

    async def read():
        async for line in progress_lines(job):
            lines.append(line.decode())  # noqa: PERF401 - each is wanted as soon as it is there

    reading = asyncio.create_task(read())
    async with asyncio.timeout(5):
        while not lines:
            await asyncio.sleep(0)
        await job.tell(percent=50.126)
        while len(lines) < 2:
            await asyncio.sleep(0)
        await job.tell(percent=None if end else 100.0, model="" if end else "a:1", fact=end)
        await reading
    return lines


async def test_progress_lines_say_percent_and_end_in_one_line_of_json():
    *lines, end = await lines_of(DownloadJob("a:1"), None)
    assert lines == ["Total 0.00% Downloading\n", "Total 50.13% Downloading\n", "[DONE]\n"]
    assert json.loads(end) == {"success": True, "errorMessage": None}


async def test_a_failure_is_named_where_each_sdk_looks_and_holds_one_opening_brace():
    *_, mark, end = await lines_of(DownloadJob("a:1"), CatalogUnavailableError("no network"))
    assert mark == "[DONE]\n"
    assert json.loads(end) == {"success": False, "errorMessage": "no network", "error": "no network"}
    assert end.count("{") == 1
