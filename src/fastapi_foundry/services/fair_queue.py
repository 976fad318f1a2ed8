"""Who of those that wait is next: start-time fair queueing over measured time, within classes of priority.

The scheme is that of Goyal, Vin and Cheng (*Start-time Fair Queueing*, 1996), with the time that places were held for
as the cost, which is known afterwards alone: while a request runs, it counts for the average, or for what it has
taken where that is more. What a flow used while nobody waited costs it nothing, and what it left unused earns nothing.

Pure: nothing here waits or reads a clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

__all__ = ["FairQueue", "Priority", "Turn"]

_MOST_ACCOUNTS: Final = 1024


class Priority(IntEnum):
    """The greater goes first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class Turn:
    """One request that waits or runs.

    Args:
        flow: Whose it is.
        level: Its class; rises while it waits and others go first.
        weight: The share of its flow, 1 for an ordinary one.

    Attributes:
        account: Where it is counted; the queue's own.
        since: When it began to run, in the queue's contended time; the queue's own.
    """

    __slots__ = ("account", "flow", "level", "since", "weight")

    def __init__(self, flow: str, level: Priority, weight: float) -> None:
        self.flow = flow
        self.level = level
        self.weight = weight
        self.account: Account[Any] | None = None
        self.since = 0.0


TurnT = TypeVar("TurnT", bound=Turn)


class Account(Generic[TurnT]):
    """What one flow has used in one class, and what of it waits and runs there.

    Attributes:
        settled: Virtual time that its ended requests have brought it to, in seconds.
        running: Requests under way.
        begun: The sum of their beginnings.
        turn_at: When it had its last turn, or began to wait for one.
        passed_over_at: Since when it waits for a turn while higher classes go first.
    """

    __slots__ = ("begun", "passed_over_at", "running", "settled", "turn_at", "waiting", "weight")

    def __init__(self) -> None:
        self.weight = 1.0
        self.settled = 0.0
        self.running = 0
        self.begun = 0.0
        self.waiting: OrderedDict[TurnT, None] = OrderedDict()
        self.turn_at = 0.0
        self.passed_over_at: float | None = None

    def used(self, time: float) -> float:
        """How far it has come by what it has had; never goes back."""
        return self.settled + (self.running * time - self.begun) / self.weight

    def virtual(self, time: float, service_s: float) -> float:
        """How far it will have come when what is under way has ended: the start of its next request."""
        if not self.running:
            return self.settled
        return self.settled + max(self.running * service_s, self.running * time - self.begun) / self.weight


class _Level(Generic[TurnT]):
    """One class of priority."""

    __slots__ = ("accounts", "backlog", "virtual", "waiting")

    def __init__(self) -> None:
        self.accounts: dict[str, Account[TurnT]] = {}
        self.backlog: dict[str, Account[TurnT]] = {}
        self.virtual = 0.0
        self.waiting = 0

    def account(self, turn: TurnT, time: float) -> Account[TurnT]:
        """Where ``turn`` is counted; a flow that comes anew, or comes back, starts no earlier than those that wait."""
        account = self.accounts.get(turn.flow)
        if account is None:
            account = self.accounts[turn.flow] = Account()
        if not account.running and not account.waiting:
            others = (other.used(time) for other in self.backlog.values())
            account.settled = max(account.settled, min(others, default=self.virtual))
        account.weight = turn.weight
        turn.account = account
        return account

    def tidy(self, flow: str, account: Account[TurnT]) -> None:
        """Forget an account that would begin anew just where it stands."""
        if account.running or account.waiting:
            return
        if account.settled <= self.virtual:
            del self.accounts[flow]
        elif len(self.accounts) > _MOST_ACCOUNTS:
            self.accounts = {key: kept for key, kept in self.accounts.items() if kept.running or kept.waiting}


