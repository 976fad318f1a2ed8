"""``fastapi-foundry``: the root of the command line, and the one place where a failure becomes an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli import exits
from fastapi_foundry.cli.options import Invocation
from fastapi_foundry.cli.terminal import clean_line, error_document

__all__ = ["build_app", "main", "run"]

PROGRAM: Final = "fastapi-foundry"

# In the order in which help shows them, and where each is: a module with ``build`` for a group, or one and its function.
_COMMANDS: Final = {
    "serve": ("serve", "serve"),
    "service": ("service", "build"),
    "model": ("model", "build"),
    "keys": ("keys", "build"),
    "db": ("db", "build"),
    "tls": ("tls", "build"),
    "usage": ("usage", "usage"),
    "chat": ("chat", "chat"),
    "status": ("status", "status"),
    "conformance": ("conformance", "conformance"),
    "version": ("status", "version"),
}


def main() -> None:
    """Run the command line of this process and exit with its code."""
    # Pydantic would search all installed packages for plugins: 20 ms here and in each process that we start, and one that
    # is found would see every request.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every failure is one line on stderr (one JSON document with ``--json``).

    Returns:
        The exit code; ``cli/exits.py`` lists them.
    """
    options = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    as_json = "--json" in options
    app = build_app(decorated=sys.stdout.isatty(), command=_command_in(arguments))
    try:
        code = app(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except errors.FoundryError as fact:
        code = exits.exit_code_for(fact)
        _report(fact.message, fact.code, code, as_json=as_json, param=getattr(fact, "param", None))
    except typer.TyperException as error:
        code = exits.USAGE
        message = error.format_message()
        if message:  # without a command the help has been shown and there is nothing to add
            _report(message, "usage_error", code, as_json=as_json)
    except (typer.Abort, KeyboardInterrupt):
        code = exits.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; what the interpreter still holds for it must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILURE
    except Exception as error:
        if "--debug" in options:
            raise
        code = exits.FAILURE
        _report(_unexpected(error), "internal_error", code, as_json=as_json)
    code = code if isinstance(code, int) else exits.OK
    if code == exits.INTERRUPTED:
        _report("Interrupted.", "interrupted", code, as_json=as_json)
    return code


def build_app(*, decorated: bool = False, command: str | None = None) -> typer.Typer:
    """The whole command line.

    Args:
        decorated: Whether help comes with Rich's boxes; they cost 0.15 s and are for terminals alone.
        command: The one that will run, if that is known: the others would cost every start 30 ms.
    """
    markup: Literal["rich"] | None = "rich" if decorated else None
    app = typer.Typer(
        name=PROGRAM,
        help="Run ONNX models on this machine behind an OpenAI-compatible API.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=markup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name in [command] if command in _COMMANDS else _COMMANDS:
        module, function = _COMMANDS[name]
        found = getattr(importlib.import_module(f"fastapi_foundry.cli.{module}"), function)
        if function == "build":
            app.add_typer(found(markup), name=name)
        else:
            app.command(name)(found)
    return app


def _command_in(arguments: Sequence[str]) -> str | None:
    """The command's name: the first word that is neither a global option nor the value of one."""
    words = iter(arguments)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _global_options(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Configuration file to use instead of the default one."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    ctx.obj = Invocation(config=config, debug=debug)


def _report(message: str, code: str, exit_code: int, *, as_json: bool, param: str | None = None) -> None:
    if as_json:
        import orjson  # noqa: PLC0415 - only a failure in JSON needs it

        sys.stdout.write(orjson.dumps(error_document(message, code, exit_code, param)).decode() + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(f"{'' if exit_code == exits.INTERRUPTED else 'Error: '}{clean_line(message)}\n")


def _unexpected(error: Exception) -> str:
    """Log the traceback and say where."""
    name = type(error).__name__
    try:
        from fastapi_foundry.cli.options import log_directory  # noqa: PLC0415 - only a failure needs it
        from fastapi_foundry.observability.logging import configure_logging, get_logger  # noqa: PLC0415 - as above
        from fastapi_foundry.settings import load_settings  # noqa: PLC0415 - as above

        settings = load_settings(None)
        handle = configure_logging(settings.logging, home=settings.home, process="cli")
        try:
            get_logger(__name__).error("command failed", error=name, exc_info=error)
        finally:
            handle.close()
    except (errors.FoundryError, OSError):
        return f"Something unexpected happened: {name}: {error} (run again with --debug for the traceback)"
    return f"Something unexpected happened: {name}: {error} (details in {log_directory(settings)}; or use --debug)"
