"""Batches in the database: leases, results that are kept once, files with their bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fastapi_foundry.storage.batches import BatchRecord, BatchStore, Lease, LeaseLostError, LineResult
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.stored_files import FileQuery, FileStore, Held, StoredFile

SECOND = 1_000_000
PLENTY = Held(100, 10**9)


def batch(number: int = 0, key: str = "key_a", status: str = "validating") -> BatchRecord:
    return BatchRecord(f"batch_{number}", key, "/v1/embeddings", f"file-{number}", status, number, number + 1)


def file(number: int, key: str = "key_a", size: int = 1, expires_at: int | None = None) -> StoredFile:
    return StoredFile(f"file-{number}", key, "batch", "in.jsonl", size, number, expires_at)


def store_of(database: Database, *, lease_s: float = 60.0) -> BatchStore:
    return BatchStore(database, lease_s=lease_s)


async def leased(store: BatchStore, record: BatchRecord, owner: str = "me") -> Lease:
    assert await store.add(record, most_open=100)
    claimed = await store.claim(record.id, owner)
    assert claimed is not None
    return claimed[0]


def result(line: int, text: str = "x", *, ok: bool = True) -> LineResult:
    return LineResult(line, ok=ok, result=text, prompt_tokens=2, completion_tokens=3)


async def test_one_of_many_gets_a_batch_and_the_next_one_when_the_lease_has_run_out(database):
    store = store_of(database, lease_s=0.2)
    await store.add(batch(), most_open=1)
    claims = await asyncio.gather(*(store.claim("batch_0", f"worker {number}") for number in range(8)))
    (first,) = [claim for claim in claims if claim is not None]
    assert await store.waiting() == []
    for _ in range(3):
        await asyncio.sleep(0.1)
        await store.renew(first[0])
    assert await store.waiting() == []
    await asyncio.sleep(0.25)
    assert [each.id for each in await store.waiting()] == ["batch_0"]
    second = await store.claim("batch_0", "another")
    assert second is not None
    assert second[0].fence > first[0].fence
    for late in (
        store.renew(first[0]),
        store.add_results(first[0], [result(1)]),
        store.begin(first[0], 1),
        store.end(first[0], "completed", files={}),
    ):
        with pytest.raises(LeaseLostError):
            await late
    await store.release(first[0])
    assert await store.waiting() == []
    assert await store.done_lines("batch_0") == set()
    await store.release(second[0])
    assert len(await store.waiting()) == 1


async def test_a_line_has_one_result_however_often_it_is_run(database):
    store = store_of(database)
    lease = await leased(store, batch())
    assert await store.begin(lease, 4) == "in_progress"
    await store.add_results(lease, [result(1, "first"), result(2, "bad", ok=False), result(1, "again")])
    await store.add_results(lease, [result(1, "later"), result(3, "third")])
    assert await store.done_lines("batch_0") == {1, 2, 3}
    assert await store.results("batch_0", ok=True, after=0, limit=10) == [(1, "first"), (3, "third")]
    assert await store.results("batch_0", ok=True, after=1, limit=10) == [(3, "third")]
    assert await store.results("batch_0", ok=False, after=0, limit=10) == [(2, "bad")]
    found = await store.get("batch_0")
    assert found is not None
    assert (found.total, found.completed, found.failed) == (4, 2, 1)
    assert (found.prompt_tokens, found.completion_tokens) == (6, 9)


async def test_a_batch_ends_with_its_files_or_not_at_all(database):
    store, files = store_of(database), FileStore(database)
    lease = await leased(store, batch())
    await store.begin(lease, 1)
    await store.add_results(lease, [result(1)])
    assert await store.begin_finalizing(lease) == "finalizing"
    output = replace(file(7), purpose="batch_output")
    with pytest.raises(LeaseLostError):
        await store.end(replace(lease, fence=0), "completed", files={"output_file_id": output})
    assert await files.get("file-7") is None
    await store.end(lease, "completed", files={"output_file_id": output})
    assert await files.get("file-7") == output
    ended = await store.get("batch_0")
    assert ended is not None
    assert (ended.status, ended.output_file_id, ended.error_file_id) == ("completed", "file-7", None)
    assert ended.completed_at
    assert await store.done_lines("batch_0") == set()
    assert await store.waiting() == []
    assert await store.prune(2**60) == 1
    assert await store.get("batch_0") is None


async def test_a_batch_is_cancelled_while_it_can_be(database):
    store = store_of(database)
    lease = await leased(store, batch())
    cancelled = await store.cancel("batch_0")
    assert cancelled is not None
    assert (cancelled.status, bool(cancelled.cancelling_at)) == ("cancelling", True)
    assert await store.renew(lease) == "cancelling"
    assert await store.begin(lease, 3) == "cancelling"
    await store.end(lease, "cancelled", files={})
    again = await store.cancel("batch_0")
    assert again is not None
    assert again.status == "cancelled"
    assert await store.cancel("batch_1") is None


async def test_nobody_has_more_open_batches_than_he_may(database):
    store = store_of(database)
    added = await asyncio.gather(*(store.add(batch(number), most_open=3) for number in range(3)))
    assert added == [True, True, True]
    assert not await store.add(batch(3), most_open=3)
    assert await store.add(batch(4, key="key_b"), most_open=3)
    claimed = await store.claim("batch_0", "me")
    assert claimed is not None
    await store.end(claimed[0], "failed", files={}, errors=[{"code": "x"}])
    assert await store.add(batch(3), most_open=3)
    listed = await store.page("key_a", limit=2)
    assert [each.id for each in listed] == ["batch_3", "batch_2"]
    assert [each.id for each in await store.page("key_a", limit=9, after=listed[1])] == ["batch_1", "batch_0"]
    assert len(await store.page(None, limit=9)) == 5


async def test_files_are_bounded_by_their_number_and_their_bytes(database):
    files = FileStore(database)
    assert await files.add(file(1, size=60), most=Held(2, 100))
    assert not await files.add(file(2, size=50), most=Held(2, 100))
    assert await files.add(file(2, size=40), most=Held(2, 100))
    assert not await files.add(file(3, size=0), most=Held(2, 100))
    assert await files.add(file(4, key="key_b"), most=Held(2, 100))
    assert await files.held("key_a") == Held(2, 100)
    assert await files.unknown(["file-1", "file-9"]) == {"file-9"}
    oldest = await files.page(FileQuery("key_a", 1, oldest_first=True))
    assert [each.id for each in oldest] == ["file-1"]
    assert [each.id for each in await files.page(FileQuery("key_a", 9, oldest[0], oldest_first=True))] == ["file-2"]
    assert [each.id for each in await files.page(FileQuery(None, 9))] == ["file-4", "file-2", "file-1"]


async def test_a_file_stays_while_a_batch_reads_from_it(database):
    store, files = store_of(database), FileStore(database)
    for number in (1, 2, 3):
        await files.add(file(number, expires_at=5 if number < 3 else None), most=PLENTY)
    lease = await leased(store, batch(1))
    assert not await files.delete("file-1")
    assert await files.expire(10) == ["file-2"]
    await store.end(lease, "completed", files={})
    assert await files.expire(4) == []
    assert await files.expire(10) == ["file-1"]
    assert await files.delete("file-3")
    assert not await files.delete("file-3")
