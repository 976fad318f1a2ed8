"""``fastapi-foundry conformance``: what an engine does by itself, and what a client of the gateway gets."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli import exits
from fastapi_foundry.cli.options import Invocation, JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal

if TYPE_CHECKING:
    from fastapi_foundry.engines.repair.conformance import Conformance, Row
    from fastapi_foundry.settings import EngineSettings, Settings

__all__ = ["conformance"]


def conformance(
    ctx: typer.Context,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="URL", help="Address of the engine; looked for without it.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="Model id or alias.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds its key.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a live engine for every feature of OpenAI's API, bare and through the gateway's repair."""
    import asyncio  # noqa: PLC0415 - --help need not pay for it

    from fastapi_foundry.engines.repair.conformance import measure_conformance  # noqa: PLC0415 - as above
    from fastapi_foundry.observability.logging import configure_logging  # noqa: PLC0415 - as above

    terminal, options = Terminal(json=as_json), invocation(ctx)
    settings = options.settings()
    entry = _entry(engine or _usual_engine(options, settings, terminal), api_key_env)
    with (
        configure_logging(settings.logging, home=settings.home, process="cli"),
        terminal.progress("Measuring conformance") as progress,
    ):
        result = asyncio.run(measure_conformance(entry, settings.foundry_ai, model=model, progress=progress))
    _show(result, terminal)
    if result.failed:
        raise typer.Exit(exits.FAILURE)


def _usual_engine(options: Invocation, settings: Settings, terminal: Terminal) -> str:
    """The engine that the gateway would use; the service is started where there is none."""
    from fastapi_foundry.cli.search import look_for_engine  # noqa: PLC0415 - --engine need not pay for it
    from fastapi_foundry.cli.service import announce_started  # noqa: PLC0415 - as above

    with terminal.waiting("Looking for engines"):
        found = look_for_engine(settings)
    if found.url is not None:
        return found.url
    return announce_started(terminal, options, because="the check")[0].url


def _entry(url: str, api_key_env: str | None) -> EngineSettings:
    from pydantic import ValidationError  # noqa: PLC0415 - --help need not pay for it

    from fastapi_foundry.settings import EngineSettings  # noqa: PLC0415 - as above

    if api_key_env is not None and not os.environ.get(api_key_env, "").strip():
        raise errors.InvalidInputError(
            f"--api-key-env: the environment variable '{api_key_env}' is not set; it must hold the engine's key.",
            param="api_key_env",
        )
    try:
        return EngineSettings(name="engine", url=url, api_key_env=api_key_env)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise errors.InvalidInputError(f"--engine: {reason}", param="engine") from error


def _show(result: Conformance, terminal: Terminal) -> None:
    terminal.document(
        {
            "engine": {"url": result.url, "kind": result.kind, "model": result.model},
            "rows": [asdict(row) for row in result.rows],
            "failed": result.failed,
            "troubles": result.troubles,
            "duration": round(result.duration_s, 3),
        }
    )
    terminal.say(f"{result.model} at {result.url} ({result.kind})\n")
    terminal.table(("FEATURE", "RAW", "REPAIRED"), [(row.feature, row.raw, _repaired(row)) for row in result.rows])
    for trouble in result.troubles:
        terminal.note(f"Not probed to the end: {trouble}")
    count = len(result.failed)
    verdict = "Every feature works or is refused by name." if not count else f"FAILED: {', '.join(result.failed)}."
    terminal.say(f"\n{verdict}")


def _repaired(row: Row) -> str:
    from fastapi_foundry.engines.repair.conformance import Outcome  # noqa: PLC0415 - --help need not pay for it

    words: dict[Any, str] = {
        Outcome.WORKS: "works",
        Outcome.ALTERED: "works, altered",
        Outcome.REFUSED: "refused by name (400)",
        Outcome.UNMET: "refused with the reason (422)",
        Outcome.FAILED: "FAILED",
    }
    return f"{words[row.outcome]}: {'; '.join(row.notes)}" if row.notes else words[row.outcome]
