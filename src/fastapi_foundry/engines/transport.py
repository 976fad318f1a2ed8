"""Requests to one supervised engine: where it is, a repetition where nothing can have been answered, facts.

What every engine's adapter shares. Requests and answers pass through as they are.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import NO_NOTES, Call, EngineState, EngineStatus, ModelCard, Notes, Reply
from fastapi_foundry.engines.direct import DirectLine
from fastapi_foundry.engines.http_client import (
    ConnectFailedError,
    ConnectionLostError,
    HttpClient,
    HttpError,
    HttpResponse,
    ResponseTimeoutError,
    Timeouts,
    origin_of,
    request_head,
)
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.engines.via import Via
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineTimeoutError,
    EngineUnavailableError,
    FoundryError,
    ModelLoadingError,
)
from fastapi_foundry.wire.errors import fact_from_error_event, fact_from_response
from fastapi_foundry.wire.sse import first_frame_end

__all__ = ["MAX_ANSWER_BYTES", "Ask", "Patience", "Transport", "early_error", "hidden_error", "model_cards"]

_OK: Final = 200
_CHAT_PATH: Final = "/v1/chat/completions"
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 1024 * 1024
_MAX_FIRST_FRAME_BYTES: Final = 1024 * 1024
_GET_TIMEOUT_S: Final = 1.0
_LEAST_LEFT_S: Final = 0.1
_END_OF_STREAM: Final = b"[DONE]"
_ERROR_FRAME: Final = re.compile(rb'\s*(?:event: ?error\s*\n)?data: ?(\{\s*"error"\s*:.*)', re.DOTALL)
_DESCRIBED: Final = frozenset({"id", "object", "created", "owned_by", "state"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an engine may take; all in seconds.

    Attributes:
        ready_s: To become ready, where it is being started or looked for.
        answer_s: For a whole answer that is not streamed.
        connect_s: For a connection.
        first_byte_s: Until the first byte of a stream.
        idle_s: Between two bytes of a stream.
    """

    ready_s: float
    answer_s: float
    connect_s: float
    first_byte_s: float
    idle_s: float

    def timeouts(self, *, total_s: float | None) -> Timeouts:
        """Limits of one exchange: of a stream without ``total_s``, of a whole answer with it."""
        if total_s is None:
            return Timeouts(self.connect_s, self.first_byte_s, self.idle_s)
        return Timeouts(min(self.connect_s, total_s), total_s, total_s, total_s)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the engine, wherever it is by then.

    Attributes:
        ready_s: How long the engine may take to become ready first.
        model: What an error is about.
    """

    method: str
    path: str
    timeouts: Timeouts
    ready_s: float
    body: bytes | None = None
    request_id: str = ""
    model: str | None = None


class Transport:
    """Sends what is asked to where the supervisor says that the engine is.

    Args:
        client: Its own; closed with it.
        headers: Sent with every request: the engine's key, what its configuration adds.
        via: Tells the engine which gateways a request has passed; None where it is not to be told.
    """

    def __init__(
        self,
        client: HttpClient,
        supervisor: Supervisor,
        patience: Patience,
        headers: Mapping[str, str] | None = None,
        via: Via | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.patience = patience
        self.via = via
        self._client = client
        self._headers = dict(headers or {})
        self._loading_until = 0.0
        self._direct: tuple[str, DirectLine] | None = None

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        status = self.supervisor.status
        if status.state is EngineState.READY and time.monotonic() < self._loading_until:
            return replace(status, state=EngineState.LOADING, reason="it is loading a model")
        return status

    async def aclose(self) -> None:
        """End supervision, stop what it started, close every connection."""
        await self.supervisor.aclose()
        await self._client.aclose()

    def direct_line(self) -> DirectLine | None:
        """See ``Engine.direct_line``."""
        status = self.supervisor.status
        if status.state is not EngineState.READY or status.url is None:
            return None
        if self._direct is None or self._direct[0] != status.url:
            self._direct = (status.url, self._make_direct_line(status.url))
        return self._direct[1]

    def _make_direct_line(self, base_url: str) -> DirectLine:
        url, headers = f"{base_url}{_CHAT_PATH}", {**self._headers, "content-type": "application/json"}
        if self.via is not None:
            headers["via"] = self.via.own
        patience = self.patience
        return DirectLine(
            client=self._client,
            origin=origin_of(url),
            head=request_head("POST", url, headers),
            whole=patience.timeouts(total_s=patience.answer_s),
            stream=patience.timeouts(total_s=None),
            fact=self.fact,
            refusal=self._fact_from_answer,
        )

    async def get(self, path: str) -> bytes:
        """What the engine answers there; bounded to about a second."""
        timeouts = self.patience.timeouts(total_s=_GET_TIMEOUT_S)
        _, body = await self.whole(Ask("GET", path, timeouts, ready_s=_GET_TIMEOUT_S))
        return body

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``."""
        total_s = self.patience.answer_s if call.timeout_s is None else call.timeout_s
        timeouts, ready_s = self.patience.timeouts(total_s=total_s), min(self.patience.ready_s, total_s)
        response, answer = await self.whole(_ask(call, timeouts, ready_s))
        return Reply(answer, response.headers)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[_Stream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``."""
        response = await self.send(_ask(call, self.patience.timeouts(total_s=None), self.patience.ready_s))
        try:
            stream = _Stream(response, self.fact)
            await stream.pull_first()
            yield stream
        finally:
            response.close()

    async def whole(self, ask: Ask) -> tuple[HttpResponse, bytes]:
        """The whole successful answer; what reports an error is raised as its fact."""
        response = await self.send(ask)
        try:
            answer = await response.read(MAX_ANSWER_BYTES)
        except HttpError as error:
            raise self.fact(error) from error
        finally:
            response.close()
        if (fact := hidden_error(answer)) is not None:
            raise fact
        return response, answer

    async def send(self, ask: Ask) -> HttpResponse:
        """The head of a successful answer; an answer that reports an error is raised as its fact.

        Sent at most twice: again, on a new connection to wherever the engine is by then, when the first
        connection was refused or broke before any byte of an answer had arrived.
        """
        status = await self.supervisor.wait_ready(ask.ready_s)
        began = time.monotonic()
        try:
            response = await self._attempt(ask, status.url, ask.timeouts, fresh=False)
        except (ConnectFailedError, ConnectionLostError) as error:
            if isinstance(error, ConnectionLostError) and error.received_any:
                raise self.fact(error) from error
            status = await self.supervisor.recheck(status.url or "", ask.ready_s)
            rest = _rest_of(ask.timeouts, time.monotonic() - began)
            try:
                response = await self._attempt(ask, status.url, rest, fresh=True)
            except HttpError as again:
                raise self.fact(again) from again
        except HttpError as error:
            raise self.fact(error) from error
        if response.status == _OK:
            return response
        try:
            answer = await response.read(_MAX_ERROR_BYTES)
        except HttpError as error:
            raise self.fact(error) from error
        raise self._fact_from_answer(response, answer, ask.model)

    async def _attempt(self, ask: Ask, base_url: str | None, timeouts: Timeouts, *, fresh: bool) -> HttpResponse:
        headers = dict(self._headers)
        if self.via is not None:
            headers["via"] = self.via.header
        if ask.body is not None:
            headers["content-type"] = "application/json"
        if ask.request_id:
            headers["x-request-id"] = ask.request_id
        return await self._client.request(
            ask.method,
            f"{base_url}{ask.path}",
            headers=headers,
            body=ask.body,
            timeouts=timeouts,
            fresh=fresh,
            repeat_if_stale=False,
        )

    def _fact_from_answer(self, response: HttpResponse, answer: bytes, model: str | None) -> FoundryError:
        retry_after = response.headers.get("retry-after", "")
        retry_after_s = float(retry_after) if retry_after.isdecimal() else None
        fact = fact_from_response(response.status, answer, model=model, retry_after_s=retry_after_s)
        if isinstance(fact, ModelLoadingError):
            self._loading_until = time.monotonic() + (fact.retry_after_s or 0.0)
        return fact

    def fact(self, error: HttpError) -> FoundryError:
        """What a failed request means; the engine is checked in passing."""
        url = self.supervisor.status.url or ""
        self.supervisor.report_lost(url)
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
        self.notes: Notes = NO_NOTES
        self._response = response
        self._fact = fact
        self._first = b""
        self._tail = b""

    async def pull_first(self) -> None:
        """Wait for the first event, so that an early failure shows before anything is sent on.

        Raises:
            FoundryError: The first event is an error, whatever the status said.
        """
        while first_frame_end(self._first) < 0 and len(self._first) < _MAX_FIRST_FRAME_BYTES:
            try:
                self._first += await self._next()
            except StopAsyncIteration:
                break
        if (fact := early_error(self._first)) is not None:
            raise fact

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._next()

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


def model_cards(body: bytes) -> list[ModelCard]:
    """The cards of OpenAI's list of models.

    Raises:
        EngineFailedError: It is none.
    """
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


def _ask(call: Call, timeouts: Timeouts, ready_s: float) -> Ask:
    return Ask(
        "POST", call.path, timeouts, ready_s=ready_s, body=call.body, request_id=call.request_id, model=call.model
    )


def _rest_of(timeouts: Timeouts, spent_s: float) -> Timeouts:
    """What is left of a limit on the whole, for a second try."""
    if timeouts.total_s is None:
        return timeouts
    left_s = round(max(_LEAST_LEFT_S, timeouts.total_s - spent_s), 3)
    return Timeouts(timeouts.connect_s, left_s, left_s, left_s)


def early_error(first: bytes) -> FoundryError | None:
    """The fact behind a stream whose first event is an error, whatever the status said; None where it is none."""
    if b'"error"' not in first or (match := _ERROR_FRAME.match(first)) is None:
        return None
    end = first_frame_end(match[1])
    return fact_from_error_event(match[1] if end < 0 else match[1][:end])


def hidden_error(answer: bytes) -> FoundryError | None:
    """The fact behind an error that came with a status of 200; None where there is none."""
    if b'"error"' not in answer[:64]:
        return None
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("error"), dict | str):
        return None
    return fact_from_error_event(answer)
