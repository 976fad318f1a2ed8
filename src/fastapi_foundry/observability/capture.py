"""What others log (uvicorn, asyncio, warnings, uncaught exceptions) goes the same way as our own records."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.pipeline import Pipeline
from fastapi_foundry.observability.records import Record

__all__ = ["capture"]


class _CaptureHandler(logging.Handler):
    """Hands the standard library's records to the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self._pipeline = pipeline

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock: the pipeline needs none, and so no caller waits for another."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits; a record whose arguments do not fit its message is reported as the library does."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            self.handleError(record)
            return
        place = f"{record.filename}:{record.lineno}" if self._pipeline.verbose else None
        self._pipeline.submit(
            Record(record.created, record.levelno, record.name, message, {}, request_id.get(), record.exc_info, place)
        )


def capture(pipeline: Pipeline) -> Callable[[], None]:
    """Take over the root logger, warnings and the hooks for uncaught exceptions; the result undoes it."""
    root = logging.getLogger()
    handler = _CaptureHandler(pipeline)
    before_level, before_hook, before_thread_hook = root.level, sys.excepthook, threading.excepthook

    def on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if issubclass(kind, Exception):
            _submit_uncaught(pipeline, error, {})
        return before_hook(kind, error, trace)

    def on_uncaught_in_thread(args: threading.ExceptHookArgs) -> Any:
        if isinstance(args.exc_value, Exception):
            name = args.thread.name if args.thread is not None else "?"
            _submit_uncaught(pipeline, args.exc_value, {"thread": name})
        return before_thread_hook(args)

    root.addHandler(handler)
    root.setLevel(pipeline.lowest[None])
    logging.captureWarnings(True)
    sys.excepthook = on_uncaught
    threading.excepthook = on_uncaught_in_thread

    def undo() -> None:
        root.removeHandler(handler)
        root.setLevel(before_level)
        logging.captureWarnings(False)
        if sys.excepthook is on_uncaught:
            sys.excepthook = before_hook
        if threading.excepthook is on_uncaught_in_thread:
            threading.excepthook = before_thread_hook

    return undo


def _submit_uncaught(pipeline: Pipeline, error: BaseException, fields: dict[str, Any]) -> None:

    pipeline.submit(
        Record(time.time(), logging.CRITICAL, __name__, "uncaught exception", fields, request_id.get(), error)
    )
