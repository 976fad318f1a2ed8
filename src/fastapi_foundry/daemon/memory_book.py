"""What models took when they were last loaded, remembered in ``$FOUNDRY_HOME/model-memory.json``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.memory import need_from_files
from fastapi_foundry.daemon.placement import Need
from fastapi_foundry.daemon.store import LocalModel, write_json_atomically
from fastapi_foundry.observability.logging import get_logger

__all__ = ["MemoryBook"]

logger = get_logger(__name__)

_MAX_ENTRIES: Final = 1000
_MAX_FILE_BYTES: Final = 1024 * 1024


class MemoryBook:
    """Measured memory by model; an entry holds for the very files that it was measured with.

    Belongs to the event loop, but for ``read``.

    Args:
        path: The file; what cannot be read or written there is measured anew and otherwise of no harm.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, float]] = {}
        self._changed = False

    def read(self) -> None:
        """Read the file; blocks."""
        try:
            data = self._path.read_bytes() if self._path.stat().st_size <= _MAX_FILE_BYTES else b"{}"
            entries = orjson.loads(data)["models"]
            self._entries = {
                str(name): {key: float(value) for key, value in entry.items()} for name, entry in entries.items()
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("measured memory of models cannot be read", path=str(self._path), error=str(error))

    def measured(self, model: LocalModel) -> Need | None:
        """What it took; None for a model, or files, that were never measured."""
        entry = self._entries.get(model.id)
        if entry is None or any(entry.get(key) != value for key, value in _fingerprint(model).items()):
            return None
        least = entry.get("loaded_mb", 0.0)
        return Need(least, max(least, entry.get("peak_mb", 0.0)), measured=True)

    async def need(self, model: LocalModel) -> Need:
        """What it takes, measured or else estimated from its files."""
        known = self.measured(model)
        if known is not None:
            return known
        size = model.files.size_bytes if model.files else 0
        context = model.files.context_length if model.files else 0
        return await asyncio.to_thread(need_from_files, model.path, size, context)

    def note_loaded(self, model: LocalModel, loaded_mb: float) -> None:
        """Remember what it took right after a load; its peak stays what it was, if that was more."""
        known = self.measured(model)
        self._put(model, loaded_mb, max(loaded_mb, known.likely_mb if known else 0.0))

    def note_peak(self, model: LocalModel, peak_mb: float, *, replace: bool = False) -> None:
        """Remember a peak if it is higher, or in any case with ``replace``: at the end of a runner that has worked."""
        known = self.measured(model)
        if known is not None and (replace or peak_mb > known.likely_mb):
            self._put(model, known.least_mb, max(peak_mb, known.least_mb))

    async def save(self) -> None:
        """Write the file where something has changed."""
        if not self._changed:
            return
        self._changed = False
        try:
            await asyncio.to_thread(write_json_atomically, self._path, {"models": dict(self._entries)})
        except OSError as error:
            logger.warning("measured memory of models cannot be kept", path=str(self._path), error=error.strerror)

    def _put(self, model: LocalModel, loaded_mb: float, peak_mb: float) -> None:
        entry: dict[str, Any] = _fingerprint(model) | {"loaded_mb": round(loaded_mb, 1), "peak_mb": round(peak_mb, 1)}
        if self._entries.get(model.id) == entry:
            return
        self._entries.pop(model.id, None)
        self._entries[model.id] = entry
        while len(self._entries) > _MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._changed = True


def _fingerprint(model: LocalModel) -> dict[str, float]:
    files = model.files
    return {"size_bytes": files.size_bytes if files else 0, "modified": files.created if files else 0}
