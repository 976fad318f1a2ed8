"""Downloads: one job per model, followed by any number of clients, ended by success, failure or cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.catalog import CatalogWorkers
from fastapi_foundry.errors import (
    CatalogUnavailableError,
    EngineUnavailableError,
    FoundryError,
    InvalidInputError,
    ModelNotFoundError,
    QueueFullError,
)
from fastapi_foundry.observability.logging import get_logger

__all__ = ["DownloadJob", "Downloads"]

logger = get_logger(__name__)

_MAX_JOBS: Final = 2
_CANCEL_GRACE_S: Final = 2.0


class DownloadJob:
    """One download.

    Attributes:
        name: As the caller named the model.
        percent: How much has arrived, 0 to 100.
        fact: Why it failed; None while it runs and after a success.
        model: Full id after a success.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.percent = 0.0
        self.fact: FoundryError | None = None
        self.model = ""
        self.task: asyncio.Task[None] | None = None
        self.cancelled = asyncio.Event()
        self._news = asyncio.Condition()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.model and self.fact is None

    async def follow(self) -> AsyncIterator[float]:
        """Every change of ``percent`` from now on; ends with the job."""
        shown: float | None = None
        while self.running:
            if self.percent != shown:
                shown = self.percent
                yield shown
            async with self._news:
                await self._news.wait_for(partial(self._has_news, shown))

    def _has_news(self, shown: float | None) -> bool:
        return not self.running or self.percent != shown

    async def tell(self, *, percent: float | None = None, model: str = "", fact: FoundryError | None = None) -> None:
        """Change the job and wake whoever follows it."""
        async with self._news:
            self.percent = self.percent if percent is None else percent
            self.model, self.fact = model, fact
            self._news.notify_all()


class Downloads:
    """The jobs under way.

    Args:
        workers: Each job gets a worker process.
        on_done: Awaited after a success, before the job's followers hear of it.
    """

    def __init__(self, workers: CatalogWorkers, on_done: Callable[[], Awaitable[object]]) -> None:
        self._workers = workers
        self._on_done = on_done
        self._jobs: dict[str, DownloadJob] = {}

    def running(self) -> dict[str, float]:
        """Percent by the name that each job was asked for with."""
        return {job.name: job.percent for job in self._jobs.values()}

    def start(self, name: str) -> DownloadJob:
        """Start a download, or join the one of that name.

        Raises:
            CatalogUnavailableError: Offline mode is on.
            QueueFullError: Enough downloads run already.
        """
        job = self._jobs.get(name)
        if job is not None:
            return job
        if self._workers.offline:
            raise CatalogUnavailableError(
                f"The model '{name}' cannot be downloaded: offline mode is on. Unset FOUNDRY_OFFLINE to download."
            )
        if len(self._jobs) >= _MAX_JOBS:
            raise QueueFullError(f"{_MAX_JOBS} downloads are running already.", retry_after_s=30.0)
        job = self._jobs[name] = DownloadJob(name)
        job.task = asyncio.create_task(self._run(job), name=f"download {name}")
        return job

    async def cancel(self, name: str) -> None:
        """Cancel a download and wait until it has ended.

        Raises:
            InvalidInputError: No download of that name runs.
        """
        job = self._jobs.get(name)
        if job is None or job.task is None:
            raise InvalidInputError(f"No download of '{name}' is running.", param="model", code="not_downloading")
        job.cancelled.set()
        await asyncio.wait([job.task])

    async def close(self) -> None:
        """Cancel every download."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            job.cancelled.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()

    async def _run(self, job: DownloadJob) -> None:
        started = asyncio.get_running_loop().time()
        logger.log_model_operation(job.name, "download", "begin", 0.0)
        fact: FoundryError | None = None
        model = ""
        try:
            model = await self._fetch(job)
            await self._on_done()
        except FoundryError as error:
            fact = error
        finally:
            del self._jobs[job.name]
        duration = asyncio.get_running_loop().time() - started
        status = "ok" if fact is None else "cancelled" if job.cancelled.is_set() else "failed"
        logger.log_model_operation(job.name, "download", status, duration, error=fact.message if fact else None)
        await job.tell(percent=100.0 if model else None, model=model, fact=fact)

    async def _fetch(self, job: DownloadJob) -> str:
        worker = await self._workers.start()
        try:
            call = worker.call("download", {"model": job.name})
            watcher = asyncio.create_task(self._watch_cancel(job, call.cancel, worker.kill))
            try:
                while (chunks := await call.next_chunks()) is not None:
                    await job.tell(percent=float(orjson.loads(chunks[-1])["percent"]))
            finally:
                watcher.cancel()
            end = call.end
            if job.cancelled.is_set():
                raise CatalogUnavailableError(f"The download of '{job.name}' was cancelled.")
            if end is None or end.fact is not None:
                raise _download_fact(job.name, end.fact if end else None)
            return str(orjson.loads(end.data or b"{}")["model"])
        finally:
            await worker.stop(EngineUnavailableError("The download's worker was stopped."))

    async def _watch_cancel(
        self, job: DownloadJob, cancel: Callable[[], None], kill: Callable[[], Awaitable[Any]]
    ) -> None:
        await job.cancelled.wait()
        cancel()
        # The engine looks at the cancellation when progress is made; a stalled network makes none.
        if job.percent > 0:
            await asyncio.sleep(_CANCEL_GRACE_S)
        await kill()


def _download_fact(name: str, fact: FoundryError | None) -> FoundryError:
    if fact is not None and fact.code == "model_not_found":
        return ModelNotFoundError(
            name, "The online catalogue has no such model; GET /models/catalog lists what it has."
        )
    reason = fact.message if fact is not None else "the worker ended."
    return CatalogUnavailableError(f"The model '{name}' could not be downloaded: {reason}")
