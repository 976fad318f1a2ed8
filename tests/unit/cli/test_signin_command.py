"""``fastapi-foundry keys link``: an address that signs a browser in."""

from __future__ import annotations

import re
import sqlite3

import pytest

from fastapi_foundry.cli.gateway import gateway_file
from tests.unit.cli.stub_server import Said, stub_server


def test_a_link_leads_to_the_configured_address_while_nothing_runs(cli, monkeypatch):
    monkeypatch.setenv("API_PORT", "9")
    key = cli("keys", "create", "phone", "--json").json
    made = cli("keys", "link", "phone")
    assert made.code == 0
    assert re.fullmatch(r"\s+http://127\.0\.0\.1:9/#link=[\w-]{43}\s+", made.out)
    assert "No gateway runs at the moment" in made.err
    document = cli("keys", "link", key["id"], "--json").json
    assert (document["id"], document["name"]) == (key["id"], "phone")
    assert document["url"].startswith("http://127.0.0.1:9/#link=")
    assert document["expires_at"].endswith("Z")


def test_a_link_leads_to_the_gateway_that_runs_wherever_that_listens(cli, home):
    cli("keys", "create", "phone")
    health = Said({"status": "healthy", "foundry_status": "connected"})
    with stub_server({"GET /api/v1/health": health}) as server, gateway_file(home) as record:
        record(server.url)
        made = cli("keys", "link", "phone")
    assert made.out.strip().startswith(f"{server.url}/#link=")
    assert "No gateway" not in made.err


def test_only_a_hash_of_the_link_is_stored_and_the_act_is_recorded(cli, home):
    key = cli("keys", "create", "phone", "--json").json
    secret = cli("keys", "link", "phone", "--json").json["url"].partition("#link=")[2]
    assert secret.encode() not in b"".join(path.read_bytes() for path in home.glob("foundry.db*"))
    with sqlite3.connect(home / "foundry.db") as database:
        assert database.execute("SELECT key_id, one_time FROM sessions").fetchall() == [(key["id"], 1)]
        entries = database.execute("SELECT actor, action, target FROM audit_log").fetchall()
    database.close()
    assert ("cli", "session.link", key["id"]) in entries


@pytest.mark.parametrize(
    ("name", "code", "words"), [("nobody", 4, "There is no key 'nobody'."), ("old", 2, "The key 'old' is revoked")]
)
def test_a_link_that_would_open_nothing_is_refused(cli, name, code, words):
    cli("keys", "create", "old")
    cli("keys", "revoke", "old")
    refused = cli("keys", "link", name)
    assert (refused.code, refused.out) == (code, "")
    assert words in refused.err
