"""Recognise a Foundry by the shape of its answers; a status of 200 alone proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
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
_NOT_FOUND: Final = 404
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class EngineKind(StrEnum):
    """What answers at an address."""

    OURS = "ours"  # our own service
    GEN1 = "gen1"  # the service of Foundry Local's CLI 0.x, and of the 0.10 preview, which has the same routes
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
    """The answer has not the shape that an engine's has; the message says why.

    Attributes:
        is_absent: There is no such route.
    """

    def __init__(self, message: str, *, is_absent: bool = False) -> None:
        super().__init__(message)
        self.is_absent = is_absent


async def probe(
    client: HttpClient, url: str, *, timeout_s: float, headers: Mapping[str, str] = _NO_HEADERS
) -> ProbeResult:
    """Ask ``url`` for its models and its status; never raises for what the other side does.

    Args:
        client: Sends the requests, on connections of their own.
        url: Base URL without ``/v1``.
        timeout_s: For each of the three requests, in seconds.
        headers: Sent along: the key of an engine that wants one.
    """
    asker = _Asker(client, url, timeout_s, headers)
    unfit = ""
    try:
        _require_model_list(await asker.get_json("/v1/models"))
    except _UnfitError as error:
        unfit = str(error)
        if not error.is_absent:
            return ProbeResult(None, unfit)
    except HttpError as error:
        return _unreachable(error)
    status, gen1_status = await asker.get_status("/status"), {}
    if status.get("product") != OUR_SERVICE:
        gen1_status = await asker.get_status("/openai/status")
    kind = _kind(status, gen1_status)
    if unfit and kind is EngineKind.OPENAI:
        return ProbeResult(None, unfit)
    pid = status.get("pid")
    return ProbeResult(kind, f"answers as {kind}", pid=pid if isinstance(pid, int) else None)


@dataclass(frozen=True, slots=True)
class _Asker:
    client: HttpClient
    url: str
    timeout_s: float
    headers: Mapping[str, str]

    async def get_json(self, path: str) -> dict[str, Any]:
        timeouts = Timeouts(self.timeout_s, self.timeout_s, self.timeout_s, self.timeout_s)
        # On a connection of its own: whether a new one comes about is part of the question.
        headers = {**self.headers, "connection": "close"}
        response = await self.client.request("GET", f"{self.url}{path}", headers=headers, timeouts=timeouts, fresh=True)
        if any(name == _ROLE_HEADER and value.strip() == b"gateway" for name, value in response.raw_headers):
            response.close()
            raise _UnfitError("it is a gateway, not an engine")
        body = await response.read(_MAX_BODY_BYTES)
        if response.status != _OK:
            is_absent = response.status == _NOT_FOUND
            raise _UnfitError(f"it answers with status {response.status}", is_absent=is_absent)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _UnfitError("its answer is not JSON") from None
        if not isinstance(document, dict):
            raise _UnfitError("its answer is not a JSON object")
        return document

    async def get_status(self, path: str) -> dict[str, Any]:
        """The document at ``path``; empty where there is none."""
        try:
            return await self.get_json(path)
        except (_UnfitError, HttpError):
            return {}


def _require_model_list(document: dict[str, Any]) -> None:
    entries = document.get("data")
    if document.get("object", "list") != "list" or not isinstance(entries, list):
        raise _UnfitError("its answer is not a list of models")
    if not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries):
        raise _UnfitError("its list holds something else than models")


def _kind(status: dict[str, Any], gen1_status: dict[str, Any]) -> EngineKind:
    if status.get("product") == OUR_SERVICE:
        return EngineKind.OURS
    if isinstance(gen1_status.get("modelDirPath"), str):
        return EngineKind.GEN1
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
