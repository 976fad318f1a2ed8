"""Limits at the door: pure ASGI, inside access control, for the routes whose rule says so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_foundry.api.permissions import rule_for
from fastapi_foundry.api.problems import problem_response
from fastapi_foundry.errors import FoundryError, TokenBudgetExceededError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.limit_gates import Notice, Shape
from fastapi_foundry.services.limit_tickets import FREE_TICKET, FreeTicket, Ticket
from fastapi_foundry.services.limits import LimitsService

__all__ = ["TICKET", "LimitLines", "Limits", "limit_headers", "ticket_of"]

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
_Pattern = tuple[bytes, bytes, tuple[int, ...]]
_MOST_NOTICES: Final = 1024
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


def limit_headers(shape: Shape, left: Sequence[int], resets: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """OpenAI's headers for requests and for tokens (the limit with the least left), and those of the IETF's draft.

    Args:
        shape: Which limits there are.
        left: What is left of each.
        resets: In how many seconds all of each is free again; none for requests at the same time.
    """
    return [
        (name, pattern % tuple([left[at] for at in places]) if places else pattern)
        for name, pattern, places in _patterns(shape, _least(_token_places(shape), left), resets)
    ]


class LimitLines:
    """``limit_headers`` as they are written; what does not change within a second is made once for each key.

    Args:
        limits: Knows how full the limits are.
    """

    def __init__(self, limits: LimitsService) -> None:
        self._limits = limits
        self._made: dict[Notice, _Lines] = {}

    def of(self, notice: Notice) -> bytes:
        """The lines at this moment, as far as this process knows."""
        left, moment = self._limits.left(notice)
        lines = self._made.get(notice)
        if lines is None or lines.moment != moment:
            if len(self._made) >= _MOST_NOTICES:
                self._made.clear()
            lines = self._made[notice] = _Lines(notice.shape, self._limits.resets(notice), moment)
        return lines.filled(left)


class _Lines:
    """The lines of one moment, into which only what is left has to be filled.

    Attributes:
        moment: For which they hold.
    """

    __slots__ = ("_patterns", "_resets", "_shape", "_token_places", "moment")

    def __init__(self, shape: Shape, resets: Sequence[int], moment: tuple[float, ...]) -> None:
        self.moment = moment
        self._shape = shape
        self._token_places = _token_places(shape)
        self._resets = resets
        # By the limit for tokens that has the least left: the lines, and which values they take.
        self._patterns: dict[int, tuple[bytes, Callable[[Sequence[int]], object]]] = {}

    def filled(self, left: Sequence[int]) -> bytes:
        """The lines, with what is left of each limit."""
        least = _least(self._token_places, left)
        found = self._patterns.get(least)
        if found is None:
            parts = _patterns(self._shape, least, self._resets)
            lines = b"".join([b"%b: %b\r\n" % (name, pattern) for name, pattern, _ in parts])
            found = self._patterns[least] = lines, itemgetter(*[at for _, _, places in parts for at in places])
        lines, picked = found
        return lines % picked(left)


def _least(places: tuple[int, ...], left: Sequence[int]) -> int:
    """Where the limit for tokens is that has the least left; -1 where there is none."""
    least = places[0]
    for at in places[1:]:
        if left[at] < left[least]:
            least = at
    return least


def _token_places(shape: Shape) -> tuple[int, ...]:
    return tuple([at for at, (kind, _) in enumerate(shape) if kind.startswith("tokens")]) or (-1,)


def _patterns(shape: Shape, least: int, resets: Sequence[int]) -> list[_Pattern]:
    """Each header, with a ``%d`` for what is left of the limits whose places are named."""
    patterns: list[_Pattern] = []
    for names, at in ((_REQUESTS, 0 if shape[0][0] == "requests" else -1), (_TOKENS, least)):
        if at >= 0:
            patterns.append((names[0], b"%d" % shape[at][1], ()))
            patterns.append((names[1], b"%d", (at,)))
            patterns.append((names[2], _duration(resets[at]), ()))
    policy = ", ".join([f'"{kind}";q={limit}{_PARAMETERS[kind]}' for kind, limit in shape])
    until = [f";t={reset}" for reset in resets] + [""]  # the last kind has none
    state = ", ".join([f'"{kind}";r=%d{when}' for (kind, _), when in zip(shape, until, strict=False)])
    patterns.append((b"ratelimit-policy", policy.encode(), ()))
    patterns.append((b"ratelimit", state.encode(), tuple(range(len(shape)))))
    return patterns


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
