"""The catalogue's worker: a runner role that talks to the online catalogue; never started in offline mode.

Each look-up that finds no network stalls for 4 seconds or more, which is why it happens here and not in the
service: nothing waits for this process but the background refresh and downloads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import foundry_local_sdk as engine
import orjson

from fastapi_foundry.daemon import frames
from fastapi_foundry.daemon.engine_session import make_manager
from fastapi_foundry.wire.engine_text import clean_engine_text

__all__ = ["serve_catalog"]

_PROGRESS_EVERY_S: Final = 0.2


class Writer(Protocol):
    """Where frames go."""

    def write(self, line: bytes) -> None:
        """Write one encoded frame."""
        ...

    def send(self, **message: Any) -> None:
        """Encode and write one frame."""
        ...


def serve_catalog(init: dict[str, Any], read: Callable[[], dict[str, Any] | None], writer: Writer) -> None:
    """Serve ``list``, ``download`` and ``cancel`` frames, one thread each, until ``read`` returns None."""
    try:
        manager = make_manager(
            Path(init["data_dir"]),
            model_cache_dir=Path(init["model_cache_dir"]),
            catalog_urls=init["catalog_urls"],
        )
    except engine.FoundryLocalException as error:
        writer.send(event="failed", message=clean_engine_text(str(error)))
        return
    catalog = manager.get_catalog(engine.CatalogType.PUBLIC)
    cancels: dict[int, threading.Event] = {}
    writer.send(event="ready", pid=os.getpid())
    while (message := read()) is not None and message["op"] != "shutdown":
        request_id = message["id"]
        if message["op"] == "cancel":
            if request_id in cancels:
                cancels[request_id].set()
            continue
        cancels[request_id] = cancelled = threading.Event()
        if message["op"] == "list":
            work: Callable[[], Any] = partial(_list, catalog)
        else:
            progress = _progress(writer, request_id)
            work = partial(_download, catalog, message["body"]["model"], progress, cancelled)
        threading.Thread(target=_answer, args=(writer, request_id, work, cancelled), daemon=True).start()


def _answer(writer: Writer, request_id: int, work: Callable[[], Any], cancelled: threading.Event) -> None:
    try:
        data = work()
    except engine.FoundryLocalException as error:
        code = "cancelled" if cancelled.is_set() else "catalog_unavailable"
        writer.send(event="error", id=request_id, code=code, message=clean_engine_text(str(error)))
    except LookupError as error:
        writer.send(event="error", id=request_id, code="model_not_found", message=str(error))
    else:
        writer.send(event="done", id=request_id, data=data)


def _list(catalog: Any) -> dict[str, Any]:
    models = [variant for model in catalog.list_models() for variant in model.variants]
    return {"models": [_entry(variant) for variant in models]}


def _entry(model: Any) -> dict[str, Any]:
    info = model.info
    runtime = info.runtime
    return {
        "id": info.id,
        "alias": info.alias,
        "display_name": info.display_name,
        "size_mb": info.file_size_mb,
        "task": info.task,
        "device": str(runtime.device_type) if runtime and runtime.device_type else None,
        "execution_provider": runtime.execution_provider if runtime else None,
        "uri": info.uri,
        "license": info.license,
        "publisher": info.publisher,
        "context_length": info.context_length,
        "max_output_tokens": info.max_output_tokens,
        "tool_calling": info.supports_tool_calling,
    }


def _progress(writer: Writer, request_id: int) -> Callable[[float], None]:
    last = [0.0]

    def report(percent: float) -> None:
        now = time.monotonic()
        if percent >= 100.0 or now - last[0] >= _PROGRESS_EVERY_S:  # noqa: PLR2004 - the whole
            last[0] = now
            writer.write(frames.chunk_line(request_id, orjson.dumps({"percent": round(percent, 2)})))

    return report


def _download(catalog: Any, name: str, progress: Callable[[float], None], cancelled: threading.Event) -> dict[str, Any]:
    # One list dials once; looking a name up would stall on a dead network without saying that it is dead.
    models = catalog.list_models()
    if not models:
        raise engine.FoundryLocalException("The online catalogue cannot be reached, or it is empty.")
    model = _find(models, name.casefold())
    if model is None:
        raise LookupError(name)
    model.download(progress, cancelled)
    return {"model": model.id}


def _find(models: list[Any], wanted: str) -> Any:
    """The model of that alias (in its variant of choice), else the variant of that id, with or without version."""
    for model in models:
        if model.alias.casefold() == wanted:
            return model
    variants = [variant for model in models for variant in model.variants]
    matches = [v for v in variants if wanted in {v.id.casefold(), v.id.casefold().partition(":")[0]}]
    return max(matches, key=lambda variant: variant.info.version, default=None)
