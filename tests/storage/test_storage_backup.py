"""Backup, restore and check, within each kind of database and from one to the other."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading

import psycopg
import pytest
from sqlalchemy import insert, text

from fastapi_foundry import errors
from fastapi_foundry.storage import migrations
from fastapi_foundry.storage.address import DatabaseAddress
from fastapi_foundry.storage.backup import back_up
from fastapi_foundry.storage.check import check_database
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.restore import restore
from fastapi_foundry.storage.schema import ensure_schema
from fastapi_foundry.storage.tables import audit_log, server_state
from tests.storage.conftest import postgres_address, sqlite_address
from tests.storage.rows import EVERYTHING, contents, fill

COUNTS = {name: len(rows) for name, rows in EVERYTHING.items()}


def filled(address: DatabaseAddress) -> DatabaseAddress:
    ensure_schema(address)
    with sync_engine(address).begin() as connection:
        fill(connection)
    return address


def all_rows(address: DatabaseAddress) -> dict[str, list[dict[str, object]]]:
    with sync_engine(address, "read").begin() as connection:
        return contents(connection)


def add(address: DatabaseAddress, name: str) -> None:
    with sync_engine(address).begin() as connection:
        connection.execute(insert(server_state).values(name=name, value=""))


@pytest.fixture
def other(request, tmp_path) -> DatabaseAddress:
    """A second database, of the kind that the test asks for."""
    if request.param == "sqlite":
        return sqlite_address(tmp_path / "other")
    return postgres_address(request.getfixturevalue("postgres_url"), tmp_path / "other")


@pytest.mark.parametrize("other", ["sqlite", "postgresql"], indirect=True)
def test_a_dump_of_sqlite_is_restored_into_either(tmp_path, other):
    source = filled(sqlite_address(tmp_path / "home"))
    report = back_up(source, tmp_path / "backup.jsonl")
    assert (report.form, report.file.stat().st_mode & 0o777) == ("jsonl", 0o600)
    restored = restore(other, report.file)
    assert (restored.rows, restored.kept) == (COUNTS, None)
    assert all_rows(other) == EVERYTHING
    assert check_database(other).problems == []
    with sync_engine(other).begin() as connection:
        entry = {name: value for name, value in EVERYTHING["audit_log"][0].items() if name != "id"}
        assert connection.execute(insert(audit_log).values(entry)).inserted_primary_key[0] == 8


@pytest.mark.parametrize("other", ["sqlite"], indirect=True)
def test_a_dump_of_postgresql_is_restored_into_sqlite_and_into_itself(postgres_url, tmp_path, other):
    source = filled(postgres_address(postgres_url, tmp_path / "home"))
    dump = back_up(source).file
    assert dump.parent == source.backups
    restore(other, dump)
    assert all_rows(other) == EVERYTHING
    add(source, "later")
    report = restore(source, dump, force=True)
    assert all_rows(source) == EVERYTHING
    assert check_database(source).problems == []
    assert '"later"' in report.kept.read_text()


def test_a_backup_of_sqlite_is_one_file_that_can_be_restored(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    backup = back_up(address).file
    assert [path.name for path in address.backups.iterdir()] == [backup.name]
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.read_bytes()[18:20] == b"\x01\x01"  # in SQLite's terms: needs no log
    add(address, "later")
    report = restore(address, backup, force=True)
    assert all_rows(address) == EVERYTHING
    assert report.rows == COUNTS
    assert address.file.stat().st_mode & 0o777 == 0o600
    kept = sqlite_address(tmp_path, path=report.kept)
    assert {row["name"] for row in all_rows(kept)["server_state"]} == {"keys_epoch", "later"}


async def test_a_backup_can_be_made_while_others_write(address, tmp_path):
    database = Database(address)
    await database.open()
    async with database.transaction() as connection:
        await connection.run_sync(fill)
    async with database.transaction() as connection:
        await connection.execute(insert(server_state).values(name="not committed", value=""))
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(back_up(address, tmp_path / "x.jsonl")))
        thread.start()
        thread.join(20)
        assert done
    await database.aclose()
    assert "not committed" not in (tmp_path / "x.jsonl").read_text()
    target = sqlite_address(tmp_path / "restored")
    restore(target, tmp_path / "x.jsonl")
    assert all_rows(target) == EVERYTHING


async def test_what_is_in_use_is_not_replaced(address, tmp_path):
    filled(address)
    dump = back_up(address, tmp_path / "x.jsonl").file
    database = Database(address)
    await database.open()
    async with database.reading():
        with pytest.raises(errors.StorageUnavailableError, match="Stop every gateway"):
            restore(address, dump, force=True)
    await database.aclose()
    restore(address, dump, force=True)


def test_what_holds_something_is_not_replaced_without_force(address, tmp_path):
    filled(address)
    dump = back_up(address, tmp_path / "x.jsonl").file
    add(address, "later")
    with pytest.raises(errors.StorageConflictError, match="--force"):
        restore(address, dump)
    assert len(all_rows(address)["server_state"]) == 2
    assert not list(address.backups.glob("*"))


def test_what_is_as_good_as_empty_is_replaced_without_force(address, tmp_path):
    source = filled(sqlite_address(tmp_path / "source"))
    dump = back_up(source, tmp_path / "x.jsonl").file
    ensure_schema(address)
    add(address, "keys_epoch")
    assert restore(address, dump).kept is None
    assert all_rows(address) == EVERYTHING


DAMAGES = {
    "cut off": lambda lines: lines[:-1],
    "cut within a line": lambda lines: [*lines[:-2], lines[-2][:10]],
    "a row lost": lambda lines: lines[:3] + lines[4:],
    "a row changed": lambda lines: [line.replace(b"key_1", b"key_9") for line in lines],
    "a row added": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "something after the end": lambda lines: [*lines, lines[1]],
    "no JSON": lambda lines: [lines[0], b"{\n", *lines[2:]],
    "no row": lambda lines: [lines[0], b"[]\n", *lines[2:]],
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_dump_is_refused_before_anything_is_replaced(tmp_path, how):
    address = filled(sqlite_address(tmp_path / "home"))
    dump = back_up(address, tmp_path / "x.jsonl").file
    dump.write_bytes(b"".join(DAMAGES[how](dump.read_bytes().splitlines(keepends=True))))
    with pytest.raises(errors.StorageCorruptError):
        restore(address, dump, force=True)
    assert all_rows(address) == EVERYTHING
    assert not list(address.backups.glob("*"))


def test_a_dump_of_a_newer_program_is_refused(address, tmp_path):
    dump = back_up(filled(sqlite_address(tmp_path / "source")), tmp_path / "x.jsonl").file
    lines = dump.read_bytes().replace(f'"{migrations.HEAD}"'.encode(), b'"9999"').splitlines(keepends=True)
    rewrite(dump, lines)
    filled(address)
    with pytest.raises(errors.StorageSchemaError, match="newer"):
        restore(address, dump, force=True)
    assert all_rows(address) == EVERYTHING


def rewrite(dump, lines: list[bytes]) -> None:
    """Write lines with a digest that fits."""
    end = json.loads(lines[-1])
    end["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    dump.write_bytes(b"".join(lines[:-1]) + json.dumps(end).encode() + b"\n")


def test_a_row_that_does_not_fit_takes_the_whole_restore_back(address, tmp_path):
    dump = back_up(filled(sqlite_address(tmp_path / "source")), tmp_path / "x.jsonl").file
    lines = dump.read_bytes().replace(b'"id":"key_1"', b'"id":"key_0"').splitlines(keepends=True)
    rewrite(dump, lines)
    filled(address)
    with pytest.raises(errors.StorageConflictError):
        restore(address, dump, force=True)
    assert all_rows(address) == EVERYTHING


@pytest.mark.parametrize("content", [b"", b"hello\n", b"{}\n"])
def test_what_is_no_backup_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(errors.InvalidInputError, match="no backup"):
        restore(sqlite_address(tmp_path / "home"), tmp_path / "x")
    with pytest.raises(errors.InvalidInputError, match="cannot be read"):
        restore(sqlite_address(tmp_path / "home"), tmp_path / "missing")
    assert not (tmp_path / "home" / "foundry.db").exists()


def test_a_database_of_another_program_is_no_backup(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    address = filled(sqlite_address(tmp_path / "home"))
    with pytest.raises(errors.StorageSchemaError, match="not a database of FastAPI Foundry"):
        restore(address, tmp_path / "x.db", force=True)
    assert all_rows(address) == EVERYTHING
    assert [path.name for path in address.file.parent.glob(".*")] == []


def test_a_damaged_copy_of_sqlite_is_refused(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    backup = back_up(address).file
    damage(backup)
    with pytest.raises(errors.StorageCorruptError):
        restore(address, backup, force=True)
    assert all_rows(address) == EVERYTHING


def damage(path) -> None:
    """Overwrite everything behind the first page, as a dying disk may."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def test_a_damaged_database_is_replaced_and_kept(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    backup = back_up(address).file
    damage(address.file)
    with pytest.raises(errors.StorageConflictError):
        restore(address, backup)
    kept = restore(address, backup, force=True).kept
    assert all_rows(address) == EVERYTHING
    assert kept.read_bytes()[4096:5000] == b"\xa5" * 904
    assert check_database(address).problems == []


