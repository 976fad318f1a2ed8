"""The record of use as people and programs get to see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.storage.usage import Grouping, UsageFigures, UsageRow
from fastapi_foundry.wire.usage import usage_figures

__all__ = ["MOST_ROWS", "days_between", "shown_rows", "shown_total"]

MOST_ROWS: Final = 100_000
"""Rows of one report; a year of thirty keys with nine models."""
_DEFAULT_DAYS: Final = 30


def days_between(first: str | None, last: str | None, *, now: float) -> tuple[str, str]:
    """The first and the last day of a report: thirty up to today (UTC) where nothing is said.

    Raises:
        InvalidInputError: One is no day, or the first comes after the last.
    """
    until = _day(last, "to") if last is not None else datetime.fromtimestamp(now, UTC).date()
    since = _day(first, "from") if first is not None else _before(until, _DEFAULT_DAYS - 1)
    if since > until:
        raise InvalidInputError(f"'from' ({since}) comes after 'to' ({until}).", param="from")
    return since.isoformat(), until.isoformat()


def shown_rows(rows: Iterable[UsageRow], group: Grouping) -> list[dict[str, Any]]:
    """The rows in the form of the API."""
    shown = []
    for row in rows:
        names: dict[str, Any] = {"day": row.day, "key": row.key_id, "key_name": row.key_name, "model": row.model}
        kept = names if group == "none" else {name: names[name] for name in names if name.partition("_")[0] == group}
        shown.append(kept | usage_figures(*astuple(row.figures)))
    return shown


def shown_total(rows: Iterable[UsageRow]) -> dict[str, Any]:
    """The sum of all rows."""
    total = UsageFigures()
    for row in rows:
        total.add(row.figures)
    return usage_figures(*astuple(total))


def _before(day: date, days: int) -> date:
    return max(day, date.min + timedelta(days=days)) - timedelta(days=days)


def _day(text: str, param: str) -> date:
    try:
        if len(text) == len("2026-01-31"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidInputError(f"'{param}': must be a day such as 2026-01-31.", param=param)
