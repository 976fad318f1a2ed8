"""``fastapi-foundry serve``: the gateway, in the foreground."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fastapi_foundry.cli.options import Invocation, JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal, clean_line

if TYPE_CHECKING:
    from fastapi_foundry.services.keys import NewKey
    from fastapi_foundry.settings import Settings

__all__ = ["serve"]

_FIRST_KEY: Final = """
  Every request needs an API key here, and there was none yet. This is the first one, with every right:

      {key}

  Copy it now: it is kept nowhere and never shown again. More of them: fastapi-foundry keys create NAME
"""


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Configuration file, as before the command.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start everything and serve the API and the chat page until Ctrl-C."""
    gc.disable()  # a tenth of the start; ``server.launch`` turns it on again
    options = invocation(ctx)
    if config is not None:
        options = Invocation(config=config, debug=options.debug)
    settings = options.settings({"fastapi_server.host": host, "fastapi_server.port": port})
    from fastapi_foundry.cli.gateway import gateway_file  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.server import serve as run_gateway  # noqa: PLC0415 - the whole gateway

    terminal = Terminal(json=as_json)

    def ready(url: str) -> None:
        record(url, settings.tls.certificate)
        if as_json:
            import orjson  # noqa: PLC0415 - as settings

            sys.stdout.write(orjson.dumps({"event": "ready", "url": url, "pid": os.getpid()}).decode() + "\n")
            sys.stdout.flush()
        else:
            terminal.say(_banner(url, settings))

    def show_key(made: NewKey) -> None:
        terminal.say(_FIRST_KEY.format(key=made.text))

    can_show = sys.stdout.isatty() and not as_json
    with gateway_file(settings.home) as record:
        run_gateway(
            settings,
            ready,
            config_path=options.config,
            show_key=show_key if can_show else None,
            warn=lambda warning: terminal.note(f"Warning: {clean_line(warning)}"),
        )


def _banner(url: str, settings: Settings) -> str:
    model = clean_line(settings.foundry_ai.default_model)
    lines = [
        "",
        "  FastAPI Foundry is ready.",
        "",
        f"  Open        {url}",
        f"  OpenAI API  {url}/v1",
        f"  API docs    {url}/docs",
        f"  Model       {model}",
    ]
    if model.startswith("foundry-demo"):
        lines += [
            "              This bundled model is a demonstration: tiny, and good for trying things out only.",
            "              A real one: fastapi-foundry model list --catalog",
        ]
    return "\n".join([*lines, "", "  Ctrl-C stops it.", ""])
