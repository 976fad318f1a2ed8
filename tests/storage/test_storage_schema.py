"""How the tables come to be what this program needs, and what happens when that goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

from fastapi_foundry import errors
from fastapi_foundry.storage import migrations, schema
from fastapi_foundry.storage.address import SQLITE, DatabaseAddress
from fastapi_foundry.storage.backup import back_up
from fastapi_foundry.storage.check import damages, departures
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.dump import load_dump, verify_dump
from fastapi_foundry.storage.files import make_database_file
from fastapi_foundry.storage.schema import OURS, Steps, ensure_schema, planned_steps, revision_of, schema_change
from fastapi_foundry.storage.tables import conversation_turns
from tests.storage.conftest import postgres_address, sqlite_address
from tests.storage.rows import EVERYTHING, contents, fill

ADDS_A_COLUMN = 'op.add_column("server_state", sa.Column("note", sa.Text()))'


@pytest.fixture
def steps(tmp_path):
    """A program that is one migration ahead of ours."""

    def write(body: str) -> Steps:
        directory = tmp_path / "steps"
        shutil.copytree(migrations.DIRECTORY, directory, dirs_exist_ok=True)
        lines = "\n    ".join(body.splitlines())
        (directory / "versions" / "9999_next.py").write_text(
            f"import os, time\nimport sqlalchemy as sa\nfrom alembic import op\n"
            f'revision, down_revision = "9999", "{migrations.HEAD}"\n\n\ndef upgrade():\n    {lines}\n'
        )
        return Steps(directory, "9999")

    return write


@pytest.fixture
def filled(address: DatabaseAddress) -> DatabaseAddress:
    """A database of ours with something in every table."""
    return fill_database(address)


def fill_database(address: DatabaseAddress) -> DatabaseAddress:
    ensure_schema(address)
    with sync_engine(address).begin() as connection:
        fill(connection)
    return address


def all_rows(address: DatabaseAddress) -> dict[str, list[dict[str, object]]]:
    with sync_engine(address, "read").begin() as connection:
        return contents(connection)


def columns(address: DatabaseAddress, table: str) -> set[str]:
    with sync_engine(address, "read").begin() as connection:
        return {column["name"] for column in inspect(connection).get_columns(table)}


def revision(address: DatabaseAddress) -> str | None:
    with sync_engine(address, "read").begin() as connection:
        return revision_of(connection)


def test_the_last_migration_is_the_one_that_the_program_names():
    config = Config()
    config.set_main_option("script_location", str(migrations.DIRECTORY))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def definitions(connection) -> list[tuple[str, ...]]:
    """Every table and index as the database itself describes it."""
    if connection.dialect.name == SQLITE:
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master"
    else:
        query = """
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull || a.attnum, '' FROM pg_class c
            JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
            UNION ALL SELECT conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT tablename, indexname, indexdef, '' FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT table_name, column_name, column_default, '' FROM information_schema.columns
            WHERE table_schema = 'public'"""
    return sorted(tuple(str(cell) for cell in row) for row in connection.exec_driver_sql(query))


def test_new_tables_are_those_that_the_migrations_make(address):
    with sync_or_made(address) as connection:
        schema.create_tables(connection)
        at_once = definitions(connection)
        assert departures(connection) == []
        connection.rollback()
    with sync_or_made(address) as connection:
        planned_steps(connection, OURS, to=migrations.HEAD)()
        step_by_step = definitions(connection)
        assert departures(connection) == []
    assert step_by_step == at_once
    assert len(at_once) > 15


def sync_or_made(address: DatabaseAddress):
    if address.dialect == SQLITE:
        address.file.parent.mkdir(exist_ok=True)
        address.file.touch()
    return sync_engine(address, "rebuild").connect()


def test_a_migration_keeps_what_was_there_and_leaves_a_copy_of_it(filled, steps):
    report = ensure_schema(filled, steps(ADDS_A_COLUMN))
    assert (report.before, report.after, report.changed) == (migrations.HEAD, "9999", True)
    assert "note" in columns(filled, "server_state")
    assert all_rows(filled) == EVERYTHING
    if filled.dialect == SQLITE:
        assert report.backup is not None
        assert report.backup.name.endswith("-before-9999.db")
        assert report.backup.stat().st_mode & 0o777 == 0o600
        assert report.backup.parent.stat().st_mode & 0o777 == 0o700
        copy = sqlite_address(filled.file.parent, path=report.backup)
        assert (revision(copy), all_rows(copy)) == (migrations.HEAD, EVERYTHING)
    assert not ensure_schema(filled, steps(ADDS_A_COLUMN)).changed


def test_a_migration_that_fails_changes_nothing_and_says_where_the_copy_is(filled, steps):
    with pytest.raises(errors.StorageSchemaError) as caught:
        ensure_schema(filled, steps(f'{ADDS_A_COLUMN}\nop.drop_table("sessions")\nraise ValueError("no way")'))
    assert "no way" in caught.value.message
    assert revision(filled) == migrations.HEAD
    assert "note" not in columns(filled, "server_state")
    assert all_rows(filled) == EVERYTHING
    if filled.dialect == SQLITE:
        (copy,) = filled.backups.iterdir()
        assert str(copy) in caught.value.message
    assert ensure_schema(filled, steps(ADDS_A_COLUMN)).after == "9999"


def test_a_database_of_a_newer_program_is_refused_and_left_alone(filled, steps):
    ensure_schema(filled, steps(ADDS_A_COLUMN))
    copies = list(filled.backups.glob("*"))
    with pytest.raises(errors.StorageSchemaError, match=f"newer version.*9999.*{migrations.HEAD}"):
        ensure_schema(filled)
    assert (revision(filled), all_rows(filled)) == ("9999", EVERYTHING)
    assert list(filled.backups.glob("*")) == copies


STARTED = """
import json, sys
from pathlib import Path
from fastapi_foundry.storage.address import DatabaseAddress
from fastapi_foundry.storage.schema import Steps, ensure_schema
given = json.loads(sys.argv[1])
address = DatabaseAddress(given["dialect"], "test", Path(given["path"]) if given["path"] else None, Path(given["backups"]),
                          url=given["url"])
