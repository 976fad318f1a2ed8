"""``fastapi-foundry keys``: API keys, made and ended straight in the database, whether the gateway runs or not."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli import signin
from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal

if TYPE_CHECKING:
    from fastapi_foundry.security.keys import ApiKey
    from fastapi_foundry.services.keys import KeysService, NewKey

__all__ = ["build", "parse_duration"]

Result = TypeVar("Result")
KeyName = Annotated[str, typer.Argument(metavar="KEY", help="A key's id or name.")]

_ACTOR: Final = "cli"
_HEADERS: Final = ("NAME", "ID", "STARTS WITH", "STATUS", "RIGHTS", "EXPIRES", "LAST USED")
_DURATION: Final = re.compile(r"(\d{1,6})([smhdwy]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}


def build(markup: Literal["rich"] | None) -> typer.Typer:
    """The command group."""
    group = typer.Typer(help="Make, list, exchange and revoke API keys.", no_args_is_help=True, rich_markup_mode=markup)
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("rotate")(rotate)
    group.command("revoke")(revoke)
    group.command("link")(signin.link)
    return group


def create(  # noqa: PLR0917 - Typer makes options of them
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for; for people.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="A right; give it several times. Default: chat and embeddings."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Every right; the same as --scope admin.")] = False,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="How long it lasts: 90d, 12h, 1y. Default: for ever."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="A model that it may use, or the beginning of names with * behind; several times."
        ),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests in a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Most tokens in a minute.")] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1, help="Most requests at the same time.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Most tokens in a day (UTC).")] = None,
    tokens_per_month: Annotated[int | None, typer.Option(min=1, help="Most tokens in a month (UTC).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and show it, once."""
    from fastapi_foundry.security.keys import KeyLimits  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.services.keys import KeyRequest  # noqa: PLC0415 - as above

    limits = KeyLimits(requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month)
    wanted = KeyRequest(
        name=_checked_name(name),
        scopes=_scopes(["admin"] if admin and not scope else scope or ["chat", "embeddings"], admin=admin),
        expires_in_s=None if expires is None else parse_duration(expires),
        allowed_models=tuple(model) if model else None,
        limits=limits,
    )
    made = _with_keys(ctx, lambda keys: keys.create(wanted, actor=_ACTOR))
    _show_once(Terminal(json=as_json), made)


def list_keys(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the keys; the text of none is known."""
    terminal = Terminal(json=as_json)
    keys = [_shown(key) for key in _with_keys(ctx, lambda keys: keys.list_keys())]
    terminal.document({"keys": keys, "count": len(keys)})
    if keys:
        terminal.table(_HEADERS, [_row(key) for key in keys])
    else:
        terminal.say("There are no keys yet. Make one: fastapi-foundry keys create NAME")


def rotate(
    ctx: typer.Context,
    key: KeyName,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long the old key goes on: 1d, 2h. Default: not at all.")
    ] = "0",
    as_json: JsonFlag = False,
) -> None:
    """Make a key like another one and let that end."""
    grace_s = parse_duration(grace)
    made = _with_keys(ctx, lambda keys: keys.rotate(key, grace_s=grace_s, actor=_ACTOR))
    _show_once(Terminal(json=as_json), made)


def revoke(ctx: typer.Context, key: KeyName, as_json: JsonFlag = False) -> None:
    """End a key at once, sessions that were opened with it included."""
    terminal = Terminal(json=as_json)
    ended = _with_keys(ctx, lambda keys: keys.revoke(key, actor=_ACTOR))
    terminal.document(_shown(ended))
    terminal.say(f"The key '{ended.name}' ({ended.id}) is revoked. No request with it is taken any more.")


def parse_duration(text: str) -> float:
    """Seconds in ``90d``, ``12h``, ``30m``, ``1w``, ``1y`` or a plain number of seconds.

    Raises:
        InvalidInputError: It is none of these.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise errors.InvalidInputError(
            f"'{text}' is no length of time; write 90d, 12h, 30m, 1w or 1y.", param="expires"
        )
    return float(int(match[1]) * _UNITS[match[2]])


def _with_keys(ctx: typer.Context, use: Callable[[KeysService], Awaitable[Result]]) -> Result:
    """Open the database of the settings, use it, close it."""
    import asyncio  # noqa: PLC0415 - --help need not pay for it

    from fastapi_foundry.security.key_store import KeyStore  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.services.keys import KeysService  # noqa: PLC0415 - as above
    from fastapi_foundry.storage.database import open_database  # noqa: PLC0415 - as above

    settings = invocation(ctx).settings()

    async def run() -> Result:
        database = await open_database(settings)
        try:
            return await use(KeysService(KeyStore(database)))
        finally:
            await database.aclose()

    return asyncio.run(run())


def _show_once(terminal: Terminal, made: NewKey) -> None:
    terminal.document({"key": made.text} | _shown(made.key))
    terminal.say(f"\n  {made.text}\n")
    terminal.note(
        f"This is the key '{made.key.name}' ({made.key.id}). Copy it now: it is kept nowhere and never shown again.\n"
        "Send it as 'Authorization: Bearer KEY', or give it to your client as its API key."
    )


def _scopes(names: list[str], *, admin: bool) -> frozenset[Any]:
    from fastapi_foundry.security.scopes import Scope  # noqa: PLC0415 - --help need not pay for it

    known = {str(scope): scope for scope in Scope}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise errors.InvalidInputError(f"There is no right '{wrong[0]}'; there are: {', '.join(known)}.", param="scope")
    return frozenset(known[name] for name in names) | ({Scope.ADMIN} if admin else frozenset())


def _checked_name(name: str) -> str:
    stripped = name.strip()
    if not stripped or len(stripped) > 100 or not stripped.isprintable():  # noqa: PLR2004 - what the API allows, too
        raise errors.InvalidInputError("A key's name has 1 to 100 printable characters.", param="name")
    return stripped


def _shown(key: ApiKey) -> dict[str, Any]:
    return key.shown(time.time_ns() // 1000)


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    return (
        key["name"],
        key["id"],
        key["prefix"] + "...",
        key["status"],
        " ".join(key["scopes"]),
        key["expires_at"] or "never",
        key["last_used_at"] or "never",
    )
