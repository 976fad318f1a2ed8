"""``fastapi-foundry db``: what it says and how it ends."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from fastapi_foundry.settings import load_settings
from fastapi_foundry.storage.database import open_database
from fastapi_foundry.storage.migrations import HEAD


def test_upgrade_makes_the_database_once(cli, home):
    outcome = cli("db", "upgrade", "--json")
    assert outcome.code == 0
    assert outcome.json == {
        "database": str(home / "foundry.db"),
        "before": None,
        "after": HEAD,
        "changed": True,
        "backup": None,
    }
    assert "up to date" in cli("db", "upgrade").out


def test_check_says_what_is_there_and_ends_with_1_when_something_is_wrong(cli, home):
    outcome = cli("db", "check")
    assert (outcome.code, outcome.out) == (3, "")
    assert "There is no database" in outcome.err
    cli("db", "upgrade")
    outcome = cli("db", "check")
    assert outcome.code == 0
    assert "api_keys" in outcome.out
    assert "All is well." in outcome.out
    with sqlite3.connect(home / "foundry.db") as connection:
        connection.execute("DROP TABLE sessions")
    outcome = cli("db", "check", "--json")
    assert outcome.code == 1
    assert outcome.json["ok"] is False
    assert outcome.json["problems"][0] == "The table sessions is missing."
    assert "sessions is missing" in cli("db", "check").out


@pytest.mark.parametrize("name", [None, "copy.db", "copy.jsonl"])
def test_what_backup_writes_restore_takes(cli, home, tmp_path, name):
    cli("db", "upgrade")
    add_state(home, "a")
    arguments = [] if name is None else [tmp_path / name]
    made = cli("db", "backup", *arguments, "--json").json
    assert made["format"] == ("jsonl" if name == "copy.jsonl" else "sqlite")
    assert made["bytes"] > 0
    add_conversation(home)
    refused = cli("db", "restore", made["file"])
    assert refused.code == 1
    assert "--force" in refused.err
    outcome = cli("db", "restore", made["file"], "--force", "--json")
    assert outcome.code == 0
    assert outcome.json["rows"]["server_state"] == 1
    assert outcome.json["rows"]["conversations"] == 0
    with sqlite3.connect(outcome.json["kept"]) as kept:
        assert kept.execute("SELECT id FROM conversations").fetchall() == [("c",)]


def test_restore_refuses_while_the_database_is_in_use_and_the_other_commands_do_not(cli, home, tmp_path):
    cli("db", "upgrade")
    assert cli("db", "backup", tmp_path / "x.db").code == 0

    async def while_open() -> None:
        database = await open_database(load_settings())
        try:
            outcome = cli("db", "restore", tmp_path / "x.db", "--force")
            assert outcome.code == 3
            assert "Stop every gateway" in outcome.err
            assert cli("db", "check").code == 0
            assert cli("db", "upgrade").code == 0
            assert cli("db", "backup", tmp_path / "y.db").code == 0
        finally:
            await database.aclose()

    asyncio.run(while_open())


def test_wrong_use_ends_with_2(cli, tmp_path):
    cli("db", "upgrade")
    (tmp_path / "there").touch()
    assert cli("db", "backup", tmp_path / "there").code == 2
    assert cli("db", "restore", tmp_path / "there").code == 2
    assert cli("db", "restore", tmp_path / "missing", "--json").json["error"]["param"] == "file"


def test_a_database_of_a_newer_version_is_said_in_one_line(cli, home):
    cli("db", "upgrade")
    with sqlite3.connect(home / "foundry.db") as connection:
        connection.execute("UPDATE foundry_schema SET version_num = '9999'")
    outcome = cli("db", "upgrade")
    assert outcome.code == 1
    assert "newer version" in outcome.err
    assert "Traceback" not in outcome.err


def add_state(home, name: str) -> None:
    with sqlite3.connect(home / "foundry.db") as connection:
        connection.execute("INSERT INTO server_state VALUES (?, '')", [name])


def add_conversation(home) -> None:
    with sqlite3.connect(home / "foundry.db") as connection:
        connection.execute("INSERT INTO conversations VALUES ('c', NULL, 1, 1, NULL)")
