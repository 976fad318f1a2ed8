"""Foundry Local's own routes (status, load, unload) and ours beside them: download, register, remove, catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.downloads import DownloadJob
from fastapi_foundry.daemon.http import Exchange
from fastapi_foundry.daemon.keep_alive import parse_keep_alive
from fastapi_foundry.daemon.service import Service
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.errors import InvalidInputError, ModelNotFoundError
from fastapi_foundry.wire.errors import openai_error

__all__ = [
    "cancel_download",
    "catalog",
    "download",
    "list_models",
    "load",
    "loaded",
    "model_info",
    "register",
    "remove",
    "shutdown",
    "status",
    "unload",
    "with_states",
]

_REFRESH_WAIT_S: Final = 15.0


async def status(service: Service, exchange: Exchange) -> None:
    """``GET /status``: where and how the service runs, and its runners."""
    await exchange.answer(service.status())


async def list_models(service: Service, exchange: Exchange) -> None:
    """``GET /v1/models``: every model on this machine, usable or not, with its state."""
    models = sorted((await service.models()).values(), key=lambda model: (model.source != "bundled", model.id))
    await exchange.answer({"object": "list", "data": [service.describe(model) for model in models]})


async def model_info(service: Service, exchange: Exchange) -> None:
    """``GET /v1/models/{id}``; aliases work too."""
    await exchange.answer(service.describe(await service.find(exchange.rest_of_path("/v1/models/"))))


async def loaded(service: Service, exchange: Exchange) -> None:
    """``GET /models/loaded``: full ids."""
    await exchange.answer([model_id for model_id, slot in service.pool.slots().items() if slot.replicas])


async def load(service: Service, exchange: Exchange) -> None:
    """``/models/load/{name}?pin=&keep_alive=``: load it now; forgives a model that was put aside."""
    pin = _switch(exchange, "pin")
    keep_alive_s = parse_keep_alive(exchange.query("keep_alive"))
    model = await _named(service, exchange.rest_of_path("/models/load/"))
    slot, already = await service.pool.load(model, pin=pin, keep_alive_s=keep_alive_s)
    await exchange.answer(
        {
            "status": "already_loaded" if already else "loaded",
            "model": model.id,
            "duration": 0.0 if already or not slot.replicas else round(slot.replicas[0].load_duration_s, 3),
            "memory_mb": slot.memory_mb,
            "pinned": slot.is_pinned,
            "expires_at": service.expires_at(model.id),
        }
    )


async def unload(service: Service, exchange: Exchange) -> None:
    """``/models/unload/{name}``: end its runner; answers when the process is gone."""
    model = await _named(service, exchange.rest_of_path("/models/unload/"))
    was_loaded = await service.pool.unload(model.id)
    await exchange.answer({"status": "unloaded" if was_loaded else "not_loaded", "model": model.id})


async def download(service: Service, exchange: Exchange) -> None:
    """``POST /models/download``: progress as NDJSON lines; the job goes on if the client leaves."""
    name = _text(await exchange.json(), "model")
    existing = service.store.known(name, service.catalog.aliases())
    if existing is not None and not existing.problem:
        await exchange.stream("application/x-ndjson", _lines([{"event": "done", "model": existing.id}]))
        return
    await exchange.stream("application/x-ndjson", _progress(service.downloads.start(name)))


async def cancel_download(service: Service, exchange: Exchange) -> None:
    """``POST /models/download/cancel``: answers when the download has ended."""
    name = _text(await exchange.json(), "model")
    await service.downloads.cancel(name)
    await exchange.answer({"status": "cancelled", "model": name})


async def register(service: Service, exchange: Exchange) -> None:
    """``POST /models/register``: take a directory of the user's own as a model; nothing is copied."""
    body = await exchange.json()
    name = None if body.get("name") is None else _text(body, "name")
    model = await asyncio.to_thread(service.store.register, _text(body, "path"), name)
    await exchange.answer({"model": model.id})


async def remove(service: Service, exchange: Exchange) -> None:
    """``POST /models/remove``: unload it, then delete it from the store or forget its registration."""
    model = await service.find(_text(await exchange.json(), "model"))
    if model.source != "bundled":
        await service.pool.unload(model.id)
    await asyncio.to_thread(service.store.remove, model)
    service.pool.forget(model.id)
    await exchange.answer({"status": "removed", "model": model.id})


async def catalog(service: Service, exchange: Exchange) -> None:
    """``GET /models/catalog``: what is known of the online catalogue; ``?refresh=1`` waits, bounded, for news."""
    wait_s = _REFRESH_WAIT_S if exchange.query("refresh") in {"1", "true"} else 0.0
    models = await service.models()
    view = await service.catalog.view(set(models), wait_s=wait_s)
    states = {name: service.describe(model)["state"] for name, model in models.items()}
    await exchange.answer(view | {"models": with_states(view["models"], states, service.downloads.running())})


def with_states(
    entries: Iterable[Mapping[str, Any]], states: Mapping[str, str], running: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Catalogue entries with ``state`` and ``percent``.

    Args:
        entries: As the catalogue has them.
        states: Of the models on this machine, by id.
        running: Percent of the downloads under way, by the name that each was asked for with.
    """
    percents = {name.casefold(): percent for name, percent in running.items()}
    told = []
    for entry in entries:
        percent = percents.get(entry["id"].casefold(), percents.get(str(entry.get("alias")).casefold()))
        state = states.get(entry["id"], "available") if percent is None else "downloading"
        told.append({**entry, "state": state, "percent": percent})
    return told


async def shutdown(service: Service, exchange: Exchange) -> None:
    """``POST /shutdown``: answer, then end in order."""
    await exchange.answer({"status": "shutting_down"})
    service.stop.set()


async def _named(service: Service, name: str) -> LocalModel:
    try:
        return await service.find(name)
    except ModelNotFoundError:
        service.require_cached(name)
        raise


async def _progress(job: DownloadJob) -> AsyncIterator[bytes]:
    async for percent in job.follow():
        yield _line({"event": "progress", "percent": percent})
    if job.fact is not None:
        yield _line({"event": "error"} | openai_error(job.fact).body)
    else:
        yield _line({"event": "done", "model": job.model})


async def _lines(values: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    for value in values:
        yield _line(value)


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _switch(exchange: Exchange, name: str) -> bool | None:
    value = exchange.query(name)
    if value is not None and value.lower() not in {"true", "false"}:
        raise InvalidInputError(f"'{name}' must be true or false.", param=name)
    return None if value is None else value.lower() == "true"


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"'{key}' must be a non-empty string.", param=key)
    return value
