"""Writers that are killed in the middle of their work: ``python storage_writer.py HOME KILLS SEED``.

Each writer is a fork of this process (which has everything imported and no thread), opens the database and writes until
it is killed. After each commit it says so; this process prints what was said, one line for each.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import uvloop
from sqlalchemy import insert, update

from fastapi_foundry.storage.address import DatabaseAddress
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.tables import api_keys, conversation_turns, conversations, usage_daily

BUDGET_KEY = "key_budget"
DAY = {"day": "2026-11-21", "key_id": BUDGET_KEY, "model": "m:1"}
_NOTHING_YET = {"failures": 0, "prompt_tokens": 0, "completion_tokens": 0, "duration_s": 0.0}
_WRITERS_AT_ONCE = 4
_LONGEST_LIFE_S = 20.0


def address_in(home: Path) -> DatabaseAddress:
    return DatabaseAddress("sqlite", str(home), home / "foundry.db", home / "backups")


def key_row(key_id: str, limit: int) -> dict[str, object]:
    return {
        "id": key_id,
        "name": "",
        "prefix": "",
        "hash": key_id,
        "created_at": 0,
        "created_by": "",
        "scopes": [],
        "limits": {"tokens_per_day": limit},
    }


async def write(database: Database, name: str, said: int) -> None:
    """Write rows of every kind in one transaction after another, and say each that was committed."""
    number = 0
    while True:
        number += 1
        row = f"{name}-{number}"
        count = database.insert(usage_daily).values(**DAY, **_NOTHING_YET, requests=1)
        counted = count.on_conflict_do_update(
            index_elements=list(DAY), set_={"requests": usage_daily.c.requests + 1}
        ).returning(usage_daily.c.requests)
        async with database.transaction() as connection:
            await connection.execute(insert(api_keys).values(key_row(row, number)))
            total = (await connection.execute(counted)).scalar_one()
            await connection.execute(
                update(api_keys).where(api_keys.c.id == BUDGET_KEY).values(limits={"tokens_per_day": total})
            )
            await connection.execute(insert(conversations).values(id=row, created_at=0, updated_at=0))
            content = {"text": row * 100}
            turn = insert(conversation_turns).values(
                conversation_id=row, number=1, role="user", content=content, created_at=0
            )
            await connection.execute(turn)
        os.write(said, f"{row} {total}\n".encode())


async def live(home: Path, name: str, said: int) -> None:
    database = Database(address_in(home))
    await database.open()
    async with database.transaction() as connection:
        first = database.insert(api_keys).values(key_row(BUDGET_KEY, 0))
        await connection.execute(first.on_conflict_do_nothing())
    os.write(said, b"open\n")
    await asyncio.gather(*(write(database, f"{name}-{index}", said) for index in range(_WRITERS_AT_ONCE)))


def one_life(home: Path, name: str, chance: random.Random) -> bytes:
    """Start a writer, kill it at some moment, and return what it said."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(heard)
            uvloop.run(live(home, name, said))
        finally:
            os._exit(1)
    os.close(said)
    words = b""
    # One in five is killed before or while it opens the database, the others while they write.
    at_birth = chance.random() < 0.2
    if not at_birth:
        wanted = 1 + chance.randrange(12)  # "open", and so many acknowledgements, however slow the machine is
        while words.count(b"\n") < wanted and select.select([heard], [], [], _LONGEST_LIFE_S)[0]:
            part = os.read(heard, 65536)
            if not part:
                break
            words += part
    time.sleep(chance.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    while part := os.read(heard, 65536):
        words += part
    os.close(heard)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) or (not at_birth and not words.startswith(b"open\n")):
        raise SystemExit(f"writer {name} ended by itself ({status}) after {words[-200:]!r}")
    return words


def main() -> None:
    home, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    chance = random.Random(seed)
    for number in range(kills):
        sys.stdout.write(one_life(home, f"w{number}", chance).decode())
        sys.stdout.flush()


if __name__ == "__main__":
    main()
