"""``fastapi-foundry status`` and ``version``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from fastapi_foundry import __version__, errors
from fastapi_foundry.cli import exits
from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal

if TYPE_CHECKING:
    from fastapi_foundry.cli.background import FoundService
    from fastapi_foundry.cli.gateway import FoundGateway
    from fastapi_foundry.settings import Settings

__all__ = ["status", "version"]


def version(as_json: JsonFlag = False) -> None:
    """Show the version of this program and of Python."""
    terminal = Terminal(json=as_json)
    python = ".".join(map(str, sys.version_info[:3]))
    terminal.document({"version": __version__, "python": python})
    terminal.say(f"fastapi-foundry {__version__} (Python {python})")


def status(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the gateway, the service, the models and how they were found, with what to do if one is missing."""
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.cli.gateway import find_gateway  # noqa: PLC0415 - as above
    from fastapi_foundry.cli.model import local_models  # noqa: PLC0415 - as above
    from fastapi_foundry.cli.search import look_for_engine  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    settings = invocation(ctx).settings()
    gateway = find_gateway(settings)
    service = background.find_service(settings)
    with terminal.waiting("Looking for engines"):
        search = look_for_engine(settings)
    models = local_models(ctx)
    engines = _engines(gateway)
    remedies = _remedies(settings, engine_found=service is not None or search.url is not None, gateway=bool(gateway))
    terminal.document(
        {
            "gateway": {"running": True, "url": gateway.url, **gateway.health} if gateway else {"running": False},
            "service": {"running": True, **service.status, "url": service.url} if service else {"running": False},
            "engine": {"url": search.url, "found_by": search.found_by} if search.url else None,
            "engines": engines,
            "models": models,
            "default_model": settings.foundry_ai.default_model,
            "discovery": [dict(zip(("step", "address", "outcome"), step, strict=True)) for step in search.tried],
            "remedies": remedies,
        }
    )
    health = gateway.health if gateway else {}
    terminal.fields(
        [
            ("Gateway", f"{health.get('status')} at {gateway.url}" if gateway else "not running"),
            ("Service", _service_words(service)),
            ("Engine to use", f"{search.url} (by {_words(search.found_by)})" if search.url else "none found"),
            ("Models", _model_words(models)),
            ("Default model", settings.foundry_ai.default_model),
            ("Home", settings.home),
        ]
    )
    if len(engines) > 1:
        terminal.say("\nEngines of the gateway:")
        rows = [
            [str(entry.get(key) or "") for key in ("name", "url", "state", "breaker", "reason")] for entry in engines
        ]
        terminal.table(("NAME", "ADDRESS", "STATE", "BREAKER", "REASON"), rows)
    terminal.say("\nHow it was looked for:")
    terminal.table(("STEP", "ADDRESS", "OUTCOME"), [(_words(step), where, what) for step, where, what in search.tried])
    for remedy in remedies:
        terminal.say(f"\n{remedy}")
    if service is None and search.url is None:
        raise typer.Exit(exits.NOT_RUNNING)


def _engines(gateway: FoundGateway | None) -> list[dict[str, Any]]:
    """Every engine of the running gateway; none where it does not tell."""
    if gateway is None:
        return []
    try:
        told = gateway.api().get("/api/v1/foundry/status")
    except errors.FoundryError:
        return []
    engines = told.get("engines") if isinstance(told, dict) else None
    return [entry for entry in engines if isinstance(entry, dict)] if isinstance(engines, list) else []


def _words(name: str) -> str:
    return name.replace("_", " ")


def _service_words(service: FoundService | None) -> str:
    if service is None:
        return "not running"
    runners = service.status.get("runners")
    loaded = len(runners) if isinstance(runners, list) else 0
    return f"running at {service.url} (process {service.pid}, {loaded} loaded)"


def _model_words(models: list[dict[str, Any]]) -> str:
    names = ", ".join(str(model.get("id")) for model in models[:5])
    return f"{len(models)} on this machine" + (f": {names}" if names else "") + (" ..." if len(models) > 5 else "")  # noqa: PLR2004 - as above


def _remedies(settings: Settings, *, engine_found: bool, gateway: bool) -> list[str]:
    remedies = []
    if not engine_found and settings.foundry_ai.base_url:
        remedies.append(
            f"foundry_ai.base_url points to {settings.foundry_ai.base_url}, and no engine answers there. "
            "Start that engine, or remove the setting (FOUNDRY_BASE_URL) to use the local service."
        )
    elif not engine_found:
        remedies.append("To start the service: fastapi-foundry service start")
    if not gateway:
        remedies.append("To start the gateway and the chat page: fastapi-foundry serve")
    return remedies
