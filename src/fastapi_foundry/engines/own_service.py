"""Start our own Foundry service as a child of this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import orjson

from fastapi_foundry.engines.process import ChildProcess, start_child
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings import Settings
from fastapi_foundry.settings.description import SECRET_TEXT, describe_settings

__all__ = ["OwnService"]

logger = get_logger(__name__)

# The service writes log files of its own; its stderr holds what native code prints and last words.
_STDERR_LINES_PER_WINDOW: Final = 50
_STDERR_WINDOW_S: Final = 10.0


class OwnService:
    """Starts ``python -m fastapi_foundry.daemon``; a ``Starter`` for the supervisor.

    Args:
        settings: Handed on in full for the sections that the service reads, so that a flag given to the
            gateway holds for the service too.
        config_path: The configuration file, if one was given explicitly.
        environ: What the child's environment is based on.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        config_path: Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._argv = [sys.executable, "-m", "fastapi_foundry.daemon", "--supervised"]
        if config_path is not None:
            self._argv += ["--config", str(config_path)]
        base = os.environ if environ is None else environ
        hidden = _secret_variables(settings)
        self._env = {name: value for name, value in base.items() if name not in hidden} | _as_environment(settings)
        self._clock = clock
        self._window_began = clock()
        self._lines_in_window = 0

    async def __call__(self) -> ChildProcess:
        """Start it and wait until it is ready.

        Raises:
            ChildStartError: When it does not become ready within ``foundry_service.start_timeout_s``.
        """
        timeout_s = self._settings.foundry_service.start_timeout_s
        return await start_child(self._argv, env=self._env, timeout_s=timeout_s, on_stderr=self._log_line)

    def _log_line(self, line: str) -> None:
        now = self._clock()
        if now - self._window_began > _STDERR_WINDOW_S:
            if self._lines_in_window > _STDERR_LINES_PER_WINDOW:
                logger.warning("service stderr shortened", lines=self._lines_in_window - _STDERR_LINES_PER_WINDOW)
            self._window_began, self._lines_in_window = now, 0
        self._lines_in_window += 1
        if self._lines_in_window <= _STDERR_LINES_PER_WINDOW:
            logger.info("service stderr", line=line)


def _secret_variables(settings: Settings) -> set[str]:
    """The variables that hold secrets of the gateway, which are no business of the service and its native code."""
    rows = [row for row in describe_settings() if row.type == SECRET_TEXT]
    names = {name for row in rows for name in (*row.environment, *row.file_environment)}
    for engine in settings.engines:
        if engine.api_key_env is not None:
            names |= {engine.api_key_env, f"{engine.api_key_env}_FILE"}
    return names


def _as_environment(settings: Settings) -> dict[str, str]:
    """The home directory and the service's and the logs' settings, under the names that win over all others."""
    env = {"FOUNDRY_HOME": str(settings.home)}
    for setting in describe_settings():
        if setting.section in {"foundry_service", "logging"}:
            section, _, name = setting.key.partition(".")
            value = getattr(getattr(settings, section), name)
            if value is not None:
                env[setting.environment[0]] = orjson.dumps(value).decode() if setting.kind == "list" else str(value)
    return env
