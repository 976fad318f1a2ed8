"""``fastapi-foundry keys link``: an address that signs a browser in, made straight in the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal, clean_line

if TYPE_CHECKING:
    from fastapi_foundry.security.keys import ApiKey
    from fastapi_foundry.security.sessions import Session
    from fastapi_foundry.settings import Settings

__all__ = ["link"]


def link(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's id or name.")],
    as_json: JsonFlag = False,
) -> None:
    """Make an address that signs a browser in with a key's rights, once, within ten minutes."""
    import asyncio  # noqa: PLC0415 - --help need not pay for it

    from fastapi_foundry.cli.gateway import configured_url, find_gateway  # noqa: PLC0415 - as above
    from fastapi_foundry.wire.times import shown_time  # noqa: PLC0415 - as above

    terminal, settings = Terminal(json=as_json), invocation(ctx).settings()
    found, secret, made = asyncio.run(_made_link(settings, key))
    gateway = find_gateway(settings)
    url = f"{configured_url(settings) if gateway is None else gateway.url}/#link={secret}"
    terminal.document({"url": url, "id": found.id, "name": found.name, "expires_at": shown_time(made.expires_at)})
    terminal.say(f"\n  {url}\n")
    terminal.note(
        f"Whoever opens it first, within ten minutes, is signed in as the key '{clean_line(found.name)}' ({found.id}).\n"
        "From another machine, open it with the name or address by which that one reaches this one."
    )
    if gateway is None:
        terminal.note("No gateway runs at the moment. Start it before you open the address: fastapi-foundry serve")


async def _made_link(settings: Settings, name: str) -> tuple[ApiKey, str, Session]:
    """The key of that name, the secret of a new link for it, and the link."""
    from fastapi_foundry.security.key_store import KeyStore  # noqa: PLC0415 - as above
    from fastapi_foundry.services.access import AccessPolicy, AccessService  # noqa: PLC0415 - as above
    from fastapi_foundry.services.keys import KeysService  # noqa: PLC0415 - as above
    from fastapi_foundry.services.sessions import SessionsService  # noqa: PLC0415 - as above
    from fastapi_foundry.storage.database import open_database  # noqa: PLC0415 - as above

    database = await open_database(settings)
    try:
        store = KeyStore(database)
        key = await KeysService(store).get(name)
        if (status := key.status(time.time_ns() // 1000)) != "active":
            raise errors.InvalidInputError(
                f"The key '{key.name}' is {status}, so that a link for it would open nothing.", param="key"
            )
        access = AccessService(store, AccessPolicy())
        sessions = SessionsService(store, access, hours=settings.security.session_hours)
        secret, made = await sessions.make_link(key.principal(), "", actor="cli")
        return key, secret, made
    finally:
        await database.aclose()
