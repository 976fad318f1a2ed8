"""``fastapi-foundry service``: the Foundry service in the background or in the foreground."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli import exits
from fastapi_foundry.cli.options import Invocation, JsonFlag, invocation, log_directory
from fastapi_foundry.cli.terminal import Terminal, megabytes

if TYPE_CHECKING:
    from fastapi_foundry.cli.background import FoundService

__all__ = ["announce_started", "build", "service_fields"]

PortOption = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes any free one.")
]
_FOLLOW_INTERVAL_S: Final = 0.2
_TAIL_BYTES: Final = 4 * 1024 * 1024


def build(markup: Literal["rich"] | None) -> typer.Typer:
    """The command group."""
    group = typer.Typer(
        help="Start, stop and watch the Foundry service.", no_args_is_help=True, rich_markup_mode=markup
    )
    for name, command in (
        ("start", start),
        ("stop", stop),
        ("restart", restart),
        ("status", status),
        ("run", run),
        ("logs", logs),
    ):
        group.command(name)(command)
    return group


def start(ctx: typer.Context, port: PortOption = None, as_json: JsonFlag = False) -> None:
    """Start the service in the background; it stays when this command ends."""
    terminal = Terminal(json=as_json)
    found, started = announce_started(terminal, invocation(ctx), port=port)
    word = "started" if started else "already_running"
    terminal.document({"status": word, "url": found.url, "pid": found.pid})
    terminal.say(
        f"The Foundry service {'runs' if started else 'is already running'} at {found.url} (process {found.pid})."
    )


def stop(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Stop the service and wait until its process and every loaded model are gone."""
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    found = background.find_service(invocation(ctx).settings())
    if found is None:
        terminal.document({"status": "not_running"})
        terminal.say("The Foundry service is not running.")
        return
    with terminal.waiting("Stopping the Foundry service"):
        background.stop_service(found)
    terminal.document({"status": "stopped", "url": found.url, "pid": found.pid})
    terminal.say(f"The Foundry service at {found.url} has stopped.")


def restart(ctx: typer.Context, port: PortOption = None, as_json: JsonFlag = False) -> None:
    """Stop the service if it runs, then start it; loaded models are unloaded."""
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    found = background.find_service(invocation(ctx).settings())
    if found is not None:
        with terminal.waiting("Stopping the Foundry service"):
            background.stop_service(found)
    now, _ = announce_started(terminal, invocation(ctx), port=port)
    terminal.document({"status": "restarted" if found else "started", "url": now.url, "pid": now.pid})
    terminal.say(f"The Foundry service runs at {now.url} (process {now.pid}).")


