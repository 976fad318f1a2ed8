"""Limits at the door: pure ASGI, inside access control, for the routes whose rule says so."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_foundry.api.permissions import rule_for
from fastapi_foundry.api.problems import problem_response
from fastapi_foundry.errors import FoundryError, TokenBudgetExceededError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.limit_gates import Shape
from fastapi_foundry.services.limit_tickets import FREE_TICKET, FreeTicket, Ticket
from fastapi_foundry.services.limits import LimitsService

__all__ = ["TICKET", "Limits", "limit_headers", "limit_lines", "ticket_of"]

logger = get_logger(__name__)

TICKET: Final = "fastapi_foundry.ticket"
"""Where the scope of a request holds its ticket."""

_MINUTE_S: Final = 60
_PLACES: Final = "concurrent-requests"
# The draft's: the unit, where it is not requests, and the window in seconds, where it is always the same.
_PARAMETERS: Final = {
    "requests": ";w=60",
    "tokens": ';qu="tokens";w=60',
    "tokens-per-day": ';qu="tokens";w=86400',
    "tokens-per-month": ';qu="tokens"',
    _PLACES: ';qu="concurrent-requests"',
}
_Headers = tuple[tuple[bytes, bytes], ...]
_REQUESTS: Final = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS: Final = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")
# OpenAI's clients would ask twice more, and be refused twice more.
_NO_RETRY: Final = (b"x-should-retry", b"false")


class Limits:
    """Lets a request pass with a ticket, or answers which limit it would pass.

    Args:
        limits: Hands out tickets.
    """

    def __init__(self, app: ASGIApp, *, limits: LimitsService) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold a ticket for as long as the request is answered."""
        if scope["type"] != "http" or not rule_for(scope["method"], scope["path"]).limited:
            await self._app(scope, receive, send)
            return
        principal = cast("Principal | None", scope["principal"])
        if principal is None or not self._limits.apply_to(principal):
            await self._app(scope, receive, send)
            return
        taken = cast("Ticket | None", scope.get(TICKET))  # by the express way, which this request has left
        ticket = taken or await self._limits.take(principal)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *limit_headers(*ticket.levels())]
            await send(message)

        if ticket.refusal is not None:
            await _refuse(ticket.refusal, scope, receive, send_with_headers)
            return
        scope[TICKET] = ticket
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            ticket.release()


def ticket_of(request: Request) -> Ticket | FreeTicket:
    """The ticket with which ``request`` has been let in."""
    return cast("Ticket | FreeTicket", request.scope.get(TICKET, FREE_TICKET))


def limit_headers(shape: Shape, values: list[int]) -> list[tuple[bytes, bytes]]:
    """OpenAI's headers for requests and for tokens (the limit with the least left), and those of the IETF's draft."""
    form = _form(shape)
    headers: list[tuple[bytes, bytes]] = []
    if form.requests:
        headers += _openai(_REQUESTS, form.requests[0], values)
    if form.tokens:
        headers += _openai(_TOKENS, form.least(values), values)
    headers += ((b"ratelimit-policy", form.policy), (b"ratelimit", form.state % tuple(values)))
    return headers


def limit_lines(shape: Shape, values: list[int]) -> bytes:
    """``limit_headers`` as they are written, by one format for all of a shape."""
    form = _form(shape)
    filled: list[int | bytes] = []
    if form.requests:
        at = form.requests[0][1]
        filled += (values[at], _duration(values[at + 1]))
    if form.tokens:
        figure, at = form.least(values)
        filled += (figure, values[at], _duration(values[at + 1]))
    return form.lines % (*filled, *values)


class _Form(NamedTuple):
    """How the limits of one shape are said; ``requests`` and ``tokens``: the figure and where its values begin."""

    requests: list[tuple[bytes, int]]
    tokens: list[tuple[bytes, int]]
    policy: bytes
    state: bytes
    lines: bytes

    def least(self, values: list[int]) -> tuple[bytes, int]:
        """The limit for tokens that has the least left."""
        least = self.tokens[0]
        for each in self.tokens[1:]:
            if values[each[1]] < values[least[1]]:
                least = each
        return least


@functools.lru_cache(maxsize=4096)
def _form(shape: Shape) -> _Form:
    requests, tokens, at = [], [], 0
    for kind, limit in shape:
        if kind == "requests":
            requests.append((b"%d" % limit, at))
        elif kind.startswith("tokens"):
            tokens.append((b"%d" % limit, at))
        at += 2
    policy = ", ".join(f'"{kind}";q={limit}{_PARAMETERS[kind]}' for kind, limit in shape).encode()
    state = ", ".join(f'"{kind}";r=%d' + (";t=%d" if kind != _PLACES else "") for kind, _ in shape).encode()
    lines = []
    if requests:
        lines.append(b"%b: %b\r\n%b: %%d\r\n%b: %%b\r\n" % (_REQUESTS[0], requests[0][0], *_REQUESTS[1:]))
    if tokens:
        lines.append(b"%b: %%b\r\n%b: %%d\r\n%b: %%b\r\n" % _TOKENS)
    lines.append(b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (policy, state))
    return _Form(requests, tokens, policy, state, b"".join(lines))


def _openai(names: tuple[bytes, bytes, bytes], limit: tuple[bytes, int], values: list[int]) -> _Headers:
    figure, at = limit
    return (names[0], figure), (names[1], b"%d" % values[at]), (names[2], _duration(values[at + 1]))


async def _refuse(fact: FoundryError, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(scope["path"], fact)
    if isinstance(fact, TokenBudgetExceededError):
        response.raw_headers.append(_NO_RETRY)
    logger.warning("request refused", error=fact.message, code=fact.code, status_code=response.status_code)
    await response(scope, receive, send)


@functools.lru_cache(maxsize=4096)
def _duration(seconds: int) -> bytes:
    """``0s``, ``12s``, ``6m0s``, ``3h5m0s``: the form of OpenAI's headers."""
    minutes, rest = divmod(seconds, _MINUTE_S)
    if not minutes:
        return b"%ds" % rest
    hours, minutes = divmod(minutes, _MINUTE_S)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)
