"""The record of use, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime

import pytest

from fastapi_foundry.errors import StorageUnavailableError
from fastapi_foundry.services import usage as usage_module
from fastapi_foundry.services.budgets import EVERYBODY
from fastapi_foundry.services.usage import LOCAL_KEY, OTHER_MODELS, UsageService, Use
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.usage import UsageFigures, UsageQuery, UsageStore
from tests.support.waiting import eventually

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC).timestamp()
EVER = {"first_day": "2000-01-01", "last_day": "2100-01-01"}


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def use(key: str | None = "key_1", model: str = "m:1", prompt: int = 3, completion: int = 4) -> Use:
    return Use(key, model, prompt, completion, 0.5, failed=False)


async def everything(database: Database) -> dict[tuple[str | None, ...], UsageFigures]:
    rows = await UsageStore(database).rows(UsageQuery(**EVER, group="none"), limit=100)
    return {(row.day, row.key_id, row.model): row.figures for row in rows}


async def test_what_several_processes_record_adds_up(database: Database) -> None:
    services = [UsageService(UsageStore(database), now=Clock()) for _ in range(3)]
    for service in services:
        for _ in range(2):
            service.record(use())
        service.record(Use("key_1", "m:1", 0, 0, 0.25, failed=True))
        service.record(use(None, "other:2"))
    await asyncio.gather(*(service.flush() for service in services))
    assert await everything(database) == {
        ("2026-11-30", "key_1", "m:1"): UsageFigures(9, 3, 18, 24, 3.75),
        ("2026-11-30", LOCAL_KEY, "other:2"): UsageFigures(3, 0, 9, 12, 1.5),
    }


async def test_it_is_written_without_being_told_to(database: Database) -> None:
    service = UsageService(UsageStore(database), flush_s=0.02)
    await service.start()
    service.record(use())
    await eventually(lambda: everything(database))
    await service.aclose()


async def test_the_end_writes_what_is_left(database: Database) -> None:
    service = UsageService(UsageStore(database), flush_s=60)
    await service.start()
    service.record(use())
    await service.aclose()
    assert len(await everything(database)) == 1


async def test_a_database_that_fails_costs_no_figures(database: Database) -> None:
    service = UsageService(UsageStore(database), now=Clock())
    await service.watch("key_1")
    service.record(use())
    await database.aclose()
    with pytest.raises(StorageUnavailableError):
        await service.flush()
    service.record(use())
    assert service.budgets.spent("key_1") == (14, 14)
    await database.open()
    await service.flush()
    assert list((await everything(database)).values()) == [UsageFigures(2, 0, 6, 8, 1.0)]
    assert service.budgets.spent("key_1") == (14, 14)


class ForgetfulStore(UsageStore):
    """Cannot be asked about the month, for once."""

    asked = 0

    async def tokens(self, first_day: str, last_day: str, names: Collection[str]) -> dict[str, int]:
        self.asked += 1
        if self.asked == 1:
            raise StorageUnavailableError("busy")
        return await super().tokens(first_day, last_day, names)


async def test_what_has_been_written_is_not_written_again_when_reading_fails(database: Database) -> None:
    service = UsageService(ForgetfulStore(database), now=Clock())
    service.record(use())
    with pytest.raises(StorageUnavailableError):
        await service.watch("key_1")
    assert not service.budgets.knows("key_1")
    await service.watch("key_1")
    assert service.budgets.spent("key_1") == (7, 7)
    assert [figures.requests for figures in (await everything(database)).values()] == [1]


async def test_memory_stays_bounded_and_the_sums_right(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "_MOST_PENDING", 5)
    service = UsageService(UsageStore(database), now=Clock())
    for number in range(20):
        service.record(use(f"key_{number}"))
    await service.flush()
    found = await everything(database)
    assert len(found) == 6
    assert found["2026-11-30", OTHER_MODELS, OTHER_MODELS].requests == 15


async def test_somebody_who_leaves_takes_no_figures_along(database: Database) -> None:
    service = UsageService(UsageStore(database), now=Clock())
    for number in range(20):
        service.record(use(f"key_{number}"))
        flushing = asyncio.create_task(service.flush())
        await asyncio.sleep(0.0005 * number)
        flushing.cancel()
    await service.flush()
    assert sum(figures.requests for figures in (await everything(database)).values()) == 20


async def test_budgets_see_what_other_processes_use(database: Database) -> None:
    clock = Clock()
    mine, theirs = (UsageService(UsageStore(database), now=clock) for _ in range(2))
    theirs.record(use())
    await theirs.flush()
    await mine.watch("key_1", EVERYBODY)
    mine.record(use())
    assert mine.budgets.spent("key_1") == (14, 14)
    theirs.record(use())
    theirs.record(use("key_2"))
    await theirs.flush()
    await mine.flush()
    assert mine.budgets.spent("key_1") == (21, 21)
    assert mine.budgets.spent(EVERYBODY) == (28, 28)
    assert mine.budgets.spent("key_2") == (0, 0)


async def test_a_new_day_and_a_new_month_begin_at_nothing(database: Database) -> None:
    clock = Clock()
    clock.now -= 86_400
    service = UsageService(UsageStore(database), now=clock)
    await service.watch("key_1")
    service.record(use())
    clock.now += 86_400  # the last of the month
    assert service.budgets.spent("key_1") == (0, 7)
    service.record(use())
    assert service.budgets.spent("key_1") == (7, 14)
    await service.flush()
    assert service.budgets.spent("key_1") == (7, 14)
    clock.now += 86_400
    assert service.budgets.spent("key_1") == (0, 0)
    service.record(use())
    await service.flush()
    assert service.budgets.spent("key_1") == (7, 7)


async def test_tokens_under_way_count_until_they_are_recorded(database: Database) -> None:
    service = UsageService(UsageStore(database), now=Clock())
    await service.watch("key_1")
    assert not service.budgets.charge("key_1", (4, None), 5, NOON)
    await service.flush()
    assert service.budgets.spent("key_1") == (5, 5)
    service.record(use(completion=6))
    assert service.budgets.charge("key_1", (4, None), -5, NOON)  # it had been passed before
    await service.flush()
    assert service.budgets.spent("key_1") == (9, 9)


async def test_nobody_is_watched_for_ever(database: Database) -> None:
    clock = Clock()
    service = UsageService(UsageStore(database), now=clock)
    await service.watch("key_1")
    clock.now += 601
    await service.flush()
    assert not service.budgets.in_use


async def test_rows_are_summed_and_chosen(database: Database) -> None:
    store = UsageStore(database)
    await store.add(
        [
            ("2026-11-01", "key_1", "m:1", UsageFigures(1, 0, 10, 5, 1.0)),
            ("2026-11-02", "key_1", "m:2", UsageFigures(2, 1, 20, 5, 2.0)),
            ("2026-11-02", "key_2", "m:1", UsageFigures(4, 0, 40, 5, 4.0)),
            ("2026-12-01", "key_1", "m:1", UsageFigures(8, 0, 80, 5, 8.0)),
        ]
    )

    async def requests(**query: str) -> list[tuple[str | None, int]]:
        asked = UsageQuery(**{"first_day": "2026-11-01", "last_day": "2026-11-30"} | query)  # type: ignore[arg-type]
        rows = await store.rows(asked, limit=10)
        return [(row.day or row.key_id or row.model, row.figures.requests) for row in rows]

    assert await requests() == [("2026-11-01", 1), ("2026-11-02", 6)]
    assert await requests(group="key") == [("key_2", 4), ("key_1", 3)]
    assert await requests(group="model") == [("m:1", 5), ("m:2", 2)]
    assert await requests(key_id="key_1", model="m:2") == [("2026-11-02", 2)]
    assert await requests(last_day="2027-01-01") == [("2026-11-01", 1), ("2026-11-02", 6), ("2026-12-01", 8)]
    assert await store.tokens("2026-11-02", "2026-11-30", ["key_1", "key_9"]) == {"key_1": 25, "key_9": 0}
    assert await store.tokens("2026-11-02", "2026-11-30", ["", "key_1"]) == {"": 70, "key_1": 25}


async def test_more_keys_than_fit_into_one_statement_are_asked_about(database: Database) -> None:
    store = UsageStore(database)
    names = [f"key_{number}" for number in range(1200)]
    await store.add([("2026-11-01", name, "m:1", UsageFigures(1, 0, 1, 0, 0.0)) for name in names])
    assert await store.tokens("2026-11-01", "2026-11-01", names) == dict.fromkeys(names, 1)


async def test_old_days_are_deleted(database: Database) -> None:
    store = UsageStore(database)
    await store.add([(f"2026-11-0{day}", "key_1", "m:1", UsageFigures(1)) for day in range(1, 6)])
    assert await store.prune("2026-11-04") == 3
    assert {day for day, _, _ in await everything(database)} == {"2026-11-04", "2026-11-05"}
