"""What was acknowledged is in the database, and the database is whole, however often a writer is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import func, select

from fastapi_foundry.storage.check import check_database
from fastapi_foundry.storage.connections import sync_engine
from fastapi_foundry.storage.tables import api_keys, conversation_turns, conversations, usage_daily
from tests.support import storage_writer
from tests.support.storage_writer import BUDGET_KEY, address_in

KILLS = 50


def test_nothing_acknowledged_is_lost_and_nothing_is_half_done_after_50_kills(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, storage_writer.__file__, str(home), str(KILLS), "a seed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    acknowledged = dict(line.split() for line in lines if line != "open")
    assert lines.count("open") >= KILLS // 2
    assert len(acknowledged) >= KILLS * 2

    report = check_database(address_in(home))
    assert report.problems == []
    with sync_engine(address_in(home), "read").begin() as connection:
        turns = dict(
            connection.execute(select(conversation_turns.c.conversation_id, conversation_turns.c.content)).all()
        )
        keys = set(connection.execute(select(api_keys.c.id)).scalars()) - {BUDGET_KEY}
        budget = connection.execute(select(api_keys.c.limits).where(api_keys.c.id == BUDGET_KEY)).scalar_one()
        requests = connection.execute(select(usage_daily.c.requests)).scalar_one()
        number_of_conversations = connection.execute(select(func.count()).select_from(conversations)).scalar_one()
    assert acknowledged.keys() <= keys
    assert requests >= max(int(total) for total in acknowledged.values())
    # Each transaction is in every table or in none.
    assert keys == turns.keys()
    assert all(turns[name] == {"text": name * 100} for name in keys)
    assert len(keys) == number_of_conversations == requests == budget["tokens_per_day"]
