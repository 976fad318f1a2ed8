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

    def take_now(self, principal: Principal, clock: float) -> Ticket | None:
        """A ticket where it can be had at once; None, and nothing counted, where ``take`` has to be asked.

        Args:
            clock: The monotonic time, in seconds.
        """
        if self._shared.in_use:
            return None
        known = self._known.get(principal.key_id or LOCAL_KEY)
        if known is None or known[0] is not principal:
            gates, notice = self._gates(principal)
        else:
            _, gates, notice = known
        now, budgets = self._now(), self._budgets
        for gate in gates:
            if not gate.admits(clock):
                return None
            if gate.budgets is not None and not budgets.has_room(gate.name, gate.budgets, now):
                return None
        for gate in gates:
            gate.under_way += 1
            requests = gate.requests  # it stands at this second, since it has just been asked
            requests.total += 1
            requests.current += 1
        return Ticket(self, gates, notice, 1)

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
        if not tokens:
            return
        now = self._clock()
        known = self._known.get(principal.key_id or LOCAL_KEY)
        gates = known[1] if known is not None and known[0] is principal else self._gates(principal)[0]
        for gate in gates:
            gate.tokens.add(tokens, now)
            if gate.limits.tokens_per_minute is not None and self._shared.in_use:
                self._shared.add(f"{gate.name}:tokens", tokens)

    def meter(self, principal: Principal) -> Meter | None:
        """What watches over the budgets of a stream under way; None where there are none."""
        gates = [gate for gate in self._gates(principal)[0] if gate.budgets is not None]
        return Meter(self, gates) if gates else None

    def charge(self, gates: Sequence[Gate], tokens: int) -> bool:
        """Count tokens of a stream under way; whether a budget had been passed before."""
        now, budgets, passed = self._now(), self._budgets, False
        for gate in gates:
            if gate.budgets is not None:
                passed |= budgets.charge(gate.name, gate.budgets, tokens, now)
        return passed

    def budget_refusal(self, gates: Sequence[Gate], *, under_way: bool) -> TokenBudgetExceededError | None:
        """The first budget that has come to its end; one that is just used up counts for new requests alone."""
        for gate in gates:
            if gate.budgets is not None and self._budgets.reached(gate.name, gate.budgets, passed=under_way):
                return self._budget_error(gate, under_way=under_way)
        return None

    def levels(self, ticket: Ticket) -> tuple[list[int], list[int]]:
        """What is left of the limits that the ticket speaks of, and in how many seconds they are free again."""
        clock, now, notice = self._clock(), self._now(), ticket.notice
        left, resets = notice.left(clock, now, self._budgets), notice.resets(clock, now)
        for at, (kind, _) in enumerate(notice.shape if ticket.shared else ()):
            if kind in ticket.shared:
                # One that has just been started knows less than this process.
                theirs, their_reset_s = ticket.shared[kind]
                left[at], resets[at] = min(left[at], theirs), max(resets[at], their_reset_s)
        return left, resets

    def left(self, notice: Notice) -> tuple[list[int], tuple[float, ...]]:
        """What is left of the limits of ``notice`` in this process, and its ``moment``."""
        clock, now = self._clock(), self._now()
        return notice.left(clock, now, self._budgets), notice.moment(clock, now)

    def resets(self, notice: Notice) -> list[int]:
        """In how many seconds they are free again."""
        return notice.resets(self._clock(), self._now())

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
