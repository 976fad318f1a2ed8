"""The models of a double: in the catalogue, in the cache, loaded; loading and downloading take settable times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Final

__all__ = ["DEFAULT_MODELS", "DoubleModel", "Shelf"]

CATALOG, CACHED, LOADING, LOADED = "catalog", "cached", "loading", "loaded"
_DOWNLOAD_STEPS: Final = 10


@dataclass
class DoubleModel:
    """One model; ``state`` is ``catalog``, ``cached``, ``loading`` or ``loaded``."""

    id: str
    alias: str
    state: str = CATALOG
    task: str = "chat-completion"
    size_mb: int = 8
    context_length: int = 4096

    @classmethod
    def from_text(cls, text: str) -> DoubleModel:
        """From ``ID,alias=A,state=loaded,context_length=512``; the alias is the name without a device if left out."""
        model_id, *settings = text.split(",")
        values: dict[str, Any] = dict(setting.split("=", 1) for setting in settings)
        for name in ("size_mb", "context_length"):
            if name in values:
                values[name] = int(values[name])
        name = model_id.partition(":")[0].removesuffix("-generic-cpu")
        return cls(**{"id": model_id, "alias": name} | values)

    @property
    def name(self) -> str:
        return self.id.partition(":")[0]

    @property
    def version(self) -> str:
        return self.id.partition(":")[2] or "1"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


DEFAULT_MODELS: Final = (
    "double-small-generic-cpu:1,state=loaded",
    "double-other-generic-cpu:2,state=cached",
    "double-distant-generic-cpu:1,state=catalog",
    "double-embedding-generic-cpu:1,state=loaded,task=embeddings",
)


class Shelf:
    """Every model of a double, and what becomes of it.

    Args:
        models: In the order in which they are listed.
        load_s: How long a load takes.
        download_s: How long a download takes.
    """

    def __init__(self, models: list[DoubleModel], *, load_s: float = 0.0, download_s: float = 0.05) -> None:
        self.models = models
        self.load_s = load_s
        self.download_s = download_s
        self._loads: dict[str, asyncio.Task[None]] = {}

    def by_id(self, model_id: str) -> DoubleModel | None:
        return next((model for model in self.models if model.id == model_id), None)

    def by_alias(self, alias: str) -> DoubleModel | None:
        return next((model for model in self.models if model.alias == alias), None)

    def by_id_or_name(self, name: str) -> DoubleModel | None:
        return self.by_id(name) or next((model for model in self.models if model.name == name), None)

    def having(self, *states: str) -> list[DoubleModel]:
        return [model for model in self.models if model.state in states]

    @property
    def cached(self) -> list[DoubleModel]:
        return self.having(CACHED, LOADING, LOADED)

    async def load(self, model: DoubleModel, seconds: float | None = None) -> None:
        """Load a cached model; who comes while it loads waits for the same load, which goes on if all of them leave."""
        task = self._loads.get(model.id)
        if task is None and model.state == LOADED:
            return
        if task is None:
            model.state = LOADING
            task = asyncio.create_task(self._load(model, self.load_s if seconds is None else seconds))
            self._loads[model.id] = task
        await asyncio.shield(task)

    async def _load(self, model: DoubleModel, seconds: float) -> None:
        await asyncio.sleep(seconds)
        model.state = LOADED
        self._loads.pop(model.id, None)

    async def download(self, model: DoubleModel) -> AsyncIterator[float]:
        """Percent as it goes on; the model is cached after 100."""
        for step in range(_DOWNLOAD_STEPS + 1):
            yield 100.0 * step / _DOWNLOAD_STEPS
            await asyncio.sleep(self.download_s / _DOWNLOAD_STEPS)
        if model.state == CATALOG:
            model.state = CACHED
