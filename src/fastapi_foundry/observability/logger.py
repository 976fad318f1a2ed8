"""The logger that the code holds, its timer, and the decorator that times calls."""

from __future__ import annotations

import logging
import sys
import time
from types import FrameType, TracebackType
from typing import Any, Final, Literal, Self

from fastapi_foundry.observability import pipeline
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.records import (
    GENERATION_TYPES,
    OPERATION_MESSAGE,
    REQUEST_MESSAGE,
    REQUEST_TYPES,
    ExceptionInfo,
    Kind,
    operation_level,
    request_level,
)
from fastapi_foundry.observability.redaction import plain, redacted_field, redacted_text

__all__ = ["Logger", "Timer", "get_logger"]

Mode = Literal["prod", "dev"]

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_NOT_GIVEN: Final[Any] = object()


def get_logger(name: str, mode: Mode | None = None) -> Logger:
    """A logger; cheap, reads nothing, and works before logging is configured.

    Args:
        name: Usually ``__name__``.
        mode: ``"dev"`` makes this one verbose (DEBUG, on the console too) and ``"prod"`` quiet, whatever the
            process's mode is; an explicit ``LOG_LEVEL`` still beats it.
    """
    return Logger(name, mode)


class Logger:
    """Messages with fields; every method returns at once, and none ever raises or waits.

    A message says what happened and stays the same from record to record; what differs goes into fields.
    Field values are numbers, texts, and lists and dicts of them; anything else is logged as its ``str``.
    ``exc_info`` (True, an exception, or ``sys.exc_info()``) adds a traceback. Prompts, answers and keys
    do not belong in a log.
    """

    __slots__ = ("_mode", "_name")

    def __init__(self, name: str, mode: Mode | None = None) -> None:
        self._name = name
        self._mode: Mode | None = mode

    def __repr__(self) -> str:
        return f"Logger({self._name!r})"

    def debug(self, message: str, /, **fields: Any) -> None:
        """Details for whoever develops; in the files only in dev mode or with ``LOG_LEVEL=DEBUG``."""
        self._log(10, message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        """What the process does."""
        self._log(20, message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """A fallback, a time-out, anything that went differently and still goes on."""
        self._log(30, message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """An operation failed and the process goes on."""
        self._log(40, message, fields)

    def critical(self, message: str, /, **fields: Any) -> None:
        """The service is down, or data is lost; shown on the console in every mode."""
        self._log(50, message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        fields.setdefault("exc_info", True)
        self._log(40, message, fields)

    def log(self, level: int, message: str, /, **fields: Any) -> None:
        """The same at a level of the standard library (``logging.INFO``)."""
        self._log(level, message, fields)

    def log_api_request(self, method: str, path: str, status_code: int, duration: float, **fields: Any) -> None:
        """The end of one request: info, warning from 400 and error from 500 on.

        Args:
            method: The HTTP method.
            path: The route's template (``/api/v1/models/{model_id}``), never the raw path; ``api_path`` in the record.
            status_code: The HTTP status.
            duration: Seconds from arrival to the last byte.
            fields: More about the request.
        """
        own = {"method": method, "api_path": path, "status_code": status_code, "duration": duration}
        types = None
        if fields:
            own = own | fields | own
        elif type(method) is type(path) is str and type(status_code) is int and type(duration) is float:
            types = REQUEST_TYPES
        self._log(request_level(status_code), REQUEST_MESSAGE, own, "api_request", types)

    def log_model_operation(
        self,
        model_id: str,
        operation: str,
        status: str,
        duration: float,
        tokens_generated: int | None = None,
        *,
        input_tokens: int | None = _NOT_GIVEN,
        output_tokens: int | None = _NOT_GIVEN,
        generation_time: float | None = _NOT_GIVEN,
        first_byte_time: float | None = _NOT_GIVEN,
        user_id: str | None = _NOT_GIVEN,
        **fields: Any,
    ) -> None:
        """A model was loaded, unloaded, downloaded or generated with.

        Args:
            model_id: Full id.
            operation: ``load``, ``unload``, ``download``, ``generate``, ...
            status: ``begin``, ``ok``, ...; ``error`` and ``failed`` make an error record.
            duration: Seconds; 0 at the beginning.
            tokens_generated: Tokens of the answer, for a generation.
            input_tokens: Tokens of the prompt.
            output_tokens: Tokens of the answer.
            generation_time: Seconds that the engine was busy.
            first_byte_time: Seconds until the first byte; None if nobody looked.
            user_id: The id of the key that asked; None where none is needed.
            fields: More about it.
        """
        own: dict[str, Any] = {
            "model_id": model_id,
            "operation": operation,
            "status": status,
            "duration": duration,
            "tokens_generated": tokens_generated,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "generation_time": generation_time,
            "first_byte_time": first_byte_time,
            "user_id": user_id,
        }
        types = None
        if (
            not fields
            and type(model_id) is type(operation) is type(status) is str
            and type(duration) is type(generation_time) is float
            and type(tokens_generated) is type(input_tokens) is type(output_tokens) is int
            and (first_byte_time is None or type(first_byte_time) is float)
            and (user_id is None or type(user_id) is str)
        ):
            types = GENERATION_TYPES
        else:
            if tokens_generated is None:
                del own["tokens_generated"]
            own = {name: value for name, value in own.items() if value is not _NOT_GIVEN} | fields
        self._log(operation_level(status), OPERATION_MESSAGE, own, "model_operation", types)

    def timer(self, name: str, /, **fields: Any) -> Timer:
        """``with logger.timer("store scanned", models=3):`` logs ``name`` at info with its duration in seconds.

        An exception makes it an error record and goes on its way; a cancellation stays at info. The timer
        that ``as`` gives takes further fields: ``timer.add(size_mb=4)``.
        """
        return Timer(self, name, fields)

    def is_enabled_for(self, level: int) -> bool:
        """Whether a record of ``level`` would be written; for what is expensive to compute."""
        writer = pipeline.active()
        if writer is None:
            return logging.getLogger(self._name).isEnabledFor(level)
        return level >= writer.lowest[self._mode]

    def _log(
        self, level: int, message: str, fields: dict[str, Any], kind: Kind = "", types: tuple[type, ...] | None = None
    ) -> None:
        writer = pipeline.active()
        if writer is None:
            _log_unconfigured(self._name, level, message, fields)
            return
        if level < writer.lowest[self._mode]:
            return
        exception = _exception_info(fields.pop("exc_info")) if "exc_info" in fields else None
        request = fields.pop("request_id") if "request_id" in fields else request_id.get()
        if request is not None and type(request) is not str:
            request = str(request)
        if type(message) is not str:
            message = str(plain(message))
        if types is None:
            types = (*map(type, fields.values()),)
            if not _SCALARS.issuperset(types):
                fields, types = {name: plain(value) for name, value in fields.items()}, ()
        place = _caller() if writer.verbose or self._mode == "dev" else None
        writer.submit(
            (time.time(), level, self._name, message, fields, request, exception, place, kind, self._mode, types)
        )


class Timer:
    """See :meth:`Logger.timer`; ``duration`` holds the seconds once it has ended."""

    __slots__ = ("_begin", "_fields", "_logger", "_name", "duration")

    def __init__(self, logger: Logger, name: str, fields: dict[str, Any]) -> None:
        self._logger = logger
        self._name = name
        self._fields = fields
        self._begin = 0.0
        self.duration = 0.0

    def add(self, **fields: Any) -> None:
        """Add fields to the record that the end will write."""
        self._fields.update(fields)

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.duration = time.perf_counter() - self._begin
        fields = {**self._fields, "duration": self.duration}
        if error is None:
            self._logger.info(self._name, **fields)
        elif isinstance(error, Exception):
            self._logger.error(self._name, **{"outcome": "failed", "error": plain(error)} | fields)
        else:
            self._logger.info(self._name, **{"outcome": "cancelled"} | fields)


def _exception_info(given: object) -> ExceptionInfo:
    if given is True:
        return sys.exc_info()[1]
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple) and len(given) > 1 and isinstance(given[1], BaseException):
        return given[1]
    return None


def _caller() -> str | None:
    """``file.py:12`` of the code that logs."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the one way to a line number without a whole stack
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fastapi_foundry.observability"):
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{file}:{frame.f_lineno}"


def _log_unconfigured(name: str, level: int, message: str, fields: dict[str, Any]) -> None:
    """The standard library decides: by default warnings and worse go to standard error."""
    target = logging.getLogger(name)
    if target.isEnabledFor(level):
        exception = _exception_info(fields.pop("exc_info", None))
        safe = (redacted_field(key, plain(value)) for key, value in fields.items())
        shown = " ".join(f"{key}={value}" for key, value in safe)
        text = redacted_text(str(plain(message)))
        target.log(level, "%s %s", text, shown, exc_info=exception if isinstance(exception, BaseException) else None)
