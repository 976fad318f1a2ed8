"""The online catalogue as far as it is known: answers come from memory, the network is asked in the background."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.runner_process import RunnerProcess, RunnerStartError
from fastapi_foundry.daemon.store import write_json_atomically
from fastapi_foundry.errors import CatalogUnavailableError, EngineUnavailableError, FoundryError
from fastapi_foundry.observability.logging import get_logger

__all__ = ["CatalogWorkers", "OnlineCatalog"]

logger = get_logger(__name__)

_OFFLINE: Final = "Offline mode is on: the service never dials out."
# A list that finds no network was measured to take 4 to 5 s; a slow network may take longer.
_LIST_TIMEOUT_S: Final = 60.0
_WORKER_START_TIMEOUT_S: Final = 30.0


class CatalogWorkers:
    """Starts worker processes for the catalogue.

    Args:
        scratch: Where each gets a directory of its own.
        model_cache_dir: Where downloads go.
        catalog_urls: Catalogues to use instead of the engine's own.
        offline: Refuses to start any.
        env: Their environment, proxy settings included.
    """

    def __init__(
        self, *, scratch: Path, model_cache_dir: Path, catalog_urls: list[str], offline: bool, env: dict[str, str]
    ) -> None:
        self.offline = offline
        self._scratch = scratch
        self._model_cache_dir = model_cache_dir
        self._catalog_urls = catalog_urls
        self._env = env

    async def start(self) -> RunnerProcess:
        """A new worker; the caller stops it.

        Raises:
            CatalogUnavailableError: Offline mode is on, or the worker does not start.
        """
        if self.offline:
            raise CatalogUnavailableError(_OFFLINE)
        data_dir = await asyncio.to_thread(tempfile.mkdtemp, dir=self._scratch)
        try:
            return await RunnerProcess.start(
                {
                    "op": "init",
                    "role": "catalog",
                    "data_dir": data_dir,
                    "model_cache_dir": str(self._model_cache_dir),
                    "catalog_urls": self._catalog_urls,
                },
                timeout_s=_WORKER_START_TIMEOUT_S,
                env=self._env,
                on_exit=lambda _runner: None,
                on_stderr=lambda line: logger.debug("catalogue worker says", line=line),
            )
        except RunnerStartError as error:
            await asyncio.to_thread(shutil.rmtree, data_dir, ignore_errors=True)
            raise CatalogUnavailableError(f"The catalogue's worker does not start: {error}.") from error


class OnlineCatalog:
    """The last known list, kept in ``catalog-cache.json`` over restarts.

    Args:
        workers: How to ask the network.
        cache_file: Where the list is kept.
        refresh_s: Age in seconds at which a look triggers a refresh.
        wall_clock: Unix time.
    """

    def __init__(
        self,
        workers: CatalogWorkers,
        cache_file: Path,
        refresh_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._cache_file = cache_file
        self._refresh_s = refresh_s
        self._wall_clock = wall_clock
        self._models: list[dict[str, Any]] = []
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._reason = ""
        self._refresh: asyncio.Task[None] | None = None

    def read_cache(self) -> None:
        """Take over what an earlier service has learned; blocks on the disk."""
        try:
            cached = orjson.loads(self._cache_file.read_bytes())
            models, fetched_at = cached["models"], float(cached["fetched_at"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return
        if isinstance(models, list):
            self._models = [model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]
            self._fetched_at = fetched_at

    def aliases(self) -> dict[str, str]:
        """Further names of models: catalogue alias in lower case to full id, in the catalogue's order of preference."""
        names: dict[str, str] = {}
        for model in self._models:
            if model.get("alias"):
                names.setdefault(str(model["alias"]).casefold(), model["id"])
        return names

    def knows(self, name: str) -> bool:
        """Whether the catalogue, as far as it is known, has a model of that id or alias."""
        wanted = name.casefold()
        return any(
            wanted in {str(model["id"]).casefold(), str(model.get("alias")).casefold()} for model in self._models
        )

    async def view(self, cached_ids: set[str], *, wait_s: float = 0.0) -> dict[str, Any]:
        """What ``GET /models/catalog`` answers; starts a refresh when the list is old.

        Args:
            cached_ids: Ids of the models that are on this machine.
            wait_s: How long to wait for a refresh, which is then started in any case.
        """
        if not self._workers.offline and (wait_s or self._is_due()):
            self._start_refresh()
            if wait_s and self._refresh is not None:
                await asyncio.wait([self._refresh], timeout=wait_s)
        fetched = None if self._fetched_at is None else datetime.fromtimestamp(self._fetched_at, UTC)
        return {
            "status": self._status(),
            "fetched_at": None if fetched is None else fetched.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reason": _OFFLINE if self._workers.offline else self._reason,
            "models": [model | {"cached": model["id"] in cached_ids} for model in self._models],
        }

    async def close(self) -> None:
        """End a refresh under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    def _is_due(self) -> bool:
        latest = max(self._fetched_at or 0.0, self._tried_at or 0.0)
        # After a failure the next look may try again much earlier than after a success.
        wait_s = self._refresh_s if not self._reason else min(60.0, self._refresh_s)
        return self._wall_clock() - latest >= wait_s

    def _status(self) -> str:
        if self._workers.offline:
            return "offline"
        if self._refresh is not None and not self._models:
            return "loading"
        if self._fetched_at is None:
            return "unavailable"
        fresh = not self._reason and self._wall_clock() - self._fetched_at < self._refresh_s
        return "fresh" if fresh else "stale"

    def _start_refresh(self) -> None:
        if self._refresh is None:
            self._refresh = asyncio.create_task(self._fetch(), name="catalogue refresh")

    async def _fetch(self) -> None:
        started = time.monotonic()
        try:
            models = await self._ask()
        except FoundryError as fact:
            self._reason = fact.message
            logger.warning("catalogue not refreshed", reason=fact.message, duration=time.monotonic() - started)
        else:
            self._models, self._fetched_at, self._reason = models, self._wall_clock(), ""
            await self._keep(models, self._fetched_at)
            logger.info("catalogue refreshed", models=len(models), duration=time.monotonic() - started)
        finally:
            self._tried_at = self._wall_clock()
            self._refresh = None

    async def _keep(self, models: list[dict[str, Any]], fetched_at: float) -> None:
        cache = {"fetched_at": fetched_at, "models": models}
        try:
            await asyncio.to_thread(write_json_atomically, self._cache_file, cache)
        except OSError as error:
            logger.warning("catalogue not kept for the next start", reason=error.strerror)

    async def _ask(self) -> list[dict[str, Any]]:
        worker = await self._workers.start()
        try:
            async with asyncio.timeout(_LIST_TIMEOUT_S):
                end = await worker.call("list", {}).result()
        except TimeoutError:
            raise CatalogUnavailableError(
                f"The online catalogue did not answer within {_LIST_TIMEOUT_S:g} s."
            ) from None
        finally:
            await worker.stop(EngineUnavailableError("The catalogue's worker was stopped."))
        models = orjson.loads(end.data or b"{}").get("models") or []
        if not models:
            # The engine answers an empty list when it reaches nothing.
            raise CatalogUnavailableError("The online catalogue cannot be reached, or it is empty.")
        return list(models)
