"""How a request wants to be treated: its priority in the queue, how long it may wait there, and the cache of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from fastapi_foundry.api.access import principal_of, services_of
from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.admission import Priority
from fastapi_foundry.services.turns import Wish

__all__ = ["CACHE_HEADER", "MAX_WAIT_HEADER", "PRIORITY_HEADER", "wish_of"]

PRIORITY_HEADER: Final = "x-foundry-priority"
MAX_WAIT_HEADER: Final = "x-foundry-max-wait"
CACHE_HEADER: Final = "x-foundry-cache"
_PRIORITIES: Final = {"low": Priority.LOW, "normal": Priority.NORMAL, "high": Priority.HIGH}
# OpenAI's names: ``flex`` is slow and cheap, ``priority`` fast and dear.
_TIERS: Final = {"flex": Priority.LOW, "priority": Priority.HIGH}
_LONGEST_S: Final = 86_400.0


def wish_of(request: Request, parsed: Mapping[str, Any]) -> Wish:
    """What the headers say, or the body's ``service_tier`` where they are silent.

    Anybody may step back. To go before others takes the right ``admin``; who lacks it waits like everybody.

    Raises:
        InvalidInputError: A header makes no sense.
    """
    text = request.headers.get(PRIORITY_HEADER)
    if text is None:
        tier = parsed.get("service_tier")
        priority = _TIERS.get(tier, Priority.NORMAL) if isinstance(tier, str) else Priority.NORMAL
    elif (known := _PRIORITIES.get(text.strip().lower())) is not None:
        priority = known
    else:
        raise InvalidInputError("'X-Foundry-Priority' must be low, normal or high.", param="X-Foundry-Priority")
    if priority is Priority.HIGH and not principal_of(request).may(Scope.ADMIN):
        priority = Priority.NORMAL
    max_wait_s = _max_wait_s(request.headers.get(MAX_WAIT_HEADER))
    if services_of(request).cache is None:
        return Wish(priority, max_wait_s)
    control = ", ".join(request.headers.getlist("cache-control"))
    return Wish(priority, max_wait_s, cache=request.headers.get(CACHE_HEADER, ""), cache_control=control)


def _max_wait_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_S:
        message = f"'X-Foundry-Max-Wait' must be a number of seconds above 0, and {_LONGEST_S:g} at most."
        raise InvalidInputError(message, param="X-Foundry-Max-Wait")
    return seconds
