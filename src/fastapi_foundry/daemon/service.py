"""What the routes share: the parts of one running service."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fastapi_foundry import __version__
from fastapi_foundry.daemon.catalog import CatalogWorkers, OnlineCatalog
from fastapi_foundry.daemon.downloads import Downloads
from fastapi_foundry.daemon.model_files import CHAT
from fastapi_foundry.daemon.pool import RunnerPool
from fastapi_foundry.daemon.slot import PoolLimits, memory_mb
from fastapi_foundry.daemon.store import DEMO_MODEL_ID, LocalModel, ModelStore
from fastapi_foundry.errors import InvalidInputError, ModelNotFoundError
from fastapi_foundry.settings import Settings

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
        reason = model.problem if state == "unusable" else (slot.put_aside if slot else "")
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
            "memory_mb": memory_mb(slot.runner.pid) if slot and slot.runner else None,
            "demonstration": model.source == "bundled",
            "source": model.source,
        }

    def status(self) -> dict[str, Any]:
        """The answer of ``GET /status``."""
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
            "runners": [
                {
                    "model": model_id,
                    "pid": slot.runner.pid if slot.runner else None,
                    "state": slot.state,
                    "memory_mb": memory_mb(slot.runner.pid) if slot.runner else None,
                    "active": slot.active,
                    "queued": slot.queued,
                    "network": slot.runner.ready.get("network") if slot.runner else None,
                    "requests": slot.runner.requests if slot.runner else 0,
                    "cancelled": slot.runner.cancelled if slot.runner else 0,
                    "tokens_generated": slot.runner.tokens_generated if slot.runner else 0,
                    "load_duration_s": round(slot.load_duration_s, 3),
                }
                for model_id, slot in self.pool.slots().items()
                if slot.runner or slot.loading
            ],
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
    pool = RunnerPool(
        PoolLimits(
            max_loaded_models=limits.max_loaded_models,
            max_active_per_model=limits.max_active_per_model,
            max_queued_per_model=limits.max_queued_per_model,
            load_timeout_s=limits.load_timeout_s,
        ),
        scratch,
    )
    catalog = OnlineCatalog(workers, settings.home / "catalog-cache.json", limits.catalog_refresh_s)
    _sweep(settings.home / "run")
    pool.sweep()
    catalog.read_cache()
    store.scan()
    downloads = Downloads(workers, on_done=lambda: asyncio.to_thread(store.scan))
    return Service(settings=settings, store=store, pool=pool, catalog=catalog, downloads=downloads, url=url)


def _sweep(run_dir: Path) -> None:
    """Delete the scratch directories of services that were killed."""
    for directory in run_dir.glob("service-*"):
        pid = directory.name.removeprefix("service-")
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)