steps = Steps(Path(given["steps"]), given["head"])
print("ready", flush=True)
sys.stdin.readline()
report = ensure_schema(address, steps)
print(json.dumps([report.before, report.after, report.backup is not None]), flush=True)
"""


def start(address: DatabaseAddress, steps: Steps) -> subprocess.Popen[str]:
    """A process that is about to bring the tables up, as soon as it is written a line."""
    given = {
        "dialect": address.dialect,
        "path": str(address.path) if address.path else None,
        "backups": str(address.backups),
        "url": address.url,
        "steps": str(steps.directory),
        "head": steps.head,
    }
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def release(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def let_run(*processes: subprocess.Popen[str]) -> list[object]:
    release(*processes)
    try:
        return [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_of_processes_that_start_at_once_one_migrates(filled, steps, tmp_path):
    note = tmp_path / "ran"
    slow = steps(f'time.sleep(0.2)\nopen("{note}", "a").write("once ")\n{ADDS_A_COLUMN}')
    outcomes = let_run(*(start(filled, slow) for _ in range(2)))
    assert note.read_text() == "once "
    assert sorted(outcome[0] for outcome in outcomes) == [migrations.HEAD, "9999"]
    assert {outcome[1] for outcome in outcomes} == {"9999"}
    assert all_rows(filled) == EVERYTHING
    assert len(list(filled.backups.glob("*"))) == (1 if filled.dialect == SQLITE else 0)


def test_of_processes_that_start_at_once_without_a_database_one_makes_it(address):
    outcomes = let_run(*(start(address, OURS) for _ in range(2)))
    assert sorted(outcomes, key=str) == [[migrations.HEAD, migrations.HEAD, False], [None, migrations.HEAD, False]]


def test_a_process_that_is_killed_while_it_migrates_changes_nothing(filled, steps, tmp_path):
    reached = tmp_path / "reached"
    endless = steps(f'{ADDS_A_COLUMN}\nop.drop_table("sessions")\nopen("{reached}", "w").close()\ntime.sleep(60)')
    process = start(filled, endless)
    release(process)
    deadline = time.monotonic() + 20
    while not reached.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert (revision(filled), all_rows(filled)) == (migrations.HEAD, EVERYTHING)
    assert ensure_schema(filled, steps(ADDS_A_COLUMN)).after == "9999"


def test_five_copies_are_kept_and_those_that_people_made_stay(tmp_path, steps):
    address = fill_database(sqlite_address(tmp_path / "home"))
    address.backups.mkdir()
    own = address.backups / "foundry-20200101T000000Z.db"
    own.write_bytes(b"mine")
    for number in range(7):
        old = address.backups / f"foundry-2020010{number}T000000Z-before-0001.db"
        old.write_bytes(b"old")
        os.utime(old, (number, number))
    report = ensure_schema(address, steps(ADDS_A_COLUMN))
    kept = sorted(path.name for path in address.backups.iterdir())
    expected = [f"foundry-2020010{number}T000000Z-before-0001.db" for number in (3, 4, 5, 6)]
    assert kept == sorted([*expected, own.name, report.backup.name])


def test_a_migration_that_makes_a_table_anew_loses_nothing_that_refers_to_it(tmp_path, steps):
    address = fill_database(sqlite_address(tmp_path / "home"))
    body = 'with op.batch_alter_table("conversations", recreate="always") as table:\n    table.alter_column("key_id", type_=sa.String())'
    ensure_schema(address, steps(body))
    assert all_rows(address) == EVERYTHING


def test_a_migration_that_breaks_a_reference_is_taken_back(tmp_path, steps):
    address = fill_database(sqlite_address(tmp_path / "home"))
    with pytest.raises(errors.StorageSchemaError, match="refers"):
        ensure_schema(address, steps('op.execute("DELETE FROM conversations")'))
    assert all_rows(address) == EVERYTHING


def test_a_change_of_tables_is_one_transaction(address):
    ensure_schema(address)

    def change_and_fail() -> None:
        with schema_change(address) as connection:
            connection.execute(text("DROP TABLE sessions"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    with sync_engine(address, "read").begin() as connection:
        assert departures(connection) == damages(connection) == []
        assert connection.execute(select(conversation_turns)).all() == []


def test_a_start_with_tables_that_fit_imports_no_alembic(tmp_path):
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom fastapi_foundry.storage.address import DatabaseAddress\n"
        "from fastapi_foundry.storage.database import Database\n"
        "home = Path(sys.argv[1])\naddress = DatabaseAddress('sqlite', '', home / 'foundry.db', home / 'backups')\n"
        "for _ in range(2):\n    asyncio.run(Database(address).open())\n"
        "print([name for name in ('alembic', 'mako', 'psycopg') if name in sys.modules])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "home")], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["fastapi_foundry.cli.main", "fastapi_foundry.daemon.app", "fastapi_foundry.storage.address"]
)
def test_whoever_needs_no_database_imports_none(module):
    code = f"import sys, {module}; print('sqlalchemy' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "False"


def test_a_shared_postgresql_database_keeps_the_tables_of_others_through_a_migration(postgres_url, tmp_path, steps):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('abc')"
        )
    address = fill_database(postgres_address(postgres_url, tmp_path))
    ensure_schema(address, steps(ADDS_A_COLUMN))
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("abc",)]


def test_a_dump_of_an_older_program_is_restored_and_migrated(address, steps, tmp_path):
    dump = back_up(fill_database(sqlite_address(tmp_path / "older")), tmp_path / "x.jsonl").file
    if address.dialect == SQLITE:
        make_database_file(address.file)
    with schema_change(address) as connection:
        load_dump(connection, dump, verify_dump(dump), steps(ADDS_A_COLUMN))
    assert revision(address) == "9999"
    assert "note" in columns(address, "server_state")
    assert all_rows(address) == EVERYTHING
