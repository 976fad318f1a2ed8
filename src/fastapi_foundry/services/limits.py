"""Limits: requests and tokens per minute, requests at the same time, tokens per day and month; by key and for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from fastapi_foundry.errors import FoundryError, TokenBudgetExceededError
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.budgets import EVERYBODY, periods
from fastapi_foundry.services.limit_gates import Gate, Notice
from fastapi_foundry.services.limit_tickets import Meter, Ticket
from fastapi_foundry.services.shared_windows import NoSharedWindows, SharedWindows
from fastapi_foundry.services.usage import LOCAL_KEY, UsageService

__all__ = ["LimitsService"]

_FIRST_SWEEP: Final = 1024
_DAY_S: Final = 86_400


class LimitsService:
    """Lets requests in, or says which limit they would pass.

    Args:
        server: For all clients together.
        usage: Knows the tokens of the day and the month.
        shared: Windows that several processes share.
        now: Seconds since 1970.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        server: KeyLimits,
        usage: UsageService,
        shared: SharedWindows | NoSharedWindows | None = None,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = (Gate(EVERYBODY, "This server", server),) if server.any else ()
        self._usage = usage
        self._budgets = usage.budgets
        self._shared = shared or NoSharedWindows()
        self._now = now
        self._clock = clock
        self._known: dict[str, tuple[Principal, tuple[Gate, ...], Notice]] = {}
        self._sweep_at = _FIRST_SWEEP

    async def start(self) -> None:
        """Connect to what holds the shared windows; does not wait for it."""
        await self._shared.start()

    async def aclose(self) -> None:
        """Let go of it."""
        await self._shared.aclose()

    def apply_to(self, principal: Principal) -> bool:
        """Whether anything limits that one; where nothing does, nothing else here needs to be called."""
        return bool(self._server) or principal.limits.any

    def take_now(self, principal: Principal) -> Ticket | None:
        """A ticket where it can be had at once; None, and nothing counted, where ``take`` has to be asked."""
        if self._shared.in_use:
            return None
        gates, notice = self._gates(principal)
        now, day = self._clock(), int(self._now() // _DAY_S)
        for gate in gates:
            if not gate.admits(now):
                return None
            if gate.budgets is not None and not self._budgets.has_room(gate.name, gate.budgets, day):
                return None
        for gate in gates:
            gate.requests.add(1, now)
        ticket = Ticket(self, gates, notice)
        ticket.enter()
        return ticket

    async def take(self, principal: Principal) -> Ticket:
        """A ticket for one request, to be released at its end; its ``refusal`` says why it is not let in, if so.

        Raises:
            StorageError: What has been used cannot be found out.
        """
        gates, notice = self._gates(principal)
        ticket = Ticket(self, gates, notice)
        if not ticket.enter():
            return ticket
        try:
            unread = [gate.name for gate in gates if gate.budgets is not None and not self._budgets.knows(gate.name)]
            if unread:
                await self._usage.watch(*unread)
            ticket.refusal = self.budget_refusal(gates, under_way=False) or await self.take_requests(ticket, 1)
        except BaseException:
            ticket.release()
            raise
        if ticket.refusal is not None:
            ticket.release()
        return ticket

    async def take_requests(self, ticket: Ticket, requests: int) -> FoundryError | None:
        """Count for so many requests, if they fit into the minute and its tokens are not used up; else, why not."""
        now, gates = self._clock(), ticket.gates
        for gate in gates:
            if (refusal := gate.refusal(requests, now)) is not None:
                return refusal
        if self._shared.in_use:
            refusal, shared = await self._shared.take(gates, requests)
            of = ticket.notice.of
            ticket.shared = {kind: (left, reset) for gate, kind, left, reset in shared if of[kind] is gate}
            if refusal is not None:
                return refusal
        for gate in gates:
            gate.requests.add(requests, now)
        return None

    def spend(self, principal: Principal, tokens: int) -> None:
        """Count tokens that have been used; never waits."""
        now = self._clock()
        for gate in self._gates(principal)[0]:
            gate.tokens.add(tokens, now)
            if gate.limits.tokens_per_minute is not None:
                self._shared.add(f"{gate.name}:tokens", tokens)

    def meter(self, principal: Principal) -> Meter | None:
        """What watches over the budgets of a stream under way; None where there are none."""
        gates = [gate for gate in self._gates(principal)[0] if gate.budgets is not None]
        return Meter(self, gates) if gates else None

    def charge(self, gates: Sequence[Gate], tokens: int) -> None:
        """Count tokens of a stream under way."""
        for gate in gates:
            self._budgets.charge(gate.name, tokens)

    def budget_refusal(self, gates: Sequence[Gate], *, under_way: bool) -> TokenBudgetExceededError | None:
        """The first budget that has come to its end; one that is just used up counts for new requests alone."""
        for gate in gates:
            if gate.budgets is not None and self._budgets.reached(gate.name, gate.budgets, passed=under_way):
                return self._budget_error(gate, under_way=under_way)
        return None

    def values(self, ticket: Ticket) -> list[int]:
        """How full the limits are that the ticket speaks of."""
        return ticket.notice.values(self._clock(), self._now(), self._budgets, ticket.shared)

    def _budget_error(self, gate: Gate, *, under_way: bool) -> TokenBudgetExceededError | None:
        now = self._now()
        how = "this answer ends here because they are used up" if under_way else "they are used up"
        used = self._budgets.spent(gate.name)
        for (kind, _, ends), limit, tokens in zip(periods(now), gate.budgets or (), used, strict=True):
            if limit is not None and tokens >= limit + int(under_way):
                word, at = kind.rpartition("-")[2], datetime.fromtimestamp(ends, UTC)
                return TokenBudgetExceededError(
                    f"{gate.words} is limited to {limit} tokens per {word} and {how}; "
                    f"the {word} ends at {at:%Y-%m-%dT%H:%M:%SZ}.",
                    retry_after_s=ends - now,
                )
        return None

    def _gates(self, principal: Principal) -> tuple[tuple[Gate, ...], Notice]:
        """The key's own first, so that a refusal names its limit where both are reached."""
        name = principal.key_id or LOCAL_KEY
        known = self._known.get(name)
        # A key that has been read anew is another object, with other limits perhaps.
        if known is not None and known[0] is principal:
            return known[1], known[2]
        gates = self._server
        if principal.limits.any:
            own = known[1][0] if known is not None and len(known[1]) > len(self._server) else None
            if own is None:
                own = Gate(name, f"The key '{principal.name}'", principal.limits)
            own.renew(principal.limits)
            gates = (own, *gates)
        if len(self._known) >= self._sweep_at:
            self._sweep()
        notice = Notice(gates)
        self._known[name] = principal, gates, notice
        return gates, notice

    def _sweep(self) -> None:
        """Forget gates that count nothing, so that there are about as many as keys in use."""
        now = self._clock()
        self._known = {
            name: (principal, gates, notice)
            for name, (principal, gates, notice) in self._known.items()
            if any(gate.under_way or gate.requests.held(now) or gate.tokens.held(now) for gate in gates[:1])
        }
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._known))
