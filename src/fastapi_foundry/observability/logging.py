"""Logging: ``get_logger`` for the code, ``configure_logging`` for the start of a process.

A record goes through a bounded queue to one thread, which writes rotated text files and a file of JSON
lines (``docs/logging.md`` shows both). Before ``configure_logging`` loggers use the standard library.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.observability import pipeline as pipelines
from fastapi_foundry.observability.capture import capture
from fastapi_foundry.observability.handlers import RotatingFile
from fastapi_foundry.observability.logger import Logger, Timer, get_logger
from fastapi_foundry.observability.pipeline import Pipeline, Route, Thresholds
from fastapi_foundry.observability.records import Record
from fastapi_foundry.observability.tracing import traced
from fastapi_foundry.settings import LoggingSettings
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["Logger", "LoggingHandle", "Process", "Timer", "configure_logging", "get_logger", "traced"]

Process = Literal["gateway", "service", "cli"]

_STEM: Final = {"gateway": "fastapi-foundry", "service": "foundry-service", "cli": "fastapi-foundry-cli"}
_MCP_LOGGERS: Final = "fastapi_foundry.mcp"


class LoggingHandle:
    """What :func:`configure_logging` returns; a context manager too."""

    def __init__(self, pipeline: Pipeline, undo: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._undo = undo
        self._closed = False

    @property
    def dropped(self) -> int:
        """Records lost since the start, because the queue was full or a file could not be written."""
        return self._pipeline.dropped

    def close(self) -> None:
        """Write everything that waits, close the files, and give the standard library back; 5 s at the most.

        Closing twice is fine. Afterwards loggers behave as before ``configure_logging``.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._undo()
        pipelines.deactivate(self._pipeline)
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_current: LoggingHandle | None = None


def configure_logging(settings: LoggingSettings, *, home: Path, process: Process) -> LoggingHandle:
    """Open the log files of this kind of process and send all records there, those of libraries too.

    A second call closes what the first one opened. The files are closed at the end of the process when
    nobody does it before.

    Args:
        settings: Mode, level, directory and rotation.
        home: The product's home directory; logs go to ``logs`` in it unless the settings say otherwise.
        process: The gateway, the service, or a command; each writes files of its own, because two
            processes must not rotate the same one.

    Raises:
        ConfigurationError: The directory cannot be made, or a file in it not be written.
    """
    global _current  # noqa: PLW0603 - there is one root logger and one standard error
    if _current is not None:
        _current.close()
    directory = settings.directory(home)
    try:
        make_private_directory(directory)
        routes = _routes(settings, directory, process)
    except OSError as error:
        where = error.filename or str(directory)
        raise ConfigurationError("logging.dir", str(directory), f"cannot write {where}: {error.strerror}") from error
    writer = Pipeline(process, routes, _thresholds(settings), verbose=settings.mode == "dev")
    handle = LoggingHandle(writer, capture(writer))
    pipelines.activate(writer)
    atexit.register(handle.close)
    _current = handle
    return handle


def _thresholds(settings: LoggingSettings) -> dict[str | None, Thresholds]:
    if settings.level is not None:
        level = logging.getLevelNamesMapping()[settings.level]
        explicit = Thresholds(file=level, console=level)
        return {None: explicit, "dev": explicit, "prod": explicit}
    modes: dict[str | None, Thresholds] = {
        "dev": Thresholds(file=logging.DEBUG, console=logging.DEBUG),
        "prod": Thresholds(file=logging.INFO, console=logging.CRITICAL),
    }
    return modes | {None: modes[settings.mode]}


def _routes(settings: LoggingSettings, directory: Path, process: Process) -> list[Route]:
    def file(name: str) -> RotatingFile:
        return RotatingFile(directory / name, max_bytes=settings.max_file_bytes, backup_count=settings.backup_count)

    stem = _STEM[process]
    routes = [Route(file(f"{stem}.log"), _everything)]
    if process == "cli":
        return routes
    routes += [
        Route(file(f"{stem}-errors.log"), _errors),
        Route(file(f"{stem}-structured.jsonl"), _everything, structured=True),
    ]
    if process == "gateway":
        routes += [
            Route(file("api-requests.log"), _api_requests),
            Route(file("model-manager.log"), _model_operations),
            Route(file("mcp-client.log"), _mcp),
        ]
    return routes


def _everything(_: Record) -> bool:
    return True


def _errors(record: Record) -> bool:
    return record.level >= logging.ERROR


def _api_requests(record: Record) -> bool:
    return record.kind == "api_request"


def _model_operations(record: Record) -> bool:
    return record.kind == "model_operation"


def _mcp(record: Record) -> bool:
    return record.logger.startswith(_MCP_LOGGERS)
