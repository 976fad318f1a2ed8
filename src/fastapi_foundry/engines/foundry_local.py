"""Foundry Local behind the ``Engine`` port: found or started, supervised, and asked over HTTP.

Requests and answers pass through as they are. What is added here is what a caller should not have to
know: where the engine is, that it is being started, that a connection broke and the request may be sent
again because the engine cannot have answered it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import EngineStatus, ModelCard, Reply
from fastapi_foundry.engines.discovery import Discovery
from fastapi_foundry.engines.http_client import (
    ConnectFailedError,
    ConnectionLostError,
    HttpClient,
    HttpError,
    HttpResponse,
    ResponseTimeoutError,
    Timeouts,
)
from fastapi_foundry.engines.own_service import OwnService
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.errors import EngineFailedError, EngineTimeoutError, EngineUnavailableError, FoundryError
from fastapi_foundry.settings import Settings
from fastapi_foundry.wire.errors import fact_from_response

__all__ = ["FoundryLocalEngine"]

_OK: Final = 200
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 1024 * 1024
_LIST_TIMEOUT_S: Final = 1.0
_LEAST_LEFT_S: Final = 0.1
_LOAD_MARGIN_S: Final = 0.5
_END_OF_STREAM: Final = b"[DONE]"
_DESCRIBED: Final = frozenset({"id", "object", "created", "owned_by", "state"})


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of the engine, wherever it is by then.

    Attributes:
        ready_s: How long the engine may take to become ready first.
        model: What an error is about, where no body names it.
    """

    method: str
    path: str
    timeouts: Timeouts
    ready_s: float
    body: bytes | None = None
    request_id: str = ""
    model: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        content = {"content-type": "application/json"} if self.body is not None else {}
        return content | ({"x-request-id": self.request_id} if self.request_id else {})


