"""What the files of Foundry Local's model cache tell and none of its third generation's routes does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

__all__ = ["ModelCache", "catalog_details", "read_model_cache"]

_INFO_FILE: Final = "foundry.modelinfo.json"
_MODEL_FILE: Final = "inference_model.json"
_FIELDS: Final = {
    "alias": "alias",
    "displayName": "display_name",
    "fileSizeMb": "size_mb",
    "license": "license",
    "maxOutputTokens": "max_output_tokens",
    "publisher": "publisher",
    "supportsToolCalling": "tool_calling",
    "task": "task",
}
_MAX_FILE_BYTES: Final = 32 * 1024 * 1024
_MAX_DIRECTORIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class ModelCache:
    """Foundry's own directory of models.

    Attributes:
        aliases: Full id to alias, from the catalogue as it was last fetched.
        cached: Full ids of the models whose files are there.
        details: Full id to what the catalogue says of the model, under the names of our own catalogue.
    """

    aliases: dict[str, str]
    cached: frozenset[str]
    details: dict[str, dict[str, Any]]


def read_model_cache(path: str) -> ModelCache | None:
    """Read the directory at ``path``; None when there is none. Blocks on the disk, for milliseconds usually."""
    root = Path(path)
    if not root.is_dir():
        return None
    details = {}
    for model in _read(root / _INFO_FILE).get("models") or ():
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            details[model["id"]] = catalog_details(model)
    aliases = {name: known["alias"] for name, known in details.items() if isinstance(known.get("alias"), str)}
    names = (_read(file).get("Name") for file in _model_files(root))
    return ModelCache(aliases, frozenset(name for name in names if isinstance(name, str)), details)


def catalog_details(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry of Microsoft's catalogue tells (the same in every generation), by our own catalogue's names."""
    runtime = entry.get("runtime")
    device = runtime.get("deviceType") if isinstance(runtime, dict) else None
    known = {ours: entry[theirs] for theirs, ours in _FIELDS.items() if entry.get(theirs) is not None}
    return known | ({"device": device} if isinstance(device, str) else {})


def _model_files(root: Path) -> Iterator[Path]:
    """``Publisher/name-version/inference_model.json``, or one directory deeper."""
    seen = 0
    for pattern in (f"*/*/{_MODEL_FILE}", f"*/*/*/{_MODEL_FILE}"):
        for file in root.glob(pattern):
            seen += 1
            if seen > _MAX_DIRECTORIES:
                return
            if not (file.parent / "download.tmp").exists():
                yield file


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            return {}
        document = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
