"""``fastapi-foundry model``: what models there are, and their life cycle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli.options import JsonFlag, ModelName, invocation
from fastapi_foundry.cli.service import announce_started
from fastapi_foundry.cli.terminal import Terminal, megabytes

if TYPE_CHECKING:
    from fastapi_foundry.cli.background import FoundService

__all__ = ["build"]

_CATALOG_TIMEOUT_S: Final = 60.0
_LIST_HEADERS: Final = ("MODEL", "STATE", "TASK", "CONTEXT", "SIZE", "NOTE")
_CATALOG_HEADERS: Final = ("MODEL", "ALIAS", "TASK", "DEVICE", "SIZE", "CACHED")


def build(markup: Literal["rich"] | None) -> typer.Typer:
    """The command group."""
    group = typer.Typer(
        help="List, download, load, run and remove models.", no_args_is_help=True, rich_markup_mode=markup
    )
    group.command("list")(list_models)
    group.command("info")(info)
    group.command("download")(download)
    group.command("load")(load)
    group.command("unload")(unload)
    group.command("run")(run)
    group.command("stop", help="The same as unload.")(unload)
    group.command("register")(register)
    group.command("remove")(remove)
    return group


def list_models(
    ctx: typer.Context,
    catalog: Annotated[bool, typer.Option("--catalog", help="List what can be downloaded instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the models on this machine; works with nothing running."""
    terminal = Terminal(json=as_json)
    if catalog:
        _list_catalog(ctx, terminal)
        return
    models = local_models(ctx)
    terminal.document({"models": models, "count": len(models)})
    if models:
        terminal.table(_LIST_HEADERS, [_list_row(model) for model in models])
    else:
        terminal.say("There are no models yet. See what can be downloaded: fastapi-foundry model list --catalog")


def info(ctx: typer.Context, name: ModelName, as_json: JsonFlag = False) -> None:
    """Show everything known about a model; works with nothing running."""
    terminal = Terminal(json=as_json)
    model = find_model(local_models(ctx), name)
    terminal.document(model)
    terminal.fields([_field(key, value) for key, value in model.items() if key not in {"object", "created"}])
    if model.get("demonstration"):
        terminal.say("")
        terminal.say("This bundled model is a demonstration. A real one: fastapi-foundry model list --catalog")


def download(ctx: typer.Context, name: ModelName, as_json: JsonFlag = False) -> None:
    """Download a model of the catalogue; Ctrl-C cancels it."""
    from fastapi_foundry.cli.downloading import download_model  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    found, _ = announce_started(terminal, invocation(ctx), because="a download")
    model = download_model(found, name, terminal)
    terminal.document({"status": "downloaded", "model": model})
    terminal.say(f"{model} is downloaded. Talk to it: fastapi-foundry model run {model}")


def load(ctx: typer.Context, name: ModelName, as_json: JsonFlag = False) -> None:
    """Load a model into memory and wait until it can answer."""
    terminal = Terminal(json=as_json)
    found, _ = announce_started(terminal, invocation(ctx), because="loading a model")
    answer = load_model(ctx, found, name, terminal)
    terminal.document(answer)
    took = f" in {answer['duration']:.1f} s" if isinstance(answer.get("duration"), int | float) else ""
    size = f", {megabytes(answer.get('memory_mb'))}" if answer.get("memory_mb") else ""
    if answer.get("status") == "already_loaded":
        terminal.say(f"{answer.get('model', name)} is already loaded{size}.")
    else:
        terminal.say(f"{answer.get('model', name)} is loaded{took}{size}.")


def unload(ctx: typer.Context, name: ModelName, as_json: JsonFlag = False) -> None:
    """Unload a model; its memory is returned when this command ends."""
    from fastapi_foundry.cli.background import require_service  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.cli.http import path_segment  # noqa: PLC0415 - as above

    terminal = Terminal(json=as_json)
    found = require_service(invocation(ctx).settings())
    with terminal.waiting(f"Unloading {name}"):
        answer = found.api(30.0).post(f"/models/unload/{path_segment(name)}", model=name)
    terminal.document(answer)
    terminal.say(f"{answer.get('model', name)} is {str(answer.get('status', 'unloaded')).replace('_', ' ')}.")


