"""A request's turn at its model: the queue before the engine, and what can be told to who waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.admission import Admission, Place, Priority
from fastapi_foundry.services.usage import LOCAL_KEY

__all__ = ["Progress", "Turns", "Wish"]

_READY_STATES: Final = frozenset({"loaded", "in_use", "unknown"})


class Progress:
    """Where a request is, in words for a comment of its stream; written by the services, read by the edge."""

    __slots__ = ("model_state", "place")

    def __init__(self) -> None:
        self.place: Place | None = None
        self.model_state: Callable[[], str] | None = None

    def __str__(self) -> str:
        """``queued position=3 eta_s=4.1``, ``loading`` or ``prefill``."""
        place = self.place
        if place is not None and not place.granted:
            eta_s = place.eta_s
            return f"queued position={place.position}" + ("" if eta_s is None else f" eta_s={eta_s:.1f}")
        if self.model_state is not None and self.model_state() not in _READY_STATES:
            return "loading"
        return "prefill"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request is to be treated on its way to an answer.

    Attributes:
        max_wait_s: For how long it may wait in the queue, in seconds, where that is less than the settings allow.
        progress: Where it is, for whoever waits.
        cache: What it says of the cache of answers, ``on`` or ``off``: see ``cache_rules.cache_use``.
        cache_control: Its header of that name, likewise.
    """

    priority: Priority = Priority.NORMAL
    max_wait_s: float | None = None
    progress: Progress = field(default_factory=Progress)
    cache: str = ""
    cache_control: str = ""


class Turns:
    """Who may ask an engine now.

    Args:
        admission: The queues.
        lane: Which one a model's requests stand in, and how many places there are.
        state: A model's state, by its full id, as it was last known.
    """

    def __init__(
        self, admission: Admission, lane: Callable[[str], tuple[str, int]], state: Callable[[str], str]
    ) -> None:
        self._admission = admission
        self._lane = lane
        self._state = state

    @asynccontextmanager
    async def turn(
        self,
        model: str,
        model_id: str,
        principal: Principal,
        wish: Wish,
    ) -> AsyncIterator[float]:
        """Wait for a place at the model and hold it; gives the seconds that this took.

        Raises:
            QueueFullError: It must not wait.
            QueueTimeoutError: It has waited for as long as it may.
        """
        lane, capacity = self._lane(model)
        flow = principal.key_id or LOCAL_KEY
        place = self._admission.enter(lane, flow, capacity, priority=wish.priority, deadline_s=wish.max_wait_s)
        try:
            wish.progress.place, wish.progress.model_state = place, lambda: self._state(model_id)
            if not place.granted:
                await place.wait()
                yield place.waited_s
            else:
                yield 0.0
        finally:
            place.leave()
