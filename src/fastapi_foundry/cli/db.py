"""``fastapi-foundry db``: the database, whether the gateway runs or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fastapi_foundry.cli import exits
from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal, megabytes

if TYPE_CHECKING:
    from fastapi_foundry.storage.address import DatabaseAddress

__all__ = ["build"]


def build(markup: Literal["rich"] | None) -> typer.Typer:
    """The command group."""
    app = typer.Typer(
        help="Back up, restore, check and upgrade the database.", no_args_is_help=True, rich_markup_mode=markup
    )
    app.command("upgrade")(upgrade)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("check")(check)
    return app


def upgrade(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Make the database if there is none, and bring its tables to this version; every start does the same."""
    from fastapi_foundry.storage.schema import ensure_schema  # noqa: PLC0415 - 0.3 s that --help need not pay for

    terminal = Terminal(json=as_json)
    with _database(ctx) as address, terminal.waiting("Looking at the tables"):
        report = ensure_schema(address)
    terminal.document(
        {
            "database": address.shown,
            "before": report.before,
            "after": report.after,
            "changed": report.changed,
            "backup": None if report.backup is None else str(report.backup),
        }
    )
    if not report.changed:
        terminal.say(f"{address.shown} is up to date (revision {report.after}).")
    elif report.before is None:
        terminal.say(f"Made the tables of {address.shown} (revision {report.after}).")
    else:
        terminal.say(f"Migrated {address.shown} from revision {report.before} to {report.after}.")
    if report.backup is not None:
        terminal.say(f"As it was before: {report.backup}")


def backup(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Where to; a name that ends in .jsonl makes a backup that PostgreSQL takes, too."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy everything in the database to a file, while the gateway runs or not."""
    from fastapi_foundry.storage.backup import back_up  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    with _database(ctx) as address, terminal.waiting("Backing up"):
        report = back_up(address, None if file is None else file.expanduser().absolute())
    terminal.document(
        {"database": address.shown, "file": str(report.file), "format": report.form, "bytes": report.size_bytes}
    )
    terminal.say(f"Backed up {address.shown} to {report.file} ({_size(report.size_bytes)}).")
    terminal.note(
        "It holds everything that the database does, conversations included: keep it where only you can read it."
    )


def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'db backup' wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a database that holds something; what it holds is kept.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Put a backup in the place of the database; every gateway that uses it must be stopped before."""
    from fastapi_foundry.storage.restore import restore as restore_backup  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    with _database(ctx) as address, terminal.waiting("Restoring"):
        report = restore_backup(address, file.expanduser().absolute(), force=force)
    kept = None if report.kept is None else str(report.kept)
    terminal.document({"database": address.shown, "file": str(file), "rows": report.rows, "kept": kept})
    terminal.say(f"Restored {address.shown} from {file}: {sum(report.rows.values())} rows.")
    if kept is not None:
        terminal.say(f"What was there before: {kept}")


def check(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Read everything once, compare the tables with this version's, and say what is wrong; changes nothing."""
    from fastapi_foundry.storage.check import check_database  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    with _database(ctx) as address, terminal.waiting("Checking"):
        report = check_database(address)
    terminal.document(
        {
            "database": address.shown,
            "dialect": address.dialect,
            "ok": not report.problems,
            "problems": report.problems,
            "revision": report.revision,
            "rows": report.rows,
            "bytes": report.size_bytes,
        }
    )
    terminal.fields([("database", address.shown), ("revision", report.revision), ("size", _size(report.size_bytes))])
    if report.rows:
        terminal.say("")
        terminal.table(("TABLE", "ROWS"), sorted(report.rows.items()))
    if report.problems:
        terminal.say("\nPROBLEMS\n" + "\n".join(f"- {problem}" for problem in report.problems))
        raise typer.Exit(exits.FAILURE)
    terminal.say("\nAll is well.")


@contextmanager
def _database(ctx: typer.Context) -> Iterator[DatabaseAddress]:
    """The settings' database, with what is done to it logged."""
    from fastapi_foundry.observability.logging import configure_logging  # noqa: PLC0415 - as above
    from fastapi_foundry.storage.address import database_address  # noqa: PLC0415 - as above

    settings = invocation(ctx).settings()
    with configure_logging(settings.logging, home=settings.home, process="cli"):
        yield database_address(settings)


def _size(size_bytes: int) -> str:
    return megabytes(size_bytes / 1024**2) or "empty"
