"""The models on this machine, read from the store itself while no service runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi_foundry
from fastapi_foundry.daemon.store import LocalModel, ModelStore

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = ["stored_models"]


def stored_models(settings: Settings) -> list[dict[str, Any]]:
    """What the service would list under ``/v1/models``; reads the disk, never the network."""
    bundled = Path(fastapi_foundry.__file__).parent / "demo_model"
    models = ModelStore(settings.home, bundled).scan()
    return [_entry(model) for model in sorted(models.values(), key=lambda model: model.id)]


def _entry(model: LocalModel) -> dict[str, Any]:
    files = model.files
    return {
        "id": model.id,
        "object": "model",
        "created": files.created if files else 0,
        "owned_by": "local",
        "alias": model.alias,
        "state": "unusable" if model.problem else "cached",
        "reason": model.problem,
        "task": model.task,
        "context_length": files.context_length if files else None,
        "tool_calling": files.tool_calling if files else False,
        "size_mb": round(files.size_bytes / 1_048_576, 1) if files else None,
        "demonstration": model.source == "bundled",
        "source": model.source,
    }
