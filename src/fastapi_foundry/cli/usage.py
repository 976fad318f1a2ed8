"""``fastapi-foundry usage``: the record of use, read straight from the database, whether the gateway runs or not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal

if TYPE_CHECKING:
    from fastapi_foundry.storage.usage import Grouping, UsageQuery, UsageRow

__all__ = ["usage"]

_HEADERS: Final = ("REQUESTS", "FAILED", "PROMPT", "COMPLETION", "TOKENS", "SECONDS")
_SUFFIXES: Final = (".csv", ".jsonl")


By = Literal["day", "key", "model"]


def usage(
    ctx: typer.Context,
    days: Annotated[int, typer.Option("--days", min=1, max=36_500, help="How many days, up to today (UTC).")] = 30,
    by: Annotated[By, typer.Option("--by", help="What to sum up by.")] = "day",
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write every row (day, key, model) into FILE, which ends in .csv or .jsonl and is not there yet.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show who used which model how much; what has been used in the last second may be missing."""
    from fastapi_foundry.services.usage_report import shown_rows, shown_total  # noqa: PLC0415 - --help need not pay
    from fastapi_foundry.storage.usage import UsageQuery  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    if export is not None and export.suffix not in _SUFFIXES:
        raise errors.InvalidInputError(f"'{export}' must end in .csv or .jsonl.", param="export")
    today = datetime.fromtimestamp(time.time(), UTC).date()
    first, last = (today - timedelta(days=days - 1)).isoformat(), today.isoformat()
    group: Grouping = "none" if export is not None else by
    rows = _rows(ctx, UsageQuery(first, last, group=group))
    shown = shown_rows(rows, group)
    if export is not None:
        _write(export, shown)
        terminal.document({"from": first, "to": last, "file": str(export.absolute()), "count": len(shown)})
        terminal.say(f"{len(shown)} rows written to {export}")
        return
    total = shown_total(rows)
    terminal.document({"from": first, "to": last, "group": group, "usage": shown, "total": total})
    if not shown:
        terminal.say(f"Nothing has been used since {first}.")
        return
    table = [(_name(row, by), *_figures(row)) for row in shown]
    terminal.table((by.upper(), *_HEADERS), [*table, ("in all", *_figures(total))])


def _rows(ctx: typer.Context, query: UsageQuery) -> list[UsageRow]:
    from fastapi_foundry.services.usage_report import MOST_ROWS  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.storage.database import open_database  # noqa: PLC0415 - as above
    from fastapi_foundry.storage.usage import UsageStore  # noqa: PLC0415 - as above

    settings = invocation(ctx).settings()

    async def run() -> list[UsageRow]:
        database = await open_database(settings)
        try:
            return await UsageStore(database).rows(query, limit=MOST_ROWS + 1)
        finally:
            await database.aclose()

    import asyncio  # noqa: PLC0415 - --help need not pay for it

    rows = asyncio.run(run())
    if len(rows) > MOST_ROWS:
        raise errors.InvalidInputError(f"These are more than {MOST_ROWS} rows; ask for fewer --days.", param="days")
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from fastapi_foundry.wire.tables import as_csv, as_json_lines  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.wire.usage import usage_columns  # noqa: PLC0415 - as above

    text = as_csv(usage_columns("none"), rows) if path.suffix == ".csv" else as_json_lines(rows)
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError:
        raise errors.InvalidInputError(f"There is a file '{path}' already; name another.", param="export") from None
    except OSError as error:
        raise errors.InvalidInputError(f"'{path}' cannot be written: {error.strerror}.", param="export") from None


def _name(row: dict[str, Any], by: By) -> str:
    if by == "key" and row["key_name"]:
        return f"{row['key_name']} ({row['key']})"
    return str(row[by])


def _figures(row: dict[str, Any]) -> tuple[object, ...]:
    whole = ("requests", "failures", "prompt_tokens", "completion_tokens", "total_tokens")
    return (*(row[name] for name in whole), f"{row['duration_s']:.1f}")
