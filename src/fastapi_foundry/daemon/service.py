"""What the routes share: the parts of one running service."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from fastapi_foundry import __version__
from fastapi_foundry.daemon.catalog import CatalogWorkers, OnlineCatalog
from fastapi_foundry.daemon.downloads import Downloads
from fastapi_foundry.daemon.memory import default_budget_mb, memory_mb
from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.model_files import CHAT
from fastapi_foundry.daemon.pool import RunnerPool
from fastapi_foundry.daemon.slot import PoolLimits, runner_rows
from fastapi_foundry.daemon.store import DEMO_MODEL_ID, LocalModel, ModelStore
from fastapi_foundry.errors import InvalidInputError, ModelNotFoundError
from fastapi_foundry.settings import FoundryServiceSettings, Settings

__all__ = ["Service", "make_service"]


@dataclass(frozen=True, slots=True)
class Service:
    """The parts; made by ``make_service`` inside the event loop that uses them.

    Attributes:
        stop: Set to end the service.
    """

    settings: Settings
    store: ModelStore
    pool: RunnerPool
    book: MemoryBook
    catalog: OnlineCatalog
    downloads: Downloads
    url: str
    started_at: float = field(default_factory=time.monotonic)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, name: str) -> LocalModel:
        """The model of that id or alias; looks at the disk only for a name that it does not know.

        Raises:
            ModelNotFoundError: There is none; the message says whether it could be downloaded.
        """
        aliases = self.catalog.aliases()
        found = self.store.known(name, aliases)
        if found is not None:
            return found
        try:
            return await asyncio.to_thread(self.store.find, name, aliases)
        except ModelNotFoundError:
            if self.catalog.knows(name):
                hint = "It is in the online catalogue and can be downloaded: POST /models/download."
                raise ModelNotFoundError(name, hint) from None
            raise

    async def models(self) -> dict[str, LocalModel]:
        """Every local model by id, freshly looked for."""
        return await asyncio.to_thread(self.store.scan)

    def describe(self, model: LocalModel) -> dict[str, Any]:
        """A model's entry in ``GET /v1/models``."""
        slot = self.pool.slots().get(model.id)
        state = slot.state if slot else "cached"
        files = model.files
        if model.problem and state == "cached":
            state = "unusable"
        reason = model.problem if state == "unusable" else (slot.failures.put_aside if slot else "")
        measured = self.book.measured(model)
        context = files.context_length if files else None
        return {
            "id": model.id,
            "object": "model",
            "created": files.created if files else 0,
            "owned_by": "fastapi-foundry" if model.id == DEMO_MODEL_ID else "local",
            "alias": model.alias,
            "state": state,
            "reason": reason,
            "context_length": context or None,
            "max_output_tokens": context or None if model.task == CHAT else None,
            "task": model.task,
            "tool_calling": bool(files and files.tool_calling),
            "size_mb": round(files.size_bytes / 1024 / 1024, 1) if files else None,
            "memory_mb": slot.memory_mb if slot else None,
            "memory_peak_mb": measured.likely_mb if measured else None,
            "replicas": len(slot.replicas) if slot else 0,
            "pinned": bool(slot and slot.replicas and slot.is_pinned),
            "expires_at": self.expires_at(model.id),
            "demonstration": model.source == "bundled",
            "source": model.source,
        }

    def expires_at(self, model_id: str) -> str | None:
        """When a model is unloaded if no request comes, in UTC; None while it is in use, or where it stays."""
        left_s = self.pool.expires_in_s(model_id)
        if left_s is None:
            return None
        return (datetime.now(UTC) + timedelta(seconds=left_s)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def status(self) -> dict[str, Any]:
        """The answer of ``GET /status``."""
        room = self.pool.room
        room.measure()
        return {
            "modelCachePath": str(self.store.cache_dir),
            "endpoints": [self.url],
            "pid": os.getpid(),
            "product": "fastapi-foundry-service",
            "version": __version__,
            "offline": self.settings.foundry_service.offline,
            "uptime_seconds": round(time.monotonic() - self.started_at, 3),
            "memory_mb": memory_mb(os.getpid()),
            "downloads": self.downloads.running(),
            "models_memory_mb": round(room.used_mb(), 1),
            "models_memory_budget_mb": round(room.bounds.budget_mb, 1),
            "runners": [row for slot in self.pool.slots().values() for row in runner_rows(slot)],
        }

    def require_cached(self, name: str) -> None:
        """Tell a model that only the catalogue has from one that nobody knows.

        Raises:
            InvalidInputError: The catalogue has it; it was not downloaded.
        """
        if self.catalog.knows(name):
            raise InvalidInputError(
                f"The model '{name}' is not cached; download it first.", param="model", code="model_not_cached"
            )

    async def close(self) -> None:
        """End downloads, refresh and runners."""
        await asyncio.gather(self.downloads.close(), self.catalog.close(), self.pool.close())


def make_service(settings: Settings, url: str) -> Service:
    """Put the parts together; reads the store, so it blocks for some milliseconds."""
    limits = settings.foundry_service
    scratch = settings.home / "run" / f"service-{os.getpid()}"
    store = ModelStore(settings.home, Path(__file__).resolve().parent.parent / "demo_model")
    workers = CatalogWorkers(
        scratch=scratch,
        model_cache_dir=store.cache_dir,
        catalog_urls=list(limits.catalog_urls),
        offline=limits.offline,
        env=dict(os.environ),
    )
    catalog = OnlineCatalog(workers, settings.home / "catalog-cache.json", limits.catalog_refresh_s)
    book = MemoryBook(settings.home / "model-memory.json")
    pool = RunnerPool(_pool_limits(limits), scratch, book, names=lambda model: _names(model, catalog))
    _sweep(settings.home / "run")
    pool.sweep()
    catalog.read_cache()
    book.read()
    store.scan()
    downloads = Downloads(workers, on_done=lambda: asyncio.to_thread(store.scan))
    return Service(settings=settings, store=store, pool=pool, book=book, catalog=catalog, downloads=downloads, url=url)


def _pool_limits(settings: FoundryServiceSettings) -> PoolLimits:
    budget = settings.memory_budget_mb
    return PoolLimits(
        max_loaded_models=settings.max_loaded_models,
        memory_budget_mb=default_budget_mb() if budget is None else float(budget),
        max_active_per_model=settings.max_active_per_model,
        max_queued_per_model=settings.max_queued_per_model,
        load_timeout_s=settings.load_timeout_s,
        cancel_timeout_s=settings.cancel_timeout_s,
        idle_unload_s=settings.idle_unload_s,
        replicas=settings.replicas,
        model_replicas={name.casefold(): count for name, count in settings.model_replicas.items()},
        pinned_models=frozenset(name.casefold() for name in settings.pinned_models),
        kept_sessions=settings.kept_sessions,
        kept_memory_mb=settings.kept_memory_mb,
        kept_idle_s=settings.kept_idle_s,
    )


def _names(model: LocalModel, catalog: OnlineCatalog) -> list[str]:
    """Every name that the settings may mean a model by, the most exact first."""
    further = [alias for alias, model_id in catalog.aliases().items() if model_id == model.id]
    return [model.id.casefold(), model.alias.casefold(), *further]


def _sweep(run_dir: Path) -> None:
    """Delete the scratch directories of services that were killed."""
    for directory in run_dir.glob("service-*"):
        pid = directory.name.removeprefix("service-")
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)
