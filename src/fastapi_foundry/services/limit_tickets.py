"""What a request holds while it is under way: its places, and the watch over budgets."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from fastapi_foundry.errors import FoundryError, TokenBudgetExceededError
from fastapi_foundry.services.limit_gates import Gate, Notice, Shape

_NOTHING_SHARED: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({})

__all__ = ["FREE_TICKET", "FreeTicket", "Meter", "Ticket", "TicketOffice"]


class TicketOffice(Protocol):
    """What a ticket needs of the service that handed it out."""

    def budget_refusal(self, gates: Sequence[Gate], *, under_way: bool) -> TokenBudgetExceededError | None:
        """Which budget has come to its end; one that is just used up counts for new requests alone."""
        ...

    def take_requests(self, ticket: Ticket, requests: int) -> Awaitable[FoundryError | None]:
        """Count for so many requests, or say why not."""
        ...

    def levels(self, ticket: Ticket) -> tuple[list[int], list[int]]:
        """What is left of the limits of its notice, and in how many seconds they are free again."""
        ...

    def charge(self, gates: Sequence[Gate], tokens: int) -> bool:
        """Count tokens of a stream under way; whether a budget had been passed before."""
        ...


class Ticket:
    """One request that has been let in, or the reason why not.

    Args:
        office: Who handed it out.
        gates: Where it is counted.
        notice: What is to be said about that.
        places: Those that it has been given already.

    Attributes:
        refusal: Why it is not let in.
        shared: By kind, how full the windows are that several processes share, where there are such.
        places: Those that it has among what is under way.
    """

    __slots__ = ("_office", "gates", "notice", "places", "refusal", "shared")

    def __init__(self, office: TicketOffice, gates: Sequence[Gate], notice: Notice, places: int = 0) -> None:
        self.gates = gates
        self.notice = notice
        self.refusal: FoundryError | None = None
        self.shared: Mapping[str, tuple[int, int]] = _NOTHING_SHARED
        self._office = office
        self.places = places

    def levels(self) -> tuple[Shape, list[int], list[int]]:
        """Which limits there are, what is left of them, and in how many seconds they are free again: see ``Notice``."""
        return self.notice.shape, *self._office.levels(self)

    def enter(self) -> bool:
        """Take a place among those under way; else ``refusal`` says who has none."""
        for gate in self.gates:
            limit = gate.limits.concurrent_requests
            if limit is not None and gate.under_way >= limit:
                self.refusal = gate.no_place()
                return False
        for gate in self.gates:
            gate.under_way += 1
        self.places = 1
        return True

    def add_places(self, wanted: int) -> int:
        """Take up to ``wanted`` places more, for a request that does several things at the same time."""
        taken = min((gate.places(wanted) for gate in self.gates), default=wanted)
        for gate in self.gates:
            gate.under_way += taken
        self.places += taken
        return taken

    def budget_refusal(self) -> TokenBudgetExceededError | None:
        """Which budget is used up by now."""
        return self._office.budget_refusal(self.gates, under_way=False)

    async def take_more(self, requests: int) -> None:
        """Count for so many requests more than the one that it has been handed out for.

        Raises:
            LimitExceededError: They do not fit into this minute.
            InvalidInputError: They do not fit into any.
        """
        for gate in self.gates:
            gate.check_batch(requests + 1)
        if requests and (refusal := await self._office.take_requests(self, requests)) is not None:
            raise refusal

    def release(self) -> None:
        """Give all places back; may be called twice."""
        places, self.places = self.places, 0
        for gate in self.gates:
            gate.under_way -= places


class FreeTicket:
    """The ticket of a request that nothing limits."""

    def add_places(self, wanted: int) -> int:
        """All of them."""
        return wanted

    def budget_refusal(self) -> None:
        """There are no budgets."""

    async def take_more(self, requests: int) -> None:
        """Nothing to count."""

    def release(self) -> None:
        """Nothing to give back."""


FREE_TICKET: Final = FreeTicket()


class Meter:
    """Watches over the budgets of one stream.

    Args:
        office: Knows what has been used.
        gates: Those that have budgets.
    """

    __slots__ = ("_charged", "_gates", "_office")

    def __init__(self, office: TicketOffice, gates: Sequence[Gate]) -> None:
        self._office = office
        self._gates = gates
        self._charged = 0

    def charge(self, tokens: int) -> bool:
        """Count tokens that pass; whether a budget had been passed before, by this stream and all others together."""
        self._charged += tokens
        return self._office.charge(self._gates, tokens)

    def refusal(self) -> TokenBudgetExceededError | None:
        """Which budget has been passed."""
        return self._office.budget_refusal(self._gates, under_way=True)

    def settle(self) -> None:
        """What was charged is recorded as used from now on."""
        if self._charged:
            self.charge(-self._charged)
