"""Tokens of this day and this month (UTC), by key and of all together: what the database holds and what it does not yet."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Final, NamedTuple

from fastapi_foundry.storage.usage import UsageFigures, UsageStore

__all__ = ["EVERYBODY", "Budgets", "Period", "periods"]

EVERYBODY: Final = ""
"""The name under which the tokens of all together are counted; no key has it."""

_DAY_S: Final = 86_400
_EPOCH: Final = date(1970, 1, 1)
_FORGOTTEN_AFTER_S: Final = 600.0


class Period(NamedTuple):
    """A time that has a budget of its own; its ends are in seconds since 1970."""

    kind: str
    begins: int
    ends: int


class Budgets:
    """Figures are kept for those alone who were asked about; with nobody asked about, counting costs nothing.

    Other processes' tokens come in with every ``exchange``. What belongs to streams under way is counted as it passes
    (``charge``), so that all streams of a key see the end of its budget at the same moment.

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._totals: dict[str, _Total] = {}

    @property
    def in_use(self) -> bool:
        """Whether anybody's tokens are counted."""
        return bool(self._totals)

    def watch(self, name: str) -> None:
        """Count that one's tokens from now on; ``spent`` knows them after the next ``exchange`` and ``read_past``."""
        if name not in self._totals:
            now = self._now()
            self._totals[name] = _Total(int(now // _DAY_S), now)

    def spent(self, name: str, now: float | None = None) -> tuple[int, int]:
        """Tokens that one has used since midnight and since the first of the month, UTC, as far as it is known.

        Args:
            now: Where the time is known already.
        """
        total = self._totals.get(name)
        if total is None:
            return 0, 0
        if now is None:
            now = self._now()
        total.asked_at = now
        if not total.begins <= now < total.ends:
            total.roll(int(now // _DAY_S))
        day = total.today + total.writing + total.live + total.in_flight
        return day, total.past + day

    def knows(self, name: str) -> bool:
        """Whether it has been read what that one has used."""
        total = self._totals.get(name)
        return total is not None and total.known

    def has_room(self, name: str, limits: tuple[int | None, int | None], now: float) -> bool:
        """Whether it is known that there is something left of a day and a month."""
        total = self._totals.get(name)
        if total is None or not total.known or not total.begins <= now < total.ends:
            return False
        spent = total.today + total.writing + total.live + total.in_flight
        daily, monthly = limits
        return (daily is None or spent < daily) and (monthly is None or total.past + spent < monthly)

    def reached(self, name: str, limits: tuple[int | None, int | None], *, passed: bool) -> bool:
        """Whether that one has used all that it may of a day or a month, or more (``passed``)."""
        total = self._totals.get(name)
        if total is None:
            return False
        now = total.asked_at = self._now()
        total.roll(int(now // _DAY_S))
        day = total.today + total.writing + total.live + total.in_flight
        beyond = int(passed)
        daily, monthly = limits
        return (daily is not None and day >= daily + beyond) or (
            monthly is not None and total.past + day >= monthly + beyond
        )

    def add(self, key_id: str, tokens: int, now: float) -> None:
        """Count tokens that are on their way to the database; ``now`` is the time, in seconds since 1970."""
        if not self._totals:
            return
        for name in (key_id, EVERYBODY):
            if (total := self._totals.get(name)) is not None:
                if not total.begins <= now < total.ends:
                    total.roll(int(now // _DAY_S))
                total.live += tokens

    def charge(self, name: str, limits: tuple[int | None, int | None], tokens: int, now: float) -> bool:
        """Count tokens of a stream under way; with a negative number, take back what ``add`` counts from now on.

        Returns:
            Whether more than one of ``limits``, those of a day and of a month, had been used before.
        """
        total = self._totals.get(name)
        if total is None:
            return False
        total.asked_at = now
        if not total.begins <= now < total.ends:
            total.roll(int(now // _DAY_S))
        spent = total.today + total.writing + total.live + total.in_flight
        total.in_flight += tokens
        daily, monthly = limits
        return (daily is not None and spent > daily) or (monthly is not None and total.past + spent > monthly)

    async def exchange(self, store: UsageStore, figures: Iterable[tuple[str, str, str, UsageFigures]]) -> None:
        """Write figures that ``add`` has counted, and take over what the database says then.

        Raises:
            StorageError: Nothing has been written, and nothing is changed here.
        """
        now = self._now()
        day = int(now // _DAY_S)
        self._forget(now)
        for total in self._totals.values():
            total.roll(day)
            total.writing, total.live = total.live, 0
        try:
            found = await store.add_and_ask(figures, _date(day).isoformat(), list(self._totals))
        except BaseException:
            for total in self._totals.values():
                total.live += total.writing
                total.writing = 0
            raise
        for name, total in self._totals.items():
            if total.day == day and name in found:
                total.today = found[name]
            total.writing = 0

    async def read_past(self, store: UsageStore) -> None:
        """Read the month's days before this one, which do not change any more, for those who lack them.

        Raises:
            StorageError: They go on with what is known in this process, or without a figure if they are new.
        """
        day = int(self._now() // _DAY_S)
        today = _date(day)
        first = today.replace(day=1)
        due = [name for name, total in self._totals.items() if total.past_due and total.day == day]
        past: dict[str, int] = {}
        if due and first < today:
            past = await store.tokens(first.isoformat(), (today - timedelta(days=1)).isoformat(), due)
        for name in due:
            if (total := self._totals.get(name)) is not None and total.day == day:
                total.past, total.past_due, total.known = past.get(name, 0), False, True

    def _forget(self, now: float) -> None:
        old = now - _FORGOTTEN_AFTER_S
        kept = {name: total for name, total in self._totals.items() if total.asked_at > old or total.in_flight}
        self._totals = kept


class _Total:
    """The tokens of one key, or of all.

    Attributes:
        day: Days since 1970; what ``today`` is about.
        begins: When that day begins, in seconds since 1970.
        ends: Likewise.
        past: Of this month's days before it.
        today: In the database.
        writing: On the way into it at this moment.
        live: Recorded, and still to be written.
        in_flight: Of streams under way.
    """

    __slots__ = (
        "asked_at",
        "begins",
        "day",
        "ends",
        "in_flight",
        "known",
        "live",
        "past",
        "past_due",
        "today",
        "writing",
    )

    def __init__(self, day: int, now: float) -> None:
        self._begin(day)
        self.asked_at = now
        self.past = self.today = self.writing = self.live = self.in_flight = 0
        self.past_due = True
        self.known = False

    def roll(self, day: int) -> None:
        """Begin a new day, and a new month where that has come."""
        if day == self.day:
            return
        before, after = _date(self.day), _date(day)
        same_month = (before.year, before.month) == (after.year, after.month)
        self.past = self.past + self.today + self.writing + self.live if same_month else 0
        self.today = self.writing = self.live = 0
        self._begin(day)
        self.past_due = True

    def _begin(self, day: int) -> None:
        self.day = day
        self.begins = float(day * _DAY_S)  # a float is compared with another in no time
        self.ends = self.begins + _DAY_S


def periods(now: float) -> tuple[Period, Period]:
    """This day and this month, UTC."""
    return _periods_of_day(int(now // _DAY_S))


@functools.lru_cache(maxsize=4)
def _periods_of_day(day: int) -> tuple[Period, Period]:
    first = _date(day).replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return (
        Period("tokens-per-day", day * _DAY_S, (day + 1) * _DAY_S),
        Period("tokens-per-month", (first - _EPOCH).days * _DAY_S, (following - _EPOCH).days * _DAY_S),
    )


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
