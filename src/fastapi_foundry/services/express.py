"""The express way of plain chat requests: from the client's bytes to the engine's within one callback, and back.

Most requests use nothing but messages and sampling, go to an engine that is ready and conforms, and have their turn at
once. For these everything that has to be done (key, limits, queue, model, record of use) is known without waiting, so no
task is needed and no framework. ``begin`` does all of it or nothing: whatever is not plain goes the ordinary way, through
``InferenceService``, which does the same with the same parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson

from fastapi_foundry.engines.direct import DirectWay
from fastapi_foundry.engines.router import Router
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.access import AccessService, Recognition
from fastapi_foundry.services.admission import Admission
from fastapi_foundry.services.cache_rules import cache_use
from fastapi_foundry.services.express_exchange import Books, Exchange, Sink, WholeExchange
from fastapi_foundry.services.express_stream import StreamExchange
from fastapi_foundry.services.generations import Generations
from fastapi_foundry.services.limit_tickets import FREE_TICKET
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.model_access import allows_name
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.services.usage import LOCAL_KEY
from fastapi_foundry.wire.openai import with_usage_requested
from fastapi_foundry.wire.plain_chat import is_plain_chat

__all__ = ["CHAT_PATH", "ExpressService", "Sender"]

CHAT_PATH: Final = "/v1/chat/completions"
_WAY_S: Final = 0.05
_MOST_WAYS: Final = 1000
_USAGE: Final = {"include_usage": True}
_RIGHTS: Final = frozenset({Scope.CHAT})


class Sender:
    """Who sends requests with a certain head.

    Args:
        token: The key, from its header.
        from_elsewhere: Whether something in front of this server handed the request on.

    Attributes:
        known: Who that was found to be, the last time.
    """

    __slots__ = ("from_elsewhere", "known", "token")

    def __init__(self, token: str | None, from_elsewhere: bool) -> None:  # noqa: FBT001 - a value, not a switch
        self.token = token
        self.from_elsewhere = from_elsewhere
        self.known: Recognition | None = None


class _Way(NamedTuple):
    """How a model's requests go; looked up anew after some milliseconds."""

    until: float
    model_id: str
    way: DirectWay
    lane: str
    capacity: int


class ExpressService:
    """Begins exchanges; belongs to one event loop.

    Args:
        router: Knows which requests may go straight to an engine.
        admission: Knows which model has a place free.
        uses_cache: Whether answers are kept; requests that may have one go the ordinary way.
        notice_s: See ``StreamExchange``.
        keepalive_s: Likewise.
        clock: Monotonic seconds.

    Attributes:
        taken: How many requests it has taken.
    """

    def __init__(
        self,
        *,
        access: AccessService,
        limits: LimitsService,
        models: ModelsService,
        generations: Generations,
        router: Router,
        admission: Admission,
        stopping: Stopping,
        uses_cache: bool,
        notice_s: float,
        keepalive_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ways: dict[str, _Way] = {}
        self._access = access
        self._limits = limits
        self._models = models
        self._books = Books(generations, stopping)
        self._router = router
        self._admission = admission
        self._stopping = stopping
        self._uses_cache = uses_cache
        self._notice_s = notice_s
        self._keepalive_s = keepalive_s
        self.taken = 0

    def begin(self, sender: Sender, body: bytes, request_id: bytes, sink: Sink) -> Exchange | None:
        """Send a request to its engine, or None, and nothing has happened; never waits.

        ``sink`` is told of the answer later, never before this returns.
        """
        known = sender.known
        if known is None or not self._access.still_knows(known):
            known = self._recognised(sender)
        if known is None or self._stopping.begun:
            return None
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not is_plain_chat(parsed) or (self._uses_cache and cache_use(CHAT_PATH, parsed)):
            return None
        now, name, principal = self._clock(), parsed["model"], known.principal
        way = self._ways.get(name)
        if way is None or way.until < now:
            way = self._look_up(name, now)
        if way is None:
            return None
        if principal.allowed_models is not None and not allows_name(principal, name, self._models.last_known):
            return None
        exchange = self._exchange(sink, principal, parsed, way, now)
        if exchange is not None:
            self.taken += 1
            exchange.begin(_body(body, parsed) if exchange.streams else body, request_id)
        return exchange

    def _recognised(self, sender: Sender) -> Recognition | None:
        known = self._access.recognise(sender.token, from_elsewhere=sender.from_elsewhere)
        sender.known = known if known is not None and known.principal.may_any(_RIGHTS) else None
        return sender.known

    def _look_up(self, name: str, now: float) -> _Way | None:
        model_id, way = self._models.known_id(name), self._router.direct_way(name)
        if model_id is None or way is None:
            self._ways.pop(name, None)
            return None
        if len(self._ways) >= _MOST_WAYS:
            self._ways.clear()
        lane, capacity = self._router.lane(name)
        found = self._ways[name] = _Way(now + _WAY_S, model_id, way, lane, capacity)
        return found

    def _exchange(
        self, sink: Sink, principal: Principal, parsed: dict[str, Any], way: _Way, now: float
    ) -> Exchange | None:
        """The exchange, where there is a place free and no limit in the way."""
        place = self._admission.enter_now(way.lane, principal.key_id or LOCAL_KEY, way.capacity, now)
        if place is None:
            return None
        limits = self._limits
        ticket = limits.take_now(principal, now) if limits.apply_to(principal) else FREE_TICKET
        if ticket is None:
            place.leave()
            return None
        if not parsed.get("stream"):
            return WholeExchange(
                sink, self._books, ticket, place, way.way, principal, way.model_id, CHAT_PATH, parsed, now
            )
        return StreamExchange(
            sink,
            self._books,
            ticket,
            place,
            way.way,
            principal,
            way.model_id,
            CHAT_PATH,
            parsed,
            now,
            None if ticket is FREE_TICKET else limits.meter(principal),
            hide_usage="stream_options" not in parsed or not parsed["stream_options"]["include_usage"],
            notice_s=self._notice_s,
            keepalive_s=self._keepalive_s,
        )


def _body(raw: bytes, parsed: dict[str, Any]) -> bytes:
    """A stream's request: the client's bytes, but for the usage, which is wanted in any case."""
    if "stream_options" not in parsed:
        return with_usage_requested(raw)
    return raw if parsed["stream_options"]["include_usage"] else orjson.dumps({**parsed, "stream_options": _USAGE})
