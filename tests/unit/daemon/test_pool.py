"""The life cycle of models, with runners that are real processes and do what they are told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.model_files import ModelFiles
from fastapi_foundry.daemon.pool import RunnerPool
from fastapi_foundry.daemon.slot import PoolLimits
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.errors import EngineFailedError, EngineUnavailableError, ModelUnavailableError, QueueFullError
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
LIMITS = PoolLimits(
    max_loaded_models=2,
    memory_budget_mb=10_000,
    max_active_per_model=2,
    max_queued_per_model=4,
    load_timeout_s=20,
    cancel_timeout_s=20,
)

MakePool = Callable[..., RunnerPool]


@pytest.fixture
async def make_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakePool]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made: list[RunnerPool] = []

    def make(**change: Any) -> RunnerPool:
        book = MemoryBook(tmp_path / "model-memory.json")
        book.read()
        scratch = tmp_path / f"run-{len(made)}"
        pool = RunnerPool(replace(LIMITS, **change), scratch, book, runner_module="tests.support.runner_double")
        pool.sweep()
        made.append(pool)
        return pool

    yield make
    for pool in made:
        await pool.close()


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., LocalModel]:
    def make(name: str = "m:1", manner: str = "serve") -> LocalModel:
        path = tmp_path / "models" / name.replace(":", "-")
        path.mkdir(parents=True, exist_ok=True)
        (path / "manner").write_text(manner)
        files = ModelFiles(name, "chat-completion", tool_calling=False, context_length=9, size_bytes=9, created=1)
        return LocalModel(name, path, "store", files)

    return make


async def pid_of(pool: RunnerPool, model: LocalModel, **body: Any) -> int:
    async with pool.call(model, "chat", body) as call:
        return int(orjson.loads((await call.result()).data or b"")["pid"])


def pids(pool: RunnerPool) -> dict[str, list[int]]:
    return {name: [r.runner.pid for r in slot.replicas] for name, slot in pool.slots().items() if slot.replicas}


class TestEviction:
    async def test_the_longest_unused_model_makes_room_in_memory(self, make_pool: MakePool, model):
        pool = make_pool(max_loaded_models=9)
        a, b, c = model("a:1"), model("b:1"), model("c:1")
        await pid_of(pool, a)
        await pid_of(pool, b)
        await pid_of(pool, a)
        pool.room.measure()
        # A model that was never measured counts 70 MB; the doubles take some 15 MB each.
        used = pool.room.used_mb()
        pool.room.bounds = replace(pool.room.bounds, budget_mb=used + 65)
        await pid_of(pool, c)
        assert set(pids(pool)) == {"a:1", "c:1"}

    async def test_what_can_never_fit_is_refused_at_once_with_the_numbers(self, make_pool: MakePool, model):
        pool = make_pool(memory_budget_mb=50)
        with pytest.raises(
            ModelUnavailableError, match=r"needs 70 MB \(estimated .* budget for models is 50 MB"
        ) as caught:
            await pid_of(pool, model())
        assert caught.value.code == "model_does_not_fit"
        assert caught.value.retry_after_s is None

    async def test_a_load_that_waits_for_room_says_for_whom_it_has_waited(self, make_pool: MakePool, model):
        pool = make_pool(max_loaded_models=1, load_timeout_s=1)
        async with pool.call(model("a:1"), "chat", {"hang": True}):
            with pytest.raises(ModelUnavailableError, match="1 models are in use") as caught:
                await pid_of(pool, model("b:1"))
        assert caught.value.retry_after_s

    async def test_a_load_that_nobody_waits_for_any_more_evicts_nobody(self, make_pool: MakePool, model):
        pool = make_pool(max_loaded_models=1)
        async with pool.call(model("a:1"), "chat", {"after_s": 0.3}) as call:
            leaving = asyncio.create_task(pid_of(pool, model("b:1")))
            await eventually(lambda: "b:1" in pool.slots() and pool.slots()["b:1"].state == "loading")
            leaving.cancel()
            await call.result()
        await asyncio.sleep(0.2)
        assert set(pids(pool)) == {"a:1"}
        assert pool.slots()["b:1"].state == "cached"
        await pid_of(pool, model("b:1"))

    async def test_a_pinned_model_stays_until_it_is_unloaded(self, make_pool: MakePool, model):
        pool = make_pool(max_loaded_models=1, idle_unload_s=0.2)
        pinned, other = model("a:1"), model("b:1")
        await pool.load(pinned, pin=True)
        with pytest.raises(ModelUnavailableError, match=r"pinned models hold every place.*a:1") as caught:
            await pid_of(pool, other)
        assert caught.value.code == "model_does_not_fit"
        await asyncio.sleep(0.4)
        assert set(pids(pool)) == {"a:1"}
        await pool.unload("a:1")
        await pid_of(pool, other)

    async def test_models_are_pinned_by_name_in_the_settings(self, make_pool: MakePool, model):
        pool = make_pool(pinned_models=frozenset({"a"}), idle_unload_s=0.1)
        await pool.load(model("A:1"))
        await pool.load(model("b:1"))
        await eventually(lambda: set(pids(pool)) == {"A:1"})
        await asyncio.sleep(0.2)
        assert set(pids(pool)) == {"A:1"}

    async def test_idle_models_end_when_all_have_grown_past_the_budget(self, make_pool: MakePool, model):
        pool = make_pool(max_loaded_models=3)
        for name in ("a:1", "b:1", "c:1"):
            await pid_of(pool, model(name))
        (lost,) = pids(pool)["a:1"]
        pool.room.measure()
        pool.room.bounds = replace(pool.room.bounds, budget_mb=pool.room.used_mb() - 1)
        # Makes the upkeep look at once.
        await pid_of(pool, model("c:1"), keep_alive=1e-9)
        await eventually(lambda: set(pids(pool)) == {"b:1"})
        await eventually(lambda: not psutil.pid_exists(lost))

    async def test_an_unload_waits_for_a_process_that_is_ending_already(self, make_pool: MakePool, model):
        pool = make_pool()
        pid = await pid_of(pool, model(), keep_alive=0)
        await eventually(lambda: not pids(pool), interval_s=0)
        assert psutil.pid_exists(pid)
        assert await pool.unload("m:1")
        assert not psutil.pid_exists(pid)
        assert not await pool.unload("m:1")


class TestKeepAlive:
    async def test_zero_unloads_after_the_last_request(self, make_pool: MakePool, model):
        pool = make_pool()
        async with pool.call(model(), "chat", {"after_s": 0.4}) as other:
            pid = await pid_of(pool, model(), keep_alive=0)
            await asyncio.sleep(0.1)
            assert psutil.pid_exists(pid)
            await other.result()
        await eventually(lambda: not psutil.pid_exists(pid))
        assert await pid_of(pool, model()) != pid
        await asyncio.sleep(0.2)
        assert pids(pool)

    async def test_an_idle_model_ends_and_a_used_one_does_not(self, make_pool: MakePool, model):
        pool = make_pool(idle_unload_s=0.3)
        pid = await pid_of(pool, model())
        for _ in range(4):
            await asyncio.sleep(0.15)
            assert await pid_of(pool, model()) == pid
        left_s = pool.expires_in_s("m:1")
        assert left_s is not None
        assert 0.1 < left_s <= 0.3
        await eventually(lambda: not pids(pool))
        assert pool.expires_in_s("m:1") is None

    async def test_a_load_and_a_request_beat_the_setting(self, make_pool: MakePool, model):
        pool = make_pool(idle_unload_s=0.2)
        await pool.load(model(), keep_alive_s=float("inf"))
        await asyncio.sleep(0.4)
        assert pids(pool)
        assert pool.expires_in_s("m:1") is None
        await pid_of(pool, model(), keep_alive="100ms")
        await eventually(lambda: not pids(pool), timeout_s=1)
        # What was said holds while it is loaded.
        await pid_of(pool, model())
        assert (pool.expires_in_s("m:1") or 0) > 0.1


class TestReplicas:
    async def test_a_further_runner_starts_when_requests_wait_and_ends_first(self, make_pool: MakePool, model):
        pool = make_pool(model_replicas={"m": 2}, idle_unload_s=0.4)
        async with pool.call(model(), "chat", {"hang": True}), pool.call(model(), "chat", {"after_s": 1.0}):
            (first,) = pids(pool)["m:1"]
            second = await pid_of(pool, model())
            assert second != first
            assert pids(pool)["m:1"] == [first, second]
            assert await pid_of(pool, model()) == second
            await eventually(lambda: pids(pool)["m:1"] == [first])

    async def test_a_request_goes_to_the_least_busy_runner(self, make_pool: MakePool, model):
        pool = make_pool(replicas=2, max_active_per_model=3)
        await asyncio.gather(*(pid_of(pool, model(), after_s=0.2) for _ in range(4)))
        first, second = pids(pool)["m:1"]
        async with pool.call(model(), "chat", {"hang": True}):
            assert [replica.active for replica in pool.slots()["m:1"].replicas] == [1, 0]
            assert await pid_of(pool, model()) == second
        assert first != second

    async def test_there_are_never_more_than_may_be_and_the_rest_waits(self, make_pool: MakePool, model):
        pool = make_pool(replicas=2, max_active_per_model=1)
        found = await asyncio.gather(*(pid_of(pool, model(), after_s=0.3) for _ in range(5)))
        assert len(set(found)) == 2
        assert set(pids(pool)["m:1"]) == set(found)

    async def test_a_further_runner_ends_nobody(self, make_pool: MakePool, model):
        pool = make_pool(replicas=2, max_active_per_model=1)
        await pid_of(pool, model("other:1"))
        await pid_of(pool, model())
        pool.room.measure()
        pool.room.bounds = replace(pool.room.bounds, budget_mb=pool.room.used_mb() + 1)
        found = await asyncio.gather(*(pid_of(pool, model(), after_s=0.2) for _ in range(3)))
        assert len(set(found)) == 1
        assert set(pids(pool)) == {"other:1", "m:1"}

    async def test_one_that_dies_costs_only_its_own_requests(self, make_pool: MakePool, model):
        pool = make_pool(replicas=2, max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}) as lost:
            second = asyncio.create_task(pid_of(pool, model(), after_s=0.8))
            await eventually(lambda: len(pids(pool)["m:1"]) == 2)
            waiting = asyncio.create_task(pid_of(pool, model()))
            first = pids(pool)["m:1"][0]
            os.kill(first, signal.SIGKILL)
            with pytest.raises(EngineFailedError):
                await lost.result()
        assert await second != first
        assert await waiting != first

    async def test_more_than_all_runners_hold_and_may_wait_are_refused(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1, max_queued_per_model=1)
        async with pool.call(model(), "chat", {"after_s": 0.3}):
            waiting = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: pool.slots()["m:1"].queued == 1)
            with pytest.raises(QueueFullError):
                await pid_of(pool, model())
            await waiting


class TestFailures:
    async def test_after_a_failed_load_requests_are_refused_for_a_while(self, make_pool: MakePool, model):
        pool = make_pool()
        with pytest.raises(ModelUnavailableError, match="does not want to") as caught:
            await pid_of(pool, model(manner="refuse"))
        assert caught.value.retry_after_s
        broken = model(manner="die")
        with pytest.raises(ModelUnavailableError, match="failed to load a moment ago: it does not want to"):
            await pid_of(pool, broken)
        # An explicit load is a load.
        with pytest.raises(ModelUnavailableError, match="signal 9"):
            await pool.load(broken)
        await pool.load(model())
        await pid_of(pool, model())

    async def test_everybody_who_waits_learns_why_it_failed(self, make_pool: MakePool, model):
        pool = make_pool()
        found = await asyncio.gather(*(pid_of(pool, model(manner="exit")) for _ in range(4)), return_exceptions=True)
        assert [str(each) for each in found] == [str(found[0])] * 4
        assert "status 3" in str(found[0])

    async def test_a_runner_that_ignores_a_cancel_gets_no_more_and_is_replaced(self, make_pool: MakePool, model):
        pool = make_pool(cancel_timeout_s=0.1)
        async with pool.call(model(), "chat", {"after_s": 0.7}) as live:
            (old,) = pids(pool)["m:1"]
            async with pool.call(model(), "chat", {"hang": True}) as stuck:
                await stuck.next_chunks()
            await eventually(lambda: pool.slots()["m:1"].replicas[0].retiring)
            new = await pid_of(pool, model())
            assert new != old
            assert (await live.result()).fact is None
        await eventually(lambda: pids(pool)["m:1"] == [new])
        assert not psutil.pid_exists(old)

    async def test_whoever_waits_is_told_when_the_service_ends(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}):
            waiting = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: pool.slots()["m:1"].queued == 1)
            started = time.monotonic()
            await pool.close()
            with pytest.raises(EngineUnavailableError, match="shutting down"):
                await waiting
        assert time.monotonic() - started < 3
        assert not pids(pool)

    async def test_an_unload_before_a_load_has_begun_leaves_a_model_that_can_be_loaded(
        self, make_pool: MakePool, model
    ):
        pool = make_pool()
        waiting = asyncio.create_task(pid_of(pool, model()))
        await asyncio.sleep(0)
        assert pool.slots()["m:1"].state == "loading"
        await pool.unload("m:1")
        with pytest.raises(ModelUnavailableError, match="unloaded while it loaded"):
            await waiting
        assert await pid_of(pool, model())

    async def test_a_place_that_is_given_to_somebody_who_has_just_left_is_not_lost(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}):
            slot = pool.slots()["m:1"]
            leaving = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: slot.queued == 1)
            slot.places = 2
            slot.hand_out()
            leaving.cancel()
            assert slot.active == 2
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert (slot.active, slot.queued) == (1, 0)

    async def test_a_place_in_a_runner_that_ends_just_then_is_exchanged_for_another(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}):
            slot = pool.slots()["m:1"]
            waiting = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: slot.queued == 1)
            (old,) = slot.replicas
            slot.places = 2
            slot.hand_out()
            pool.room.end(slot, old, "test")
            assert await waiting != old.runner.pid

    async def test_who_waits_for_a_place_survives_the_death_of_the_only_runner(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}):
            (old,) = pids(pool)["m:1"]
            waiting = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: pool.slots()["m:1"].queued == 1)
            os.kill(old, signal.SIGKILL)
            assert await waiting != old

    async def test_requests_that_wait_for_a_place_survive_an_unload(self, make_pool: MakePool, model):
        pool = make_pool(max_active_per_model=1)
        async with pool.call(model(), "chat", {"hang": True}) as lost:
            (old,) = pids(pool)["m:1"]
            waiting = asyncio.create_task(pid_of(pool, model()))
            await eventually(lambda: pool.slots()["m:1"].queued == 1)
            assert await pool.unload("m:1")
            assert not psutil.pid_exists(old)
            with pytest.raises(EngineFailedError, match="unloaded"):
                await lost.result()
        assert await waiting != old
