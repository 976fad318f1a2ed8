"""The runners: at most one per model, started once however many ask, evicted when idle, put aside when they keep dying.

One event loop owns all of it. A model's ``Slot`` moves through ``idle -> loading -> loaded -> idle``; every move is
made here, in a synchronous step, so no lock is needed and nobody sees a half-made one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.daemon.runner_call import End, RunnerCall
from fastapi_foundry.daemon.runner_process import RunnerProcess, RunnerStartError
from fastapi_foundry.daemon.slot import PoolLimits, Slot, memory_mb
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineUnavailableError,
    FoundryError,
    ModelFilesError,
    ModelUnavailableError,
    QueueFullError,
)
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["RunnerPool"]

logger = get_logger(__name__)

_MIB: Final = 1024 * 1024


class RunnerPool:
    """Loads, lends and unloads models.

    Args:
        limits: See ``PoolLimits``.
        scratch: Directory for the runners' own data; swept at start, so it belongs to this service alone.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: PoolLimits, scratch: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._scratch = scratch
        self._clock = clock
        self._slots: dict[str, Slot] = {}
        self._room = asyncio.Condition()
        self._closed = False

    def slots(self) -> dict[str, Slot]:
        """Every slot by model id; for reading."""
        return self._slots

    def state_of(self, model_id: str) -> str:
        """A model's state, ``cached`` for one that was never asked for."""
        slot = self._slots.get(model_id)
        return slot.state if slot else "cached"

    async def load(self, model: LocalModel) -> tuple[Slot, bool]:
        """Load a model because somebody asked for exactly that; forgives its past deaths.

        Returns:
            Its slot, and whether it was loaded already.

        Raises:
            ModelFilesError: Its files cannot be used.
            ModelUnavailableError: It does not load, or there is no room and nothing idle to evict.
        """
        slot = self._slot(model)
        slot.put_aside = ""
        slot.deaths.clear()
        already = slot.runner is not None
        await self._ready(slot)
        return slot, already

    @asynccontextmanager
    async def call(self, model: LocalModel, operation: str, body: object) -> AsyncIterator[RunnerCall]:
        """A request inside the model's runner, which is started if need be; leaving early cancels it.

        Waits for the load and for a place, in the order of arrival.

        Raises:
            QueueFullError: As many wait as may.
            ModelUnavailableError: It was put aside, or does not load.
            ModelFilesError: Its files cannot be used.
        """
        slot = self._slot(model)
        limits = self._limits
        if slot.queued + slot.active >= limits.max_queued_per_model + limits.max_active_per_model:
            raise QueueFullError(
                f"{slot.queued} requests wait for the model '{model.id}' already.",
                retry_after_s=self._retry_after(slot),
            )
        call = await self._taken_up(slot, operation, body)
        try:
            yield call
        finally:
            call.cancel()

    async def unload(self, model_id: str, reason: FoundryError | None = None) -> bool:
        """End a model's runner; requests inside it end with ``reason``. Waits until the process is gone.

        Returns:
            Whether there was anything to unload.
        """
        slot = self._slots.get(model_id)
        if slot is None:
            return False
        loading = slot.loading
        if loading is not None:
            loading.cancel()
            await asyncio.wait([loading])
        runner, slot.runner = slot.runner, None
        if runner is None:
            return loading is not None
        # Before the wait: a request that comes meanwhile may let the model in again.
        slot.resident = False
        started = self._clock()
        await runner.stop(reason or EngineFailedError("The model was unloaded while it worked on this request."))
        logger.log_model_operation(model_id, "unload", "ok", self._clock() - started)
        await self._announce_room()
        return True

    async def close(self) -> None:
        """End every runner; nothing can be loaded afterwards."""
        self._closed = True
        going = EngineUnavailableError("The service is shutting down.")
        await asyncio.gather(*(self.unload(model_id, going) for model_id in list(self._slots)))
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what earlier runners left behind; blocks. Call it before the first load."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        make_private_directory(self._scratch)

    def forget(self, model_id: str) -> None:
        """Drop an unloaded model's slot, its history with it."""
        slot = self._slots.get(model_id)
        if slot is not None and slot.runner is None and not slot.busy:
            del self._slots[model_id]

    # Inside.

    async def _taken_up(self, slot: Slot, operation: str, body: object) -> RunnerCall:
        """A call that a runner works on, or that has ended.

        A runner that dies before it took a request up has done nothing of it, so the next one gets it, once.
        """
        repeated = False
        while True:
            if slot.put_aside:
                raise ModelUnavailableError(slot.model.id, slot.put_aside, code="model_put_aside")
            slot.queued += 1
            try:
                runner = await self._ready(slot)
                await slot.places.acquire()
            finally:
                slot.queued -= 1
            if slot.runner is not runner:
                # It died or was unloaded while this request waited for its place.
                slot.places.release()
                continue
            slot.active += 1
            call = runner.call(operation, body, lambda end: self._settled(slot, end))
            try:
                await call.taken_up()
            except BaseException:
                call.cancel()
                raise
            if call.end is None or not call.end.untouched or repeated:
                return call
            repeated = True
            logger.warning("request repeated on a new runner", model_id=slot.model.id, dead_pid=runner.pid)

    def _slot(self, model: LocalModel) -> Slot:
        slot = self._slots.get(model.id)
        if slot is None:
            slot = Slot(model, asyncio.Semaphore(self._limits.max_active_per_model), last_used=self._clock())
            self._slots[model.id] = slot
        slot.model = model
        return slot

    async def _ready(self, slot: Slot) -> RunnerProcess:
        """The slot's runner; the one load under way is shared and outlives any one waiter."""
        if self._closed:
            raise EngineUnavailableError("The service is shutting down.")
        if slot.runner is not None:
            return slot.runner
        if slot.model.problem:
            raise ModelFilesError(f"The model '{slot.model.id}' cannot be loaded: {slot.model.problem}", param="model")
        if slot.loading is None:
            slot.loading = asyncio.create_task(self._load(slot), name=f"load {slot.model.id}")
            slot.loading.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(slot.loading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ModelUnavailableError(slot.model.id, "it was unloaded while it loaded.") from None

    async def _load(self, slot: Slot) -> RunnerProcess:
        model_id = slot.model.id
        started = self._clock()
        runner: RunnerProcess | None = None
        logger.log_model_operation(model_id, "load", "begin", 0.0)
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                await self._make_room(slot)
                runner = await self._start(slot)
        except RunnerStartError as error:
            logger.log_model_operation(model_id, "load", "failed", self._clock() - started, error=str(error))
            self._note_failure(slot, str(error))
            raise ModelUnavailableError(model_id, f"{error}.".replace("..", ".")) from error
        except TimeoutError:
            reason = f"it did not load within {self._limits.load_timeout_s:g} s, or no other model became idle."
            logger.log_model_operation(model_id, "load", "failed", self._clock() - started, error=reason)
            raise ModelUnavailableError(model_id, reason, retry_after_s=5.0) from None
        finally:
            slot.loading = None
            if runner is None:
                slot.resident = False
                await self._announce_room()
        slot.runner = runner
        slot.last_used = self._clock()
        slot.load_duration_s = self._clock() - started
        logger.log_model_operation(
            model_id,
            "load",
            "ok",
            slot.load_duration_s,
            runner_pid=runner.pid,
            memory_mb=memory_mb(runner.pid),
            size_mb=round(slot.model.files.size_bytes / _MIB, 1) if slot.model.files else None,
            network=runner.ready.get("network"),
        )
        return runner

    async def _start(self, slot: Slot) -> RunnerProcess:
        model = slot.model
        data_dir = await asyncio.to_thread(tempfile.mkdtemp, dir=self._scratch)
        files = model.files
        spec = {
            "id": model.id,
            "alias": model.alias,
            "path": str(model.path),
            "task": model.task,
            "tool_calling": bool(files and files.tool_calling),
            "context_length": files.context_length if files else 0,
        }
        try:
            return await RunnerProcess.start(
                {
                    "op": "init",
                    "role": "model",
                    "data_dir": data_dir,
                    "threads": self._limits.max_active_per_model,
                    "model": spec,
                },
                timeout_s=self._limits.load_timeout_s,
                env=_runner_environment(),
                on_exit=lambda runner: self._exited(slot, runner),
                on_stderr=lambda line: logger.debug("runner says", model_id=model.id, line=line),
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, data_dir, ignore_errors=True)
            raise

    async def _make_room(self, wanted: Slot) -> None:
        """Wait until one more model may be loaded, evicting the idle one that was used longest ago."""
        async with self._room:
            while True:
                residents = [slot for slot in self._slots.values() if slot.resident]
                if len(residents) < self._limits.max_loaded_models:
                    wanted.resident = True
                    return
                idle = [slot for slot in residents if slot.runner is not None and not slot.busy]
                if idle:
                    victim = min(idle, key=lambda slot: slot.last_used)
                    logger.info("model evicted", model_id=victim.model.id, for_model=wanted.model.id)
                    await self._end_idle(victim)
                    continue
                await self._room.wait()

    async def _end_idle(self, slot: Slot) -> None:
        runner, slot.runner = slot.runner, None
        if runner is not None:
            await runner.stop(EngineFailedError("The model was unloaded to make room for another one."))
        slot.resident = False

    def _settled(self, slot: Slot, end: End) -> None:
        slot.active -= 1
        slot.places.release()
        slot.last_used = self._clock()
        if end.fact is None:
            slot.deaths.clear()
        if not slot.active:
            asyncio.get_running_loop().create_task(self._announce_room())

    def _exited(self, slot: Slot, runner: RunnerProcess) -> None:
        if slot.runner is not runner:
            return
        slot.runner = None
        slot.resident = False
        logger.error(
            "runner died",
            model_id=slot.model.id,
            runner_pid=runner.pid,
            status=runner.status,
            last_words=runner.last_words,
        )
        self._note_failure(slot, "its process ended unexpectedly")
        asyncio.get_running_loop().create_task(self._announce_room())

    def _note_failure(self, slot: Slot, reason: str) -> None:
        if slot.note_failure(self._clock(), reason):
            logger.error("model put aside", model_id=slot.model.id, reason=slot.put_aside)

    async def _announce_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    def _retry_after(self, slot: Slot) -> float:
        """Seconds until a place may be free: a rough second for each round of waiting requests."""
        return max(1.0, slot.queued / self._limits.max_active_per_model)


def _runner_environment() -> dict[str, Any]:
    return {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}


def _retrieve(task: asyncio.Task[RunnerProcess]) -> None:
    """Mark a failed load as seen; every waiter may have gone."""
    if not task.cancelled():
        task.exception()
