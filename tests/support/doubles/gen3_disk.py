"""What generation 3 leaves on the disk, under the ``modelCachePath`` that ``/status`` names.

``foundry.modelinfo.json`` holds the catalogue as last seen: the one place that tells which alias an id has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.doubles.models import DoubleModel

__all__ = ["write_cache"]


def write_cache(cache: Path, models: list[DoubleModel]) -> None:
    """Write the catalogue file, and for each model that is not in the catalogue alone the files that tell of it."""
    cache.mkdir(parents=True, exist_ok=True)
    entries = [_entry(model) for model in models]
    (cache / "foundry.modelinfo.json").write_text(json.dumps({"models": entries}), encoding="utf-8")
    for model in models:
        if model.state == "catalog":
            continue
        directory = cache / "Microsoft" / f"{model.name}-{model.version}" / f"v{model.version}"
        directory.mkdir(parents=True, exist_ok=True)
        config = {"model": {"context_length": model.context_length}, "search": {"max_length": model.context_length}}
        (directory / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
        (directory / "inference_model.json").write_text(json.dumps({"Name": model.id}), encoding="utf-8")


def _entry(model: DoubleModel) -> dict[str, Any]:
    uri = f"azureml://registries/azureml/models/{model.name}/versions/{model.version}"
    parent = "azureml://registries/azureml/models/parent/versions/1"
    return {
        "alias": model.alias,
        "displayName": model.name,
        "fileSizeMb": model.size_mb,
        "id": model.id,
        "intProperties": {"filesize_mb": model.size_mb, "max_output_tokens": 2048, "supports_tool_calling": 1},
        "license": "MIT",
        "maxOutputTokens": 2048,
        "modelType": "ONNX",
        "name": model.name,
        "parentModelUri": parent,
        "providerType": "FoundryLocal",
        "publisher": "Microsoft",
        "runtime": {"deviceType": "CPU", "executionProvider": "CPUExecutionProvider"},
        "stringProperties": {
            "display_name": model.name,
            "license": "MIT",
            "model_provider": "FoundryLocal",
            "parent_uri": parent,
            "publisher": "Microsoft",
            "task": model.task,
            "type": "ONNX",
        },
        "supportsToolCalling": True,
        "task": model.task,
        "uri": uri,
        "version": int(model.version),
    }
