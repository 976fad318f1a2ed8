"""Recognise a Foundry by the shape of its answers; a status of 200 alone proves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from fastapi_foundry.engines.http_client import (
    ConnectFailedError,
    ConnectionLostError,
    HttpClient,
    HttpError,
    ProtocolError,
    ResponseTimeoutError,
    Timeouts,
)

__all__ = ["OUR_SERVICE", "EngineKind", "ProbeResult", "probe"]

OUR_SERVICE: Final = "fastapi-foundry-service"
_ROLE_HEADER: Final = b"x-fastapi-foundry-role"
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_OK: Final = 200


class EngineKind(StrEnum):
    """What answers at an address."""

    OURS = "ours"  # our own service
    GEN3 = "gen3"  # Foundry Local's own web service, SDK 1.x and 2.x
    OPENAI = "openai"  # lists models as OpenAI does, and is otherwise unknown


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe saw.

    Attributes:
        kind: None when it is no engine that we can use.
        outcome: In words: what it is, or why it is not taken.
        refused: Nobody listens there.
        silent: It accepts connections, or drops packets, and does not answer in time.
        pid: Its process id, where it says so.
    """

    kind: EngineKind | None
    outcome: str
    refused: bool = False
    silent: bool = False
    pid: int | None = None


class _UnfitError(Exception):
    """The answer has not the shape that an engine's has; the message says why."""


async def probe(client: HttpClient, url: str, *, timeout_s: float) -> ProbeResult:
    """Ask ``url`` for its models and its status; never raises for what the other side does.

    Args:
        client: Sends the two requests, on connections of their own.
        url: Base URL without ``/v1``.
        timeout_s: For each of the two requests, in seconds.
    """
    timeouts = Timeouts(connect_s=timeout_s, first_byte_s=timeout_s, idle_s=timeout_s, total_s=timeout_s)
    try:
        _require_model_list(await _get_json(client, f"{url}/v1/models", timeouts))
    except _UnfitError as error:
        return ProbeResult(None, str(error))
    except HttpError as error:
        return _unreachable(error)
    try:
        status = await _get_json(client, f"{url}/status", timeouts)
    except (_UnfitError, HttpError):
        status = {}
    kind = _kind(status)
    pid = status.get("pid")
    return ProbeResult(kind, f"answers as {kind}", pid=pid if isinstance(pid, int) else None)


async def _get_json(client: HttpClient, url: str, timeouts: Timeouts) -> dict[str, Any]:
    # On a connection of its own: whether a new one comes about is part of the question.
    response = await client.request("GET", url, headers={"connection": "close"}, timeouts=timeouts, fresh=True)
    if any(name == _ROLE_HEADER and value.strip() == b"gateway" for name, value in response.raw_headers):
        response.close()
        raise _UnfitError("it is a gateway, not an engine")
    body = await response.read(_MAX_BODY_BYTES)
    if response.status != _OK:
        raise _UnfitError(f"it answers with status {response.status}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _UnfitError("its answer is not JSON") from None
    if not isinstance(document, dict):
        raise _UnfitError("its answer is not a JSON object")
    return document


def _require_model_list(document: dict[str, Any]) -> None:
    entries = document.get("data")
    if document.get("object", "list") != "list" or not isinstance(entries, list):
        raise _UnfitError("its answer is not a list of models")
    if not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries):
        raise _UnfitError("its list holds something else than models")


def _kind(status: dict[str, Any]) -> EngineKind:
    if status.get("product") == OUR_SERVICE:
        return EngineKind.OURS
    if isinstance(status.get("modelCachePath"), str) and isinstance(status.get("endpoints"), list):
        return EngineKind.GEN3
    return EngineKind.OPENAI


def _unreachable(error: HttpError) -> ProbeResult:
    match error:
        case ConnectFailedError(refused=True):
            return ProbeResult(None, "connection refused", refused=True)
        case ConnectFailedError():
            return ProbeResult(None, "no connection", silent=True)
        case ResponseTimeoutError():
            return ProbeResult(None, "it accepts connections and does not answer", silent=True)
        case ConnectionLostError():
            return ProbeResult(None, "it closed the connection without a whole answer")
        case ProtocolError():
            return ProbeResult(None, "it does not speak HTTP, or says too much")
        case _:
            return ProbeResult(None, "unreachable")