def test_a_backup_replaces_no_file_and_leaves_none_behind_when_it_fails(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    (tmp_path / "there.db").write_bytes(b"mine")
    with pytest.raises(errors.InvalidInputError, match="already"):
        back_up(address, tmp_path / "there.db")
    assert (tmp_path / "there.db").read_bytes() == b"mine"
    damage(address.file)
    with pytest.raises(errors.StorageError):
        back_up(address, tmp_path / "new.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "there.db"]


def test_postgresql_says_which_form_of_backup_it_can_have(postgres_url, tmp_path):
    address = filled(postgres_address(postgres_url, tmp_path))
    with pytest.raises(errors.InvalidInputError, match="jsonl"):
        back_up(address, tmp_path / "x.db")
    copy = back_up(filled(sqlite_address(tmp_path / "home")), tmp_path / "y.db").file
    with pytest.raises(errors.InvalidInputError, match="jsonl"):
        restore(address, copy, force=True)


def test_a_check_reads_everything_and_is_content(address):
    filled(address)
    report = check_database(address)
    assert (report.problems, report.rows, report.revision) == ([], COUNTS, migrations.HEAD)
    assert report.size_bytes > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP TABLE sessions", "table sessions is missing"),
        ("ALTER TABLE api_keys DROP COLUMN prefix", "api_keys.prefix is missing"),
        ("ALTER TABLE api_keys ADD COLUMN more text", "api_keys.more should not be there"),
        ("DROP INDEX ix_audit_log_at", "ix_audit_log_at of audit_log is missing"),
        ("UPDATE foundry_schema SET version_num = '0000'", "revision 0000"),
    ],
)
def test_a_check_names_what_departs_from_the_tables(address, change, words):
    filled(address)
    with sync_engine(address).begin() as connection:
        connection.execute(text(change))
    assert words in " ".join(check_database(address).problems)


