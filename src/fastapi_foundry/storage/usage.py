"""The record of use: one row for each day (UTC), key and model, to which figures are added."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, and_, delete, func, literal, select, union_all

from fastapi_foundry.storage.database import AsyncConnection, Database
from fastapi_foundry.storage.tables import api_keys, usage_daily

__all__ = ["Grouping", "UsageFigures", "UsageQuery", "UsageRow", "UsageStore"]

Grouping = Literal["day", "key", "model", "none"]

_FIGURES: Final = ("requests", "failures", "prompt_tokens", "completion_tokens", "duration_s")
_COLUMNS: Final = {"day": usage_daily.c.day, "key": usage_daily.c.key_id, "model": usage_daily.c.model}
_TOKENS: Final = usage_daily.c.prompt_tokens + usage_daily.c.completion_tokens
_NAMES_AT_ONCE: Final = 500  # SQLite may be built to take no more than 999 values in one statement


@dataclass(slots=True)
class UsageFigures:
    """What was used; ``duration_s`` is the time that requests took, all together."""

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_s: float = 0.0

    def add(self, other: UsageFigures) -> None:
        """Count ``other`` in."""
        self.requests += other.requests
        self.failures += other.failures
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.duration_s += other.duration_s


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Figures of a day, a key, a model, or of all three together; what they are not of is None.

    Attributes:
        key_name: The name of the key, where there still is one of that id.
    """

    day: str | None
    key_id: str | None
    key_name: str | None
    model: str | None
    figures: UsageFigures


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which rows: from the first to the last day, both included (``YYYY-MM-DD``), of one key or model or of all."""

    first_day: str
    last_day: str
    key_id: str | None = None
    model: str | None = None
    group: Grouping = "day"


class UsageStore:
    """Every call raises ``StorageError`` when the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, figures: Iterable[tuple[str, str, str, UsageFigures]]) -> None:
        """Add figures (day, key id, model, figures) to what is recorded; all of them or none."""
        await self.add_and_ask(figures, "", ())

    async def add_and_ask(
        self, figures: Iterable[tuple[str, str, str, UsageFigures]], day: str, names: Collection[str]
    ) -> dict[str, int]:
        """The same, and in the same transaction what ``tokens`` would say of one day."""
        rows = [
            dict(zip(("day", "key_id", "model", *_FIGURES), (*key, *astuple(each)), strict=True))
            for *key, each in figures
        ]
        if not rows:
            return await self.tokens(day, day, names) if names else {}
        # Several processes add to the same rows; in one order they wait for each other instead of dead-locking.
        rows.sort(key=lambda row: (row["day"], row["key_id"], row["model"]))
        statement = self._database.insert(usage_daily)
        sums = {name: usage_daily.c[name] + statement.excluded[name] for name in _FIGURES}
        adding = statement.on_conflict_do_update(index_elements=list(_COLUMNS.values()), set_=sums)
        async with self._database.transaction() as connection:
            await connection.execute(adding, rows)
            return await _tokens(connection, day, day, names)

    async def tokens(self, first_day: str, last_day: str, names: Collection[str]) -> dict[str, int]:
        """Tokens by key id, from the first to the last day; those of all together under ``""``, where that is asked for."""
        async with self._database.reading() as connection:
            return await _tokens(connection, first_day, last_day, names)

    async def rows(self, query: UsageQuery, *, limit: int) -> list[UsageRow]:
        """What was used, sorted by day or, without days, by tokens, the most first; at most ``limit`` rows."""
        async with self._database.reading() as connection:
            return [_row(row) for row in (await connection.execute(_selecting(query).limit(limit))).mappings()]

    async def prune(self, before_day: str) -> int:
        """Delete the days before that one; how many rows those were."""
        async with self._database.transaction() as connection:
            return int((await connection.execute(delete(usage_daily).where(usage_daily.c.day < before_day))).rowcount)


async def _tokens(connection: AsyncConnection, first_day: str, last_day: str, names: Collection[str]) -> dict[str, int]:
    found = dict.fromkeys(names, 0)
    keys = sorted(name for name in found if name)
    days = and_(usage_daily.c.day >= first_day, usage_daily.c.day <= last_day)
    queries: list[Any] = []
    for at in range(0, len(keys), _NAMES_AT_ONCE):
        these = usage_daily.c.key_id.in_(keys[at : at + _NAMES_AT_ONCE])
        queries.append(
            select(usage_daily.c.key_id, func.sum(_TOKENS)).where(days, these).group_by(usage_daily.c.key_id)
        )
    if "" in found:
        queries.append(select(literal(""), func.sum(_TOKENS)).where(days))
    joined: Any = union_all  # whose types mypy cannot follow
    for at in range(0, len(queries), 2):
        # One statement less, with every write of the record of use.
        statement = joined(*queries[at : at + 2]) if queries[at + 1 :] else queries[at]
        found |= {name: int(tokens or 0) for name, tokens in await connection.execute(statement)}
    return found


def _selecting(query: UsageQuery) -> Select[Any]:
    grouped: Sequence[ColumnElement[Any]] = (
        list(_COLUMNS.values()) if query.group == "none" else [_COLUMNS[query.group]]
    )
    sums = [func.sum(usage_daily.c[name]).label(name) for name in _FIGURES]
    wanted = [usage_daily.c.day >= query.first_day, usage_daily.c.day <= query.last_day]
    if query.key_id is not None:
        wanted.append(usage_daily.c.key_id == query.key_id)
    if query.model is not None:
        wanted.append(usage_daily.c.model == query.model)
    statement = select(*grouped, *sums).where(*wanted).group_by(*grouped)
    if query.group == "day":
        return statement.order_by(usage_daily.c.day)
    if query.group == "model":
        return statement.order_by(func.sum(_TOKENS).desc(), usage_daily.c.model)
    summed = statement.subquery()
    named = select(summed, api_keys.c.name.label("key_name")).outerjoin(api_keys, api_keys.c.id == summed.c.key_id)
    if query.group == "key":
        return named.order_by((summed.c.prompt_tokens + summed.c.completion_tokens).desc(), summed.c.key_id)
    return named.order_by(summed.c.day, summed.c.key_id, summed.c.model)


def _row(row: Any) -> UsageRow:
    # PostgreSQL's sums of whole numbers come as Decimal.
    requests, failures, prompt_tokens, completion_tokens, duration_s = (row[name] for name in _FIGURES)
    figures = UsageFigures(int(requests), int(failures), int(prompt_tokens), int(completion_tokens), float(duration_s))
    return UsageRow(row.get("day"), row.get("key_id"), row.get("key_name"), row.get("model"), figures)
