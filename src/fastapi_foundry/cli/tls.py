"""``fastapi-foundry tls``: a certificate for https."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from fastapi_foundry.cli.options import JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal

__all__ = ["build"]

_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_HELP: Final = """
Made a certificate for {hosts}.

  Certificate  {certificate}
  Private key  {key} (for you alone)
  SHA-256      {fingerprint}
  Valid until  {expires}

To use it, put this into config.json and start the gateway:

  "tls": {setting}

Nobody trusts it until told to. Give clients the certificate, never the key:

  curl                    curl --cacert {quoted} https://localhost:9696/api/v1/health
  Python, OpenAI's SDK    SSL_CERT_FILE={quoted}
  Node                    NODE_EXTRA_CA_CERTS={quoted}
  browsers, whole systems see docs/tls.md
"""


def build(markup: Literal["rich"] | None) -> typer.Typer:
    """The command group."""
    group = typer.Typer(help="Certificates for https.", no_args_is_help=True, rich_markup_mode=markup)
    group.command("self-signed")(self_signed)
    return group


def self_signed(
    ctx: typer.Context,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name or address that clients will use; may be repeated."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")] = 365,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; `tls` in the home without it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there already.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a certificate and its key, for https without an authority; localhost is always included."""
    from fastapi_foundry.cli.self_signed import is_host, make_self_signed, write_pair  # noqa: PLC0415 - a large library

    terminal = Terminal(json=as_json)
    own = socket.gethostname()
    hosts = list(dict.fromkeys([*(host or ([own] if is_host(own) else [])), *_ALWAYS]))
    directory = (out.expanduser() if out is not None else invocation(ctx).settings().home / "tls").absolute()
    certificate, key = directory / "certificate.pem", directory / "private-key.pem"
    pair = make_self_signed(hosts, days)
    write_pair(pair, certificate, key, force=force)
    expires = pair.expires.strftime("%Y-%m-%d")
    terminal.document(
        {
            "certificate": str(certificate),
            "private_key": str(key),
            "sha256": pair.fingerprint,
            "hosts": hosts,
            "expires": expires,
        }
    )
    terminal.say(
        _HELP.format(
            hosts=", ".join(hosts),
            certificate=certificate,
            quoted=shlex.quote(str(certificate)),
            key=key,
            fingerprint=pair.fingerprint,
            expires=expires,
            setting=json.dumps({"certificate": str(certificate), "private_key": str(key)}),
        )
    )
