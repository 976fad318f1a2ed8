"""Recognise an engine by the shape of its answers; a status of 200 alone proves nothing."""

from __future__ import annotations

import asyncio
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
from fastapi_foundry.engines.via import gateways_in

__all__ = ["OUR_SERVICE", "EngineKind", "ProbeResult", "probe"]

OUR_SERVICE: Final = "fastapi-foundry-service"
_ROLE_HEADER: Final = b"x-fastapi-foundry-role"
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_OK: Final = 200
_NOT_FOUND: Final = 404
_LOOP_DETECTED: Final = 508
_MOST_VERSION_CHARS: Final = 100
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_A_GATEWAY: Final = "it is a gateway, not an engine; to use it, add its address to 'engines' in the configuration"
_A_LOOP: Final = "it is this gateway itself, or a way back to it"


class EngineKind(StrEnum):
    """What answers at an address."""

    OURS = "ours"  # our own service
    GEN1 = "gen1"  # the service of Foundry Local's CLI 0.x, and of the 0.10 preview, which has the same routes
    GEN3 = "gen3"  # Foundry Local's own web service, SDK 1.x and 2.x
    GATEWAY = "gateway"  # FastAPI Foundry's gateway on another machine or port
    OPENAI = "openai"  # lists models as OpenAI does, and is otherwise unknown


# Where engines tell their version: Ollama, vLLM, llama.cpp.
_VERSION_PLACES: Final = {
    EngineKind.GATEWAY: (("/api/v1/version", "version"),),
    EngineKind.OPENAI: (("/api/version", "version"), ("/version", "version"), ("/props", "build_info")),
}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe saw.

    Attributes:
        kind: None when it is no engine that we can use.
        outcome: In words: what it is, or why it is not taken.
        refused: Nobody listens there.
        silent: It accepts connections, or drops packets, and does not answer in time.
        pid: Its process id, where it says so.
        version: In its own words; empty where it is not known.
        gateway: The pseudonym of a gateway; empty for everything else.
    """

    kind: EngineKind | None
    outcome: str
    refused: bool = False
    silent: bool = False
    pid: int | None = None
    version: str = ""
    gateway: str = ""


class _UnfitError(Exception):
    """The answer has not the shape that an engine's has; the message says why.

    Attributes:
        is_absent: There is no such route.
    """

    def __init__(self, message: str, *, is_absent: bool = False) -> None:
        super().__init__(message)
        self.is_absent = is_absent


async def probe(
    client: HttpClient,
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] = _NO_HEADERS,
    takes_gateways: bool = False,
    asks_version: bool = False,
) -> ProbeResult:
    """Ask ``url`` for its models and its status; never raises for what the other side does.

    Args:
        client: Sends the requests, on connections of their own.
        url: Base URL without ``/v1``.
        timeout_s: For each of the three requests, and for all that ask for the version together, in seconds.
        headers: Sent along: the key of an engine that wants one.
        takes_gateways: Whether a gateway will do as an engine.
        asks_version: Whether to ask for the version where it takes requests of its own.
    """
    asker = _Asker(client, url, timeout_s, headers, takes_gateways=takes_gateways)
    unfit = ""
    try:
        _require_model_list(await asker.get_json("/v1/models"))
    except _UnfitError as error:
        unfit = str(error)
        if not error.is_absent:
            return ProbeResult(None, unfit)
    except HttpError as error:
        return _unreachable(error)
    status = {} if asker.met_gateway else await asker.get_status("/status")
    kind = await _kind(asker, status)
    if unfit and kind in {EngineKind.OPENAI, EngineKind.GATEWAY}:
        return ProbeResult(None, unfit)
    version = _text(status.get("version"))
    if asks_version and not version:
        version = await _version(asker, kind)
    pid = status.get("pid")
    return ProbeResult(
        kind,
        f"answers as {kind}",
        pid=pid if isinstance(pid, int) else None,
        version=version,
        gateway=asker.gateway,
    )


@dataclass(slots=True)
class _Asker:
    """Asks one address.

    Attributes:
        met_gateway: Whether a gateway has answered.
        gateway: Its pseudonym, if it has told one.
    """

    client: HttpClient
    url: str
    timeout_s: float
    headers: Mapping[str, str]
    takes_gateways: bool = False
    met_gateway: bool = False
    gateway: str = ""

    async def get_json(self, path: str) -> dict[str, Any]:
        timeouts = Timeouts(self.timeout_s, self.timeout_s, self.timeout_s, self.timeout_s)
        # On a connection of its own: whether a new one comes about is part of the question.
        headers = {**self.headers, "connection": "close"}
        response = await self.client.request("GET", f"{self.url}{path}", headers=headers, timeouts=timeouts, fresh=True)
        if any(name == _ROLE_HEADER and value.strip() == b"gateway" for name, value in response.raw_headers):
            self.met_gateway = True
            self.gateway = (*gateways_in(response.headers.get("via", "")), "")[0]
            if not self.takes_gateways:
                response.close()
                raise _UnfitError(_A_GATEWAY)
        body = await response.read(_MAX_BODY_BYTES)
        if response.status != _OK:
            if self.met_gateway and response.status == _LOOP_DETECTED:
                raise _UnfitError(_A_LOOP)
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


async def _kind(asker: _Asker, status: dict[str, Any]) -> EngineKind:
    if asker.met_gateway:
        return EngineKind.GATEWAY
    if status.get("product") == OUR_SERVICE:
        return EngineKind.OURS
    if isinstance((await asker.get_status("/openai/status")).get("modelDirPath"), str):
        return EngineKind.GEN1
    if isinstance(status.get("modelCachePath"), str) and isinstance(status.get("endpoints"), list):
        return EngineKind.GEN3
    return EngineKind.OPENAI


async def _version(asker: _Asker, kind: EngineKind) -> str:
    """What is told at the first place that tells anything; all of them together have the time of one request."""
    try:
        async with asyncio.timeout(asker.timeout_s):
            for path, field in _VERSION_PLACES.get(kind, ()):
                if found := _text((await asker.get_status(path)).get(field)):
                    return found
    except TimeoutError:
        pass
    return ""


def _text(value: Any) -> str:
    return value.strip()[:_MOST_VERSION_CHARS] if isinstance(value, str) and value.isprintable() else ""


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