class FoundryLocalEngine:
    """The ``Engine`` for Foundry Local; see ``engines.base.Engine`` for what each method promises.

    Make it and use it within one event loop.

    Args:
        settings: Where to look, what may be started, time-outs.
        config_path: The configuration file, handed on to a service that is started.
        supervisor: Instead of the one that the settings describe.
        client: Instead of one of its own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config_path: Path | None = None,
        supervisor: Supervisor | None = None,
        client: HttpClient | None = None,
    ) -> None:
        ai = settings.foundry_ai
        self._client = client or HttpClient()
        self._supervisor = supervisor or _supervisor(settings, config_path, self._client)
        self._answer_s = ai.timeout_s
        # The service has the same limit and says more about it when it passes.
        self._load_s = settings.foundry_service.load_timeout_s + _LOAD_MARGIN_S
        self._ready_s = settings.foundry_service.start_timeout_s
        self._connect_s = ai.connect_timeout_s
        self._first_byte_s = ai.first_byte_timeout_s
        self._idle_s = ai.idle_timeout_s

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        return self._supervisor.status

    async def start(self) -> None:
        """Begin discovery and supervision in the background; returns at once."""
        self._supervisor.start()

    async def aclose(self) -> None:
        """End supervision, stop the service if it was started here, close every connection."""
        await self._supervisor.aclose()
        await self._client.aclose()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the engine is ready; see ``Engine.wait_ready``."""
        await self._supervisor.wait_ready(timeout_s)

    async def list_models(self) -> list[ModelCard]:
        """What can be used now; bounded to about a second."""
        timeouts = self._timeouts(total_s=_LIST_TIMEOUT_S)
        _, body = await self._whole(_Request("GET", "/v1/models", timeouts, ready_s=_LIST_TIMEOUT_S))
        return _model_cards(body)

    async def post(self, path: str, body: bytes, *, request_id: str, timeout_s: float | None = None) -> Reply:
        """Send JSON and wait for the whole answer; see ``Engine.post``."""
        total_s = self._answer_s if timeout_s is None else timeout_s
        timeouts = self._timeouts(total_s=total_s)
        ready_s = min(self._ready_s, total_s)
        request = _Request("POST", path, timeouts, ready_s=ready_s, body=body, request_id=request_id)
        response, answer = await self._whole(request)
        return Reply(answer, response.headers)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, body: bytes, *, request_id: str) -> AsyncIterator[_Stream]:
        """Send JSON and stream the answer; see ``Engine.stream``."""
        timeouts = self._timeouts(total_s=None)
        request = _Request("POST", path, timeouts, ready_s=self._ready_s, body=body, request_id=request_id)
        response = await self._send(request)
        try:
            stream = _Stream(response, self._fact)
            await stream.pull_first()
            yield stream
        finally:
            response.close()

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model and wait until it is ready; the engine's own answer."""
        return await self._change("load", model)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model and wait until its memory is returned; the engine's own answer."""
        return await self._change("unload", model)

    async def _change(self, verb: str, model: str) -> dict[str, Any]:
        await self._supervisor.wait_ready(self._ready_s)
        # Microsoft's own service knows these routes as GET alone, ours takes a change by POST.
        method = "GET" if self._supervisor.kind is EngineKind.GEN3 else "POST"
        path = f"/models/{verb}/{quote(model, safe='')}"
        timeouts = self._timeouts(total_s=self._load_s)
        body = b"" if method == "POST" else None
        request = _Request(method, path, timeouts, ready_s=self._ready_s, body=body, model=model)
        _, answer = await self._whole(request)
        try:
            document = orjson.loads(answer)
        except orjson.JSONDecodeError:
            document = None
        return document if isinstance(document, dict) else {"status": f"{verb}ed", "model": model}

    async def _whole(self, request: _Request) -> tuple[HttpResponse, bytes]:
        response = await self._send(request)
        try:
            return response, await response.read(_MAX_ANSWER_BYTES)
        except HttpError as error:
            raise self._fact(error) from error
        finally:
            response.close()

    async def _send(self, request: _Request) -> HttpResponse:
        """The head of a successful answer; an answer that reports an error is raised as its fact.

        Sent at most twice: again, on a new connection to wherever the engine is by then, when the first
        connection was refused or broke before any byte of an answer had arrived.
        """
        status = await self._supervisor.wait_ready(request.ready_s)
        began = time.monotonic()
        try:
            response = await self._attempt(request, status.url, request.timeouts, fresh=False)
        except (ConnectFailedError, ConnectionLostError) as error:
            if isinstance(error, ConnectionLostError) and error.received_any:
                raise self._fact(error) from error
            status = await self._supervisor.recheck(status.url or "", request.ready_s)
            rest = _rest_of(request.timeouts, time.monotonic() - began)
            try:
                response = await self._attempt(request, status.url, rest, fresh=True)
            except HttpError as again:
                raise self._fact(again) from again
        except HttpError as error:
            raise self._fact(error) from error
        if response.status == _OK:
            return response
        try:
            answer = await response.read(_MAX_ERROR_BYTES)
        except HttpError as error:
            raise self._fact(error) from error
        raise _fact_from_answer(response, answer, request.model or _model_in(request.body))

    async def _attempt(
        self, request: _Request, base_url: str | None, timeouts: Timeouts, *, fresh: bool
    ) -> HttpResponse:
        return await self._client.request(
            request.method,
            f"{base_url}{request.path}",
            headers=request.headers,
            body=request.body,
            timeouts=timeouts,
            fresh=fresh,
            repeat_if_stale=False,
        )

    def _timeouts(self, *, total_s: float | None) -> Timeouts:
        if total_s is None:
            return Timeouts(self._connect_s, self._first_byte_s, self._idle_s)
        return Timeouts(min(self._connect_s, total_s), total_s, total_s, total_s)

    def _fact(self, error: HttpError) -> FoundryError:
        """What a failed request means; the engine is checked in passing."""
        url = self._supervisor.status.url or ""
        self._supervisor.report_lost(url)
        match error:
            case ConnectFailedError():
                return EngineUnavailableError(
                    "Foundry service unavailable: it cannot be reached.", url=url, cause=str(error)
                )
            case ResponseTimeoutError(phase="between_bytes"):
                return EngineTimeoutError(f"The engine fell silent for {error.limit_s:g} s.", limit_s=error.limit_s)
            case ResponseTimeoutError():
                return EngineTimeoutError(
                    f"The engine did not answer within {error.limit_s:g} s.", limit_s=error.limit_s
                )
            case ConnectionLostError():
                return EngineFailedError("The engine broke off before its answer was complete.", cause=str(error))
            case _:
                return EngineFailedError("The engine's answer is not a valid HTTP response.", cause=str(error))