def test_a_check_names_columns_of_another_type(postgres_url, tmp_path):
    address = filled(postgres_address(postgres_url, tmp_path))
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "ALTER TABLE usage_daily ALTER COLUMN requests TYPE text, ALTER COLUMN failures DROP NOT NULL"
        )
    problems = " ".join(check_database(address).problems)
    assert "usage_daily.requests has another type" in problems
    assert "usage_daily.failures has another nullable" in problems


def test_a_check_of_postgresql_minds_its_own_tables_alone(postgres_url, tmp_path):
    address = filled(postgres_address(postgres_url, tmp_path))
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE theirs (x int)")
    assert check_database(address).problems == []


def test_a_check_finds_a_damaged_file(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    assert check_database(address).problems == []
    damage(address.file)
    assert check_database(address).problems


def test_a_check_finds_damage_that_reads_well(tmp_path):
    """An index that lost an entry answers every query, some of them wrongly."""
    address = filled(sqlite_address(tmp_path / "home"))
    with sqlite3.connect(address.file) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql='CREATE INDEX ix_audit_log_at ON audit_log (actor)' WHERE name='ix_audit_log_at'"
        )
    problems = check_database(address).problems
    assert any("ix_audit_log_at" in problem for problem in problems)


def test_a_check_finds_rows_that_refer_to_nothing(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    with sqlite3.connect(address.file) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("DELETE FROM conversations")
    assert "conversation_turns refers to a row of conversations" in " ".join(check_database(address).problems)


def test_a_check_finds_a_file_that_others_can_read(tmp_path):
    address = filled(sqlite_address(tmp_path / "home"))
    address.file.chmod(0o644)
    assert "other users" in check_database(address).problems[0]


def test_without_a_database_there_is_nothing_to_check_or_back_up(tmp_path):
    address = sqlite_address(tmp_path / "home")
    for use in (check_database, back_up):
        with pytest.raises(errors.StorageUnavailableError, match="no database"):
            use(address)
    assert not (tmp_path / "home").exists()
