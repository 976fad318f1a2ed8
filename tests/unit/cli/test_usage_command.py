"""``fastapi-foundry usage`` on a database that is there already."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from fastapi_foundry.settings import load_settings
from fastapi_foundry.storage.database import open_database
from fastapi_foundry.storage.usage import UsageFigures, UsageStore
from tests.unit.cli.conftest import Cli

TODAY = datetime.now(UTC).date()


def day(ago: int) -> str:
    return (TODAY - timedelta(days=ago)).isoformat()


@pytest.fixture
def recorded(home: Path, cli: Cli) -> str:
    """Three days of use; the id of the key behind most of it."""
    key = str(cli("keys", "create", "notes app", "--json").json["id"])

    async def record() -> None:
        database = await open_database(load_settings(None))
        await UsageStore(database).add(
            [
                (day(0), key, "m:1", UsageFigures(3, 1, 30, 12, 1.25)),
                (day(1), key, "m:2", UsageFigures(1, 0, 5, 5, 0.5)),
                (day(1), "local", "m:1", UsageFigures(1, 0, 1, 1, 0.25)),
                (day(40), key, "m:1", UsageFigures(100, 0, 1000, 1000, 50.0)),
            ]
        )
        await database.aclose()

    asyncio.run(record())
    return key


def test_days_are_summed_up_in_a_table(recorded: str, cli: Cli) -> None:
    lines = [line.split() for line in cli("usage").out.splitlines()]
    assert lines == [
        ["DAY", "REQUESTS", "FAILED", "PROMPT", "COMPLETION", "TOKENS", "SECONDS"],
        [day(1), "2", "0", "6", "6", "12", "0.8"],
        [day(0), "3", "1", "30", "12", "42", "1.2"],
        ["in", "all", "5", "1", "36", "18", "54", "2.0"],
    ]


def test_keys_are_shown_by_name_and_more_days_when_asked_for(recorded: str, cli: Cli) -> None:
    outcome = cli("usage", "--by", "key", "--days", "60")
    assert f"notes app ({recorded})  104" in outcome.out
    assert cli("usage", "--by", "model", "--json").json["usage"] == [
        {"model": "m:1"} | figures(4, 1, 31, 13, 1.5),
        {"model": "m:2"} | figures(1, 0, 5, 5, 0.5),
    ]


def figures(requests: int, failures: int, prompt: int, completion: int, duration: float) -> dict[str, float]:
    return {
        "requests": requests,
        "failures": failures,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "duration_s": duration,
    }


def test_every_row_is_exported_as_csv_and_as_json_lines(recorded: str, cli: Cli, tmp_path: Path) -> None:
    table, lines = tmp_path / "use.csv", tmp_path / "use.jsonl"
    assert cli("usage", "--export", table).out == f"3 rows written to {table}\n"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["day"], row["key"], row["key_name"], row["model"]) for row in rows] == sorted(
        [(day(0), recorded, "notes app", "m:1"), (day(1), recorded, "notes app", "m:2"), (day(1), "local", "", "m:1")]
    )
    assert cli("usage", "--export", lines, "--json").json["count"] == 3
    assert [orjson.loads(line)["total_tokens"] for line in lines.read_text().splitlines()] == [
        int(row["total_tokens"]) for row in rows
    ]


def test_a_file_that_is_there_is_left_as_it_is(recorded: str, cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "use.csv"
    table.write_text("mine")
    outcome = cli("usage", "--export", table)
    assert (outcome.code, "already" in outcome.err, table.read_text()) == (2, True, "mine")
    assert cli("usage", "--export", tmp_path / "use.xls").code == 2
    assert cli("usage", "--export", tmp_path / "no" / "use.csv").code == 2


def test_nothing_is_said_to_be_nothing(home: Path, cli: Cli) -> None:
    assert cli("usage", "--days", "7").out == f"Nothing has been used since {day(6)}.\n"