class _Stream:
    """The ``ReplyStream`` over one response."""

    def __init__(self, response: HttpResponse, fact: Callable[[HttpError], FoundryError]) -> None:
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._fact = fact
        self._first: bytes | None = None
        self._tail = b""

    async def pull_first(self) -> None:
        """Wait for the first bytes of the body, so that an early failure shows before anything is sent on."""
        with contextlib.suppress(StopAsyncIteration):
            self._first = await self._next()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        return await self._next() if first is None else first

    async def _next(self) -> bytes:
        response = self._response
        try:
            part = await response.__anext__()
        except HttpError as error:
            raise self._fact(error) from error
        except StopAsyncIteration:
            if response.ends_with_connection and _END_OF_STREAM not in self._tail:
                # Without a length, only the stream's own end mark tells the end from a crash.
                lost = ConnectionLostError("the connection ended before the stream did", received_any=True)
                raise self._fact(lost) from None
            raise
        if response.ends_with_connection:
            self._tail = (self._tail + part)[-2 * len(_END_OF_STREAM) :]
        return part


def _supervisor(settings: Settings, config_path: Path | None, client: HttpClient) -> Supervisor:
    service = settings.foundry_service
    discovery = Discovery(
        client,
        home=settings.home,
        ports=range(service.port_range_start, service.port_range_end + 1),
        default_port=service.port,
    )
    return Supervisor(
        client,
        discovery=discovery if settings.foundry_ai.discovery else None,
        starter=OwnService(settings, config_path) if service.start == "auto" else None,
        base_url=settings.foundry_ai.base_url,
    )


def _rest_of(timeouts: Timeouts, spent_s: float) -> Timeouts:
    """What is left of a limit on the whole, for a second try."""
    if timeouts.total_s is None:
        return timeouts
    left_s = round(max(_LEAST_LEFT_S, timeouts.total_s - spent_s), 3)
    return Timeouts(timeouts.connect_s, left_s, left_s, left_s)


def _fact_from_answer(response: HttpResponse, answer: bytes, model: str | None) -> FoundryError:
    fact = fact_from_response(response.status, answer, model=model)
    retry_after = response.headers.get("retry-after", "")
    if hasattr(fact, "retry_after_s") and retry_after.isdecimal():
        fact.retry_after_s = float(retry_after)
    return fact


def _model_in(body: bytes | None) -> str | None:
    """The model that a request names; read only to word an error."""
    try:
        model = orjson.loads(body or b"null")["model"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return model if isinstance(model, str) else None


def _model_cards(body: bytes) -> list[ModelCard]:
    try:
        entries = orjson.loads(body)["data"]
        return [_model_card(entry) for entry in entries]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EngineFailedError("The engine's list of models makes no sense.", cause=repr(error)) from error


def _model_card(entry: dict[str, Any]) -> ModelCard:
    created, owner, state = entry.get("created"), entry.get("owned_by"), entry.get("state")
    return ModelCard(
        id=str(entry["id"]),
        created=created if isinstance(created, int) else 0,
        owned_by=owner if isinstance(owner, str) else "",
        state=state if isinstance(state, str) else "unknown",
        extra={key: value for key, value in entry.items() if key not in _DESCRIBED},
    )
