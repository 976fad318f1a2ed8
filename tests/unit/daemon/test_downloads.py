from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fastapi_foundry.daemon.downloads import Downloads
from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.errors import CatalogUnavailableError, InvalidInputError, ModelNotFoundError, QueueFullError
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]


class DoubleWorkers:
    """Starts a double in place of the catalogue's worker."""

    def __init__(self, manner: str, *, offline: bool = False) -> None:
        self.offline = offline
        self.manner = manner
        self.started: list[RunnerProcess] = []

    async def start(self) -> RunnerProcess:
        worker = await RunnerProcess.start(
            {"manner": self.manner},
            timeout_s=20,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            on_exit=lambda _: None,
            on_stderr=lambda _: None,
            module="tests.support.runner_double",
        )
        self.started.append(worker)
        return worker


Make = Callable[[str], tuple[Downloads, DoubleWorkers]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Downloads] = []

    def make_one(manner: str) -> tuple[Downloads, DoubleWorkers]:
        workers = DoubleWorkers(manner)

        async def on_done() -> None:
            await asyncio.sleep(0)

        downloads = Downloads(workers, on_done)  # type: ignore[arg-type]
        made.append(downloads)
        return downloads, workers

    yield make_one
    for downloads in made:
        await downloads.close()


async def test_two_followers_see_one_download_to_its_end(make: Make):
    downloads, workers = make("download and finish")
    job = downloads.start("small")
    assert downloads.start("small") is job

    async def follow() -> list[float]:
        return [percent async for percent in job.follow()]

    first, second = await asyncio.gather(follow(), follow())
    assert first == sorted(first)
    assert second[0] == 0.0
    assert (job.model, job.fact, job.percent) == ("small:1", None, 100.0)
    assert downloads.running() == {}
    assert len(workers.started) == 1
    assert not workers.started[0].alive
    assert [percent async for percent in job.follow()] == []


@pytest.mark.parametrize(
    ("manner", "kind", "words"),
    [
        ("download and fail", CatalogUnavailableError, "the disk is full"),
        ("download and miss", ModelNotFoundError, "no such model"),
        ("download and die", CatalogUnavailableError, "could not be downloaded"),
    ],
)
async def test_a_failure_is_told_to_whoever_follows(make: Make, manner: str, kind: type, words: str):
    downloads, _ = make(manner)
    job = downloads.start("small")
    async for _ in job.follow():
        pass
    assert isinstance(job.fact, kind)
    assert words in job.fact.message


async def test_a_stalled_download_is_cancelled_at_once(make: Make):
    downloads, _ = make("download and stall")
    job = downloads.start("small")
    await eventually(lambda: downloads.running() == {"small": 0.0})
    started = time.monotonic()
    await downloads.cancel("small")
    assert time.monotonic() - started < 1.5
    assert job.fact is not None
    assert "cancelled" in job.fact.message


async def test_a_download_under_way_is_asked_before_it_is_killed(make: Make):
    downloads, workers = make("download and wait")
    job = downloads.start("small")
    await eventually(lambda: job.percent == 12.5)
    await downloads.cancel("small")
    assert workers.started[0].cancelled == 1
    assert job.fact is not None


async def test_only_so_many_run_at_once_and_unknown_ones_cannot_be_cancelled(make: Make):
    downloads, _ = make("download and wait")
    downloads.start("a")
    downloads.start("b")
    with pytest.raises(QueueFullError):
        downloads.start("c")
    with pytest.raises(InvalidInputError):
        await downloads.cancel("c")


def test_offline_nothing_is_started():
    workers = DoubleWorkers("exit", offline=True)

    async def on_done() -> None:
        raise AssertionError

    with pytest.raises(CatalogUnavailableError, match="FOUNDRY_OFFLINE"):
        Downloads(workers, on_done).start("x")  # type: ignore[arg-type]