class FairQueue(Generic[TurnT]):
    """Those that wait for the places of one lane, for as long as its places are not enough.

    Args:
        running: Who has the places.
        aging_s: For how long a flow may wait for a turn while higher classes go first, in seconds; its next request
            is moved one class up then.

    Attributes:
        waiting: How many wait.
    """

    def __init__(self, running: Iterable[TurnT], aging_s: float) -> None:
        self.waiting = 0
        self._levels: tuple[_Level[TurnT], ...] = tuple(_Level() for _ in Priority)
        self._held: dict[str, int] = {}
        self._aging_s = aging_s
        # Seconds during which somebody has been waiting: nothing else is worth sharing.
        self._contended = 0.0
        self._waited_from = 0.0
        for turn in running:
            self._begin(turn, self._levels[turn.level].account(turn, 0.0), 0.0)

    def __iter__(self) -> Iterator[TurnT]:
        for level in self._levels:
            for account in level.backlog.values():
                yield from account.waiting

    @property
    def flows(self) -> int:
        """How many flows wait."""
        return len(self._held)

    def held(self, flow: str) -> int:
        """How many of that flow wait."""
        return self._held.get(flow, 0)

    def waiting_at(self, level: Priority) -> int:
        """How many wait in that class."""
        return self._levels[level].waiting

    def add(self, turn: TurnT, now: float) -> None:
        """Let ``turn`` wait."""
        if not self.waiting:
            self._waited_from = now
        self.waiting += 1
        self._held[turn.flow] = self._held.get(turn.flow, 0) + 1
        account = self._put(turn, now)
        if account.passed_over_at is None and self._top() > turn.level:
            account.passed_over_at = now

    def discard(self, turn: TurnT, now: float) -> None:
        """Let ``turn``, which waits, wait no longer."""
        level, account = self._levels[turn.level], self._pull(turn)
        level.tidy(turn.flow, account)
        self._count_out(turn, now)

    def take(self, now: float, service_s: float) -> TurnT:
        """The next of those that wait, of whom there is one at least; it runs from now on.

        Args:
            now: Monotonic seconds.
            service_s: What a request takes on average, in seconds.
        """
        top = self._top()
        if self.waiting > self._levels[top].waiting:
            self._lift(top, now)
        level, time = self._levels[top], self._time(now)
        overdue_at = now - self._aging_s
        # Between equals, whoever asks for less, unless another has waited for long: ever new flows are all equals.
        virtual, *_, account = min(
            (own.virtual(time, service_s), own.turn_at > overdue_at, own.running, len(own.waiting), order, own)
            for order, own in enumerate(level.backlog.values())
        )
        turn = next(iter(account.waiting))
        self._pull(turn)
        self._count_out(turn, now)
        level.virtual = max(level.virtual, virtual)
        account.passed_over_at = None
        account.turn_at = now
        self._begin(turn, account, time)
        return turn

    def end(self, turn: TurnT, now: float) -> None:
        """``turn`` runs no longer; its flow is charged with what it really took."""
        account = turn.account
        if account is None:
            return
        account.running -= 1
        # Not left over from rounding.
        account.begun = account.begun - turn.since if account.running else 0.0
        account.settled += (self._time(now) - turn.since) / account.weight
        self._levels[turn.level].tidy(turn.flow, account)

    def ahead_of(self, turn: TurnT, now: float, service_s: float) -> int:
        """How many of those that wait now are likely to go before ``turn``, which waits."""
        own = turn.account
        if own is None:
            return 0
        ahead = sum(level.waiting for level in self._levels[turn.level + 1 :])
        before = len(own.waiting) - 1
        if next(reversed(own.waiting)) is not turn:
            before = next(order for order, other in enumerate(own.waiting) if other is turn)
        time = self._time(now)
        start = own.virtual(time, service_s) + before * service_s / own.weight
        for account in self._levels[turn.level].backlog.values():
            if account is own:
                continue
            lead = (start - account.virtual(time, service_s)) * account.weight / service_s
            ahead += min(len(account.waiting), max(0, math.ceil(lead)))
        return ahead + before

    def _top(self) -> Priority:
        return next((level for level in reversed(Priority) if self._levels[level].waiting), Priority.LOW)

    def _lift(self, top: Priority, now: float) -> None:
        """Move up what was passed over for too long; from the top, so that nobody takes two steps at once."""
        for below in reversed([level for level in Priority if level < top]):
            for account in list(self._levels[below].backlog.values()):
                if account.passed_over_at is None:
                    account.passed_over_at = now
                elif now - account.passed_over_at >= self._aging_s:
                    account.passed_over_at = now
                    turn = next(iter(account.waiting))
                    self._pull(turn)
                    self._levels[below].tidy(turn.flow, account)
                    turn.level = Priority(below + 1)
                    self._put(turn, now)

    def _put(self, turn: TurnT, now: float) -> Account[TurnT]:
        level = self._levels[turn.level]
        account = level.account(turn, self._time(now))
        if not account.waiting:
            account.turn_at = now
        account.waiting[turn] = None
        level.backlog[turn.flow] = account
        level.waiting += 1
        return account

    def _pull(self, turn: TurnT) -> Account[TurnT]:
        level = self._levels[turn.level]
        account = level.backlog[turn.flow]
        del account.waiting[turn]
        level.waiting -= 1
        if not account.waiting:
            del level.backlog[turn.flow]
            account.passed_over_at = None
        return account

    def _count_out(self, turn: Turn, now: float) -> None:
        left = self._held[turn.flow] - 1
        if left:
            self._held[turn.flow] = left
        else:
            del self._held[turn.flow]
        self.waiting -= 1
        if not self.waiting:
            self._contended += now - self._waited_from

    def _begin(self, turn: TurnT, account: Account[TurnT], time: float) -> None:
        account.running += 1
        account.begun += time
        turn.since = time

    def _time(self, now: float) -> float:
        return self._contended + (now - self._waited_from if self.waiting else 0.0)