def status(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the address, process, version, memory and loaded models of the service."""
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    settings = invocation(ctx).settings()
    found = background.find_service(settings)
    if found is None:
        terminal.document({"running": False, "tried": [url for _, url in background.candidates(settings)]})
        terminal.say("The Foundry service is not running. Start it with: fastapi-foundry service start")
        raise typer.Exit(exits.NOT_RUNNING)
    terminal.document({"running": True, **found.status, "url": found.url})
    terminal.fields([("Service", f"running at {found.url}"), *service_fields(found)])
    terminal.say("")
    rows = runner_rows(found)
    if rows:
        terminal.table(("LOADED MODEL", "STATE", "PROCESS", "MEMORY", "ACTIVE", "QUEUED"), rows)
    else:
        terminal.say("No model is loaded.")


def run(ctx: typer.Context, port: PortOption = None, as_json: JsonFlag = False) -> None:
    """Run the service in the foreground until Ctrl-C."""
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    options = invocation(ctx)
    found = background.find_service(options.settings())
    if found is not None:
        terminal.document({"status": "already_running", "url": found.url, "pid": found.pid})
        terminal.say(f"The Foundry service is already running at {found.url} (process {found.pid}).")
        return
    raise typer.Exit(_foreground([*background.daemon_command(options, port), "--supervised"], terminal))


def logs(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines to show.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the structured log: one JSON record a line.")] = False,
) -> None:
    """Show the service's log."""
    directory = log_directory(invocation(ctx).settings())
    path = directory / ("foundry-service-structured.jsonl" if as_json else "foundry-service.log")
    terminal = Terminal()
    if not path.exists() and not follow:
        raise errors.InvalidInputError(f"There is no log yet at {path}; the service writes it when it starts.")
    position = _print_tail(path, lines, terminal)
    while follow:
        time.sleep(_FOLLOW_INTERVAL_S)
        position = _print_from(path, position, terminal)


def announce_started(
    terminal: Terminal, options: Invocation, *, port: int | None = None, because: str = ""
) -> tuple[FoundService, bool]:
    """Make sure that the service runs, telling the user if that takes a start.

    Args:
        because: What needs it, for the line that says so.

    Returns:
        The service, and whether it was started here.
    """
    from fastapi_foundry.cli import background  # noqa: PLC0415 - --help need not pay for it

    settings = options.settings()
    found = background.find_service(settings)
    if found is not None:
        return found, False
    reason = f" ({because} needs it)" if because else ""
    with terminal.waiting(f"Starting the Foundry service in the background{reason}"):
        found, started = background.start_service(options, settings, port=port)
    if because and started:
        terminal.note(f"The Foundry service runs at {found.url}; stop it with: fastapi-foundry service stop")
    return found, started


def service_fields(found: FoundService) -> list[tuple[str, object]]:
    """What a status display says about the service, besides its address."""
    status = found.status
    uptime = status.get("uptime_seconds")
    return [
        ("Process", found.pid or None),
        ("Version", status.get("version")),
        ("Uptime", _duration(uptime) if isinstance(uptime, int | float) else None),
        ("Memory", megabytes(status.get("memory_mb"))),
        ("Offline", "yes, nothing dials out" if status.get("offline") else "no"),
        ("Model store", status.get("modelCachePath")),
    ]


def runner_rows(found: FoundService) -> list[list[object]]:
    """One row for each loaded model: name, state, process, memory, active and queued requests."""
    runners = found.status.get("runners")
    return [
        [
            runner.get("model", "?"),
            runner.get("state", "?"),
            runner.get("pid", ""),
            megabytes(runner.get("memory_mb")),
            runner.get("active", 0),
            runner.get("queued", 0),
        ]
        for runner in (runners if isinstance(runners, list) else [])
        if isinstance(runner, dict)
    ]


def _foreground(command: list[str], terminal: Terminal) -> int:
    """Run the service as a child that ends with this process, and pass Ctrl-C and SIGTERM on as an orderly end."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    assert process.stdin is not None  # noqa: S101 - for the type checker
    assert process.stdout is not None  # noqa: S101 - as above
    stdin = process.stdin
    signal.signal(signal.SIGTERM, lambda *_: stdin.close())
    try:
        for line in process.stdout:
            _announce_event(line, terminal)
        return process.wait()
    except KeyboardInterrupt:
        stdin.close()  # the service takes the end of its input as the order to shut down
        process.wait()
        return exits.OK


def _announce_event(line: bytes, terminal: Terminal) -> None:
    import orjson  # noqa: PLC0415 - --help need not pay for it

    if terminal.json:
        sys.stdout.write(line.decode("utf-8", "replace"))
        sys.stdout.flush()
        return
    try:
        event: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return
    if event.get("event") == "ready":
        terminal.say(f"The Foundry service runs at {event.get('url')} (process {event.get('pid')}). Ctrl-C stops it.")
    elif event.get("event") == "failed":
        terminal.note(f"Error: the service did not start: {event.get('error')}")


def _print_tail(path: Path, lines: int, terminal: Terminal) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read().splitlines()[-lines:] if lines else []
    for line in tail:
        terminal.say(line.decode("utf-8", "replace"))
    return size


def _print_from(path: Path, position: int, terminal: Terminal) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        if file.seek(0, 2) < position:
            position = 0  # the file was rotated
        file.seek(position)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        terminal.say(line.decode("utf-8", "replace"))
    return position + len(whole)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d" * bool(days), f"{hours} h" * bool(hours), f"{minutes} min" * bool(minutes), f"{rest} s"]
    return " ".join([part for part in parts if part][:2])