def run(
    ctx: typer.Context,
    name: ModelName,
    prompt: Annotated[str | None, typer.Argument(help="One question; a chat begins without it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Load a model and chat with it, or ask it one question."""
    from fastapi_foundry.cli.chat import check_prompt, converse  # noqa: PLC0415 - --help need not pay for it

    terminal = Terminal(json=as_json)
    check_prompt(prompt, terminal)
    found, _ = announce_started(terminal, invocation(ctx), because="running a model")
    answer = load_model(ctx, found, name, terminal)
    converse(found.api(), str(answer.get("model", name)), prompt, terminal, system=None)


def register(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A directory that holds genai_config.json.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name; the directory's by default.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a model directory of your own usable where it lies; nothing is copied."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise errors.ModelFilesError(f"{path} {what}.")
    if not any(path.iterdir()):
        raise errors.ModelFilesError(f"{path} is empty; a model directory holds genai_config.json and its ONNX files.")
    terminal = Terminal(json=as_json)
    found, _ = announce_started(terminal, invocation(ctx), because="registering a model")
    body = {"path": str(path.resolve())} | ({"name": name} if name is not None else {})
    answer = found.api(30.0).post("/models/register", body, model=name)
    terminal.document({"status": "registered", **answer})
    terminal.say(f"{answer.get('model')} is registered. Talk to it: fastapi-foundry model run {answer.get('model')}")


def remove(
    ctx: typer.Context,
    name: ModelName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a downloaded model from disk, or forget a registered one (its files stay)."""
    terminal = Terminal(json=as_json)
    model = find_model(local_models(ctx), name)
    identifier = str(model.get("id", name))
    if not yes and not as_json and model.get("source") == "store":
        typer.confirm(f"Delete the files of {identifier} ({megabytes(model.get('size_mb'))})?", abort=True)
    found, _ = announce_started(terminal, invocation(ctx), because="removing a model")
    answer = found.api(60.0).post("/models/remove", {"model": identifier}, model=identifier)
    terminal.document({"status": "removed", "model": identifier} | (answer if isinstance(answer, dict) else {}))
    terminal.say(f"{identifier} is removed.")


def local_models(ctx: typer.Context) -> list[dict[str, Any]]:
    """The models on this machine, from the running service or, if none runs, from the store."""
    from fastapi_foundry.cli.background import find_service  # noqa: PLC0415 - --help need not pay for it

    settings = invocation(ctx).settings()
    found = find_service(settings)
    if found is None:
        from fastapi_foundry.cli.offline_models import stored_models  # noqa: PLC0415 - as above

        return stored_models(settings)
    answer = found.api().get("/v1/models")
    data = answer.get("data") if isinstance(answer, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


def find_model(models: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The model of that id, or the newest usable one of that alias.

    Raises:
        ModelNotFoundError: There is none.
    """
    for model in models:
        if model.get("id") == name:
            return model
    named = [model for model in models if model.get("alias") == name]
    if not named:
        raise errors.ModelNotFoundError(name, "See: fastapi-foundry model list")
    return max(named, key=lambda model: (model.get("state") != "unusable", _version(model)))


def _version(model: dict[str, Any]) -> int:
    version = str(model.get("id")).rpartition(":")[2]
    return int(version) if version.isdecimal() else 0


def load_model(ctx: typer.Context, found: FoundService, name: str, terminal: Terminal) -> dict[str, Any]:
    """Load a model and wait for it; the service's answer."""
    from fastapi_foundry.cli.http import path_segment  # noqa: PLC0415 - --help need not pay for it

    limit_s = invocation(ctx).settings().foundry_service.load_timeout_s + 5.0
    with terminal.waiting(f"Loading {name}"):
        answer = found.api(limit_s).post(f"/models/load/{path_segment(name)}", model=name)
    return answer if isinstance(answer, dict) else {}


def _list_catalog(ctx: typer.Context, terminal: Terminal) -> None:
    found, _ = announce_started(terminal, invocation(ctx), because="the catalogue")
    with terminal.waiting("Asking the catalogue"):
        answer = found.api(_CATALOG_TIMEOUT_S).get("/models/catalog?refresh=1")
    models = [model for model in answer.get("models") or [] if isinstance(model, dict)]
    state, reason = str(answer.get("status")), str(answer.get("reason") or "")
    if not models and state in {"offline", "unavailable", "loading"}:
        raise errors.CatalogUnavailableError(f"The model catalogue is {state}" + (f": {reason}" if reason else "."))
    terminal.document(answer)
    terminal.table(_CATALOG_HEADERS, [_catalog_row(model) for model in models])
    if state != "fresh":
        terminal.note(f"The catalogue is {state}" + (f": {reason}" if reason else "."))


def _list_row(model: dict[str, Any]) -> list[object]:
    notes = ["demonstration"] if model.get("demonstration") else []
    if model.get("source") == "registered":
        notes.append("registered")
    if model.get("reason"):
        notes.append(str(model["reason"]))
    return [
        model.get("id", "?"),
        str(model.get("state", "")).replace("_", " "),
        model.get("task") or "",
        model.get("context_length") or "",
        megabytes(model.get("size_mb")),
        "; ".join(notes),
    ]


def _catalog_row(model: dict[str, Any]) -> list[object]:
    keys = ("id", "alias", "task", "device")
    return [*(model.get(key) or "" for key in keys), megabytes(model.get("size_mb")), "yes" * bool(model.get("cached"))]


def _field(key: str, value: object) -> tuple[str, object]:
    if key.endswith("_mb"):
        return key.removesuffix("_mb").capitalize(), megabytes(value)
    words = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    return key.replace("_", " ").capitalize(), words
