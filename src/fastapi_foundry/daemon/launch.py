"""Starting the process that is to hold a model."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.daemon.runner_end import RunnerStartError
from fastapi_foundry.daemon.runner_process import RunnerProcess
from fastapi_foundry.daemon.slot import PoolLimits
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.observability.logging import get_logger

__all__ = ["RUNNER_MODULE", "launch_runner"]

logger = get_logger(__name__)

RUNNER_MODULE: Final = "fastapi_foundry.daemon.runner"


async def launch_runner(
    model: LocalModel,
    *,
    limits: PoolLimits,
    scratch: Path,
    on_exit: Callable[[RunnerProcess], None],
    on_stuck: Callable[[RunnerProcess], None],
    module: str = RUNNER_MODULE,
) -> RunnerProcess:
    """Start a runner and wait until it has loaded the model.

    Args:
        model: One whose files can be used.
        limits: How long it may take, how many requests it takes at once, how long it may ignore a cancel.
        scratch: Where it gets a directory of its own, which goes with it.
        on_exit: Called once if it ends after it was ready.
        on_stuck: Called once if it cannot stop a request.
        module: What to run; tests run a double here.

    Raises:
        RunnerStartError: It cannot be started, ended, or says why it cannot load the model.
    """
    data_dir = await asyncio.to_thread(_make_directory, scratch)
    try:
        runner = await RunnerProcess.start(
            _init(model, limits, data_dir),
            timeout_s=limits.load_timeout_s,
            env={key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")},
            on_exit=on_exit,
            on_stderr=lambda line: logger.debug("runner says", model_id=model.id, line=line),
            on_stuck=on_stuck,
            cancel_timeout_s=limits.cancel_timeout_s,
            module=module,
        )
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, data_dir, ignore_errors=True)
        raise
    if not runner.alive:
        raise RunnerStartError("the engine's process ended as soon as it was ready", crashed=True)
    return runner


def _make_directory(scratch: Path) -> str:
    try:
        return tempfile.mkdtemp(dir=scratch)
    except OSError as error:
        raise RunnerStartError(f"its process cannot be started: {error.strerror}", crashed=False) from error


def _init(model: LocalModel, limits: PoolLimits, data_dir: str) -> dict[str, Any]:
    files = model.files
    return {
        "op": "init",
        "role": "model",
        "data_dir": data_dir,
        "threads": limits.max_active_per_model,
        "keep": {
            "sessions": limits.kept_sessions,
            "memory_mb": limits.kept_memory_mb,
            "idle_s": limits.kept_idle_s,
        },
        "model": {
            "id": model.id,
            "alias": model.alias,
            "path": str(model.path),
            "task": model.task,
            "tool_calling": bool(files and files.tool_calling),
            "context_length": files.context_length if files else 0,
        },
    }
