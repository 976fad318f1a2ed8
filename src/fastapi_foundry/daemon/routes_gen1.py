"""Foundry Local 0.x's own routes, for programs written for it and its SDKs up to 0.5 (Python, JavaScript, C#, Rust).

What each client insists on is said where it decides something; measured with the Python SDK 0.5.1 and the
JavaScript SDK 0.5.0, read from the others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.downloads import DownloadJob
from fastapi_foundry.daemon.http import Exchange
from fastapi_foundry.daemon.keep_alive import parse_keep_alive
from fastapi_foundry.daemon.service import Service
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.errors import FoundryError, InvalidInputError, ModelNotFoundError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.wire.errors import openai_error

__all__ = ["cached", "catalog", "download", "load", "progress_lines", "status", "unload"]

logger = get_logger(__name__)

# The SDKs refuse a whole list for one device that is not of these.
_EXECUTION_PROVIDERS: Final = {
    "CPU": "CPUExecutionProvider",
    "GPU": "WebGpuExecutionProvider",
    "NPU": "QNNExecutionProvider",
}
# The SDKs look for these words and then say that the model must be downloaded first.
_NOT_CACHED: Final = "No OpenAIService provider found for modelName"
# The JavaScript SDK takes each piece that arrives for a line, and Node joins what arrives together: without a pause
# its JSON is the tail of another line, and never found.
_JSON_APART_S: Final = 0.25


async def status(service: Service, exchange: Exchange) -> None:
    """``GET /openai/status``: where the service listens and where its downloads go."""
    await exchange.answer(
        {
            "endpoints": [service.url],
            "modelDirPath": str(service.store.cache_dir),
            "pipeName": None,
            # Clients that wait for execution providers have nothing to wait for here.
            "isAutoRegistrationResolved": True,
            "autoRegistrationStatus": "",
        }
    )


async def catalog(service: Service, exchange: Exchange) -> None:
    """``GET /foundry/list``: the models on this machine, then the others of the online catalogue as far as it is known.

    Never waits for the network. The SDKs take the first model of an alias, so what is here comes first.
    """
    local = await _local(service)
    view = await service.catalog.view({model.id for model in local})
    online = {entry["id"]: entry for entry in view["models"]}
    usable = {model.id for model in local if not model.problem}
    models = [
        _list_entry(online[model.id]) if model.id in online else _from_files(service.describe(model))
        for model in local
        if model.id in usable
    ]
    models += [_list_entry(entry) for model_id, entry in online.items() if model_id not in usable]
    # A load of one of these says what is wrong with it.
    models += [_from_files(service.describe(model)) for model in local if model.problem and model.id not in online]
    await exchange.answer(models)


async def cached(service: Service, exchange: Exchange) -> None:
    """``GET /openai/models``: full ids of the models on this machine whose files are complete."""
    await exchange.answer([model.id for model in await _local(service) if not model.problem])


async def load(service: Service, exchange: Exchange) -> None:
    """``GET /openai/load/{id}?ttl=&ep=``: load it now; answers when it is loaded.

    ``ttl`` is for how long the model stays without a request, in whole seconds; 0 leaves that to the service. ``ep``
    is accepted and not used: the engine chooses where it runs.
    """
    ttl = exchange.query("ttl")
    if ttl is not None and not (ttl.isascii() and ttl.isdigit()):
        raise InvalidInputError("'ttl' must be a whole number of seconds, 0 or more.", param="ttl")
    model = await _find_cached(service, exchange.rest_of_path("/openai/load/"))
    _, already = await service.pool.load(model, keep_alive_s=parse_keep_alive(ttl, param="ttl") or None)
    await exchange.answer({"status": "already_loaded" if already else "loaded", "model": model.id})


async def unload(service: Service, exchange: Exchange) -> None:
    """``GET /openai/unload/{id}?force=``: end its runner, forced or not; answers when the process is gone."""
    force = exchange.query("force")
    if force is not None and force.lower() not in {"true", "false"}:
        raise InvalidInputError("'force' must be true or false.", param="force")
    model = await _find_cached(service, exchange.rest_of_path("/openai/unload/"))
    was_loaded = await service.pool.unload(model.id)
    await exchange.answer({"status": "unloaded" if was_loaded else "not_loaded", "model": model.id})


async def download(service: Service, exchange: Exchange) -> None:
    """``POST /openai/download``: lines with ``NN%``, then one line of JSON; the job goes on if the client leaves.

    What is refused before it starts has the status of what it is, and the fields of that last line besides: the
    Python SDK does not look at the status.
    """
    try:
        name = _model_name(await exchange.json())
        existing = service.store.known(name, service.catalog.aliases())
        job = None if existing is not None and not existing.problem else service.downloads.start(name)
    except FoundryError as fact:
        refusal = openai_error(fact)
        logger.info("download refused", code=fact.code, reason=fact.message, **fact.context)
        body = {"success": False, "errorMessage": fact.message} | refusal.body
        await exchange.answer(body, status=refusal.status, headers=refusal.headers)
        return
    await exchange.stream("text/plain; charset=utf-8", progress_lines(job))


async def progress_lines(job: DownloadJob | None) -> AsyncIterator[bytes]:
    """The lines of a download, or of one that is not needed."""
    if job is None:
        yield _percent_line(100.0)
    else:
        async for percent in job.follow():
            yield _percent_line(percent)
    # The C# SDK begins to look for the JSON after this mark.
    yield b"[DONE]\n"
    await asyncio.sleep(_JSON_APART_S)
    fact = job.fact if job is not None else None
    # Flat, because the C# SDK reads from the last opening brace; it also wants errorMessage after a success.
    end: dict[str, Any] = {"success": fact is None, "errorMessage": fact.message if fact else None}
    if fact is not None:
        # Where the JavaScript SDK looks.
        end["error"] = fact.message
    yield orjson.dumps(end) + b"\n"


def _percent_line(percent: float) -> bytes:
    """In the words that the C# SDK waits for; the others look for the percent sign alone."""
    return f"Total {percent:.2f}% Downloading\n".encode()


async def _local(service: Service) -> list[LocalModel]:
    return sorted((await service.models()).values(), key=lambda model: (model.source != "bundled", model.id))


async def _find_cached(service: Service, name: str) -> LocalModel:
    """The model on this machine; one that only the catalogue has is an error in the words that the SDKs know."""
    try:
        return await service.find(name)
    except ModelNotFoundError:
        if not service.catalog.knows(name):
            raise
    raise InvalidInputError(
        f"The model '{name}' is not cached; download it first. {_NOT_CACHED}:{name}",
        param="model",
        code="model_not_cached",
    )


def _model_name(body: Mapping[str, Any]) -> str:
    """The id in ``{"model": {"Name": id, ...}, ...}`` or ``{"model": id}``; 0.x reads names without regard to case."""
    model = _field(body, "model")
    name = _field(model, "name") if isinstance(model, dict) else model
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError("'model' must be a model id, or an object whose 'Name' is one.", param="model")
    return name


def _field(values: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in values.items() if key.casefold() == name), None)


def _from_files(card: Mapping[str, Any]) -> dict[str, Any]:
    """A list entry for a model that the catalogue does not have; ``card`` is its entry in ``GET /v1/models``."""
    license_name = "MIT" if card["demonstration"] else ""
    return _list_entry({**card, "publisher": card["owned_by"], "license": license_name}, provider="Local")


def _list_entry(model: Mapping[str, Any], *, provider: str = "AzureFoundry") -> dict[str, Any]:
    """One entry of ``GET /foundry/list`` for one of ``GET /models/catalog``, which may lack anything but its id.

    Every field is there and has its type: one that is missing or null makes the SDKs refuse the whole list (the
    Python one allows null for three, the Rust one for none but the template). Empty and 0 mean unknown.
    """
    name, _, version = model["id"].partition(":")
    device = _text(model.get("device")).upper()
    device = device if device in _EXECUTION_PROVIDERS else "CPU"
    return {
        "name": model["id"],
        "displayName": name,
        "modelType": "ONNX",
        "providerType": provider,
        "uri": _text(model.get("uri")),
        "version": version or "1",
        "promptTemplate": None,
        "publisher": _text(model.get("publisher")),
        "task": _text(model.get("task")),
        "runtime": {
            "deviceType": device,
            "executionProvider": _text(model.get("execution_provider")) or _EXECUTION_PROVIDERS[device],
        },
        "fileSizeMb": _whole(model.get("size_mb")),
        "modelSettings": {"parameters": []},
        "alias": _text(model.get("alias")) or name,
        "supportsToolCalling": bool(model.get("tool_calling")),
        "license": _text(model.get("license")),
        "licenseDescription": "",
        "parentModelUri": "",
        "maxOutputTokens": _whole(model.get("max_output_tokens")),
        "minFLVersion": "",
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return math.ceil(value) if isinstance(value, int | float) else 0
