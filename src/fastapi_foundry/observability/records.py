"""One log record, and how it reads: as a line of JSON and as a line of text."""

from __future__ import annotations

import logging
import re
import time
import traceback
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

import orjson

from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.redaction import redacted, redacted_ends, redacted_field, redacted_text

__all__ = [
    "GENERATION_TYPES",
    "LEVEL_NAMES",
    "OPERATION_MESSAGE",
    "REQUEST_MESSAGE",
    "REQUEST_TYPES",
    "Event",
    "ExceptionInfo",
    "ExchangeItems",
    "ExchangeNames",
    "ExchangeValues",
    "Record",
    "RecordItems",
    "as_event",
    "as_json_line",
    "as_text_line",
    "field_name",
    "is_own_id",
    "one_line",
    "operation_level",
    "request_level",
    "text_time",
    "timestamp",
    "value_in_text",
]

ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | BaseException | None
)
Kind = Literal["", "api_request", "model_operation"]
Event = dict[str, Any]

LEVEL_NAMES: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
# The names that a record has of its own; a field of the same name gets an underscore.
_OWN: Final = frozenset(
    {"timestamp", "ms", "level", "logger", "message", "process", "pid", "place", "exception", "error_context"}
)
_SPECIAL: Final = _OWN | {"api_path", "duration"}
is_own_id: Final = re.compile(r"req_[0-9a-f]{1,32}\Z").match
_MAX_TRACEBACK: Final = 32_768  # characters
_JSON_INTEGER_BITS: Final = 63
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400
_FAILED: Final = frozenset({"error", "failed", "failure"})


class Record(NamedTuple):
    """What the caller's thread hands to the writer's.

    ``created`` is seconds since 1970; ``fields`` hold plain values; ``place`` is ``file.py:12`` in dev mode;
    ``mode`` is the one of a logger that has its own; ``types`` are those of the fields' values, or empty where there
    are fields of other kinds than texts, numbers and None, or nobody looked.
    """

    created: float
    level: int
    logger: str
    message: str
    fields: dict[str, Any]
    request_id: str | None
    exception: ExceptionInfo = None
    place: str | None = None
    kind: Kind = ""
    mode: str | None = None
    types: tuple[type, ...] = ()


# The same as it waits in the queue: making a named tuple costs the caller 0.3 µs more.
RecordItems = tuple[
    float,
    int,
    str,
    str,
    dict[str, Any],
    str | None,
    ExceptionInfo,
    str | None,
    Kind,
    str | None,
    tuple[type, ...],
]


class ExchangeNames(NamedTuple):
    """What is the same in all records of one ``ExchangeLog``: the names of both loggers, and a field of each."""

    generations: str
    operation: str
    requests: str
    method: str


# The two records of a whole request as they wait, their values as ``ExchangeLog.write`` gets them.
ExchangeValues = tuple[str, int, bytes, float, str, str, float, int, int, float | None, str | None]
ExchangeItems = tuple[float, ExchangeNames, ExchangeValues]
OPERATION_MESSAGE: Final = "model operation"
REQUEST_MESSAGE: Final = "request"

# The two records that each request leaves behind have these very tuples as their ``types`` where they hold nothing but
# their own fields, of these types, and nothing else has them; a generation's first byte and user may be None.
REQUEST_TYPES: Final[tuple[type, ...]] = (str, str, int, float)
GENERATION_TYPES: Final[tuple[type, ...]] = (str, str, str, float, int, int, int, float, float, str)


def as_event(record: Record, process: str, pid: int) -> Event:
    """The record as the structured file shows it, redacted.

    ``timestamp`` is exactly ``YYYY-MM-DDTHH:MM:SSZ``, for jq's ``fromdateiso8601``; ``ms`` holds the
    milliseconds. ``api_path`` is on request records alone, and ``duration`` is a number or absent.
    """
    seconds = int(record.created)
    event: Event = {
        "timestamp": timestamp(seconds),
        "ms": int((record.created - seconds) * 1000),
        "level": LEVEL_NAMES.get(record.level) or level_name(record.level),
        "logger": record.logger,
        "message": redacted_text(record.message),
        "process": process,
        "pid": pid,
    }
    if record.request_id is not None:
        # A client may choose it, and may put anything there; each of ours differs, which no cache would help with.
        event["request_id"] = record.request_id if is_own_id(record.request_id) else redacted_text(record.request_id)
    for name, value in record.fields.items():
        shown, safe = redacted_field(name, value)
        event[field_name(shown, value, record.kind) if shown in _SPECIAL else shown] = safe
    if record.place is not None:
        event["place"] = record.place
    if record.exception is not None:
        _add_exception(event, record.exception)
    return event


def request_level(status_code: int) -> int:
    """The level of a request's record."""
    return 40 if status_code >= _SERVER_ERROR else 30 if status_code >= _CLIENT_ERROR else 20


def operation_level(status: str) -> int:
    """The level of a model operation's record."""
    return 40 if status in _FAILED else 20


def level_name(level: int) -> str:
    """The nearest of our five levels at or below a foreign one."""
    known = [number for number in LEVEL_NAMES if number <= level]
    return LEVEL_NAMES[max(known, default=logging.DEBUG)]


def as_json_line(event: Event) -> bytes:
    """One line of JSON; never raises, whatever the values are."""
    try:
        return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        # Lone surrogates and integers beyond 64 bits are all that plain values can fail with.
        return orjson.dumps(_encodable(event), option=orjson.OPT_APPEND_NEWLINE)


def as_text_line(event: Event) -> str:
    """``time level logger message field=value ...``, a traceback indented below it; ends with a newline.

    Control characters are escaped, so no message can pretend to be another record or steer a terminal.
    """
    parts = [
        f"{text_time(event['timestamp'], event['ms'])} {event['level']:<8} {event['logger']}:",
        one_line(event["message"]),
    ]
    parts.extend(f"{one_line(name)}={value_in_text(value)}" for name, value in event.items() if name not in _OWN)
    if "place" in event:
        parts.append(f"({event['place']})")
    if "error_context" in event:
        parts.append(f"error_context={value_in_text(event['error_context'])}")
    line = " ".join(parts) + "\n"
    if "exception" in event:
        line += "".join(f"    {one_line(row)}\n" for row in event["exception"].splitlines())
    return line


def text_time(stamp: str, milliseconds: int) -> str:
    """A record's time as text lines have it, from its ``timestamp`` and ``ms``."""
    return f"{stamp[:-1]}.{milliseconds:03d}Z"


def field_name(name: str, value: object, kind: Kind) -> str:
    """The name itself, or with an underscore where a record of that kind says something else by it."""
    if name in _OWN or (name == "api_path" and kind != "api_request"):
        return name + "_"
    if name == "duration" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "duration_"
    return name


def _add_exception(event: Event, given: ExceptionInfo) -> None:
    error = given[1] if isinstance(given, tuple) else given
    if error is None:
        return
    text = "".join(traceback.format_exception(error)).rstrip()
    event["exception"] = redacted_ends(text, _MAX_TRACEBACK)
    event.setdefault("error_type", type(error).__name__)
    if isinstance(error, FoundryError) and error.context:
        event["error_context"] = {name: redacted(name, _plain_text(value)) for name, value in error.context.items()}


def _plain_text(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


_last_timestamp: tuple[int, str] = (0, "1970-01-01T00:00:00Z")


def timestamp(seconds: int) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ``; most records share their second with the one before."""
    global _last_timestamp  # noqa: PLW0603 - one tuple, replaced as a whole; only the writer's thread comes here
    if _last_timestamp[0] != seconds:
        _last_timestamp = (seconds, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)))
    return _last_timestamp[1]


def one_line(text: str) -> str:
    """``text`` with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def value_in_text(value: object) -> str:
    """A field's value in a text line."""
    if isinstance(value, str):
        if value and value.isprintable() and " " not in value and '"' not in value and "=" not in value:
            return value
        return '"' + one_line(value).replace('"', '\\"') + '"'
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else repr(value)  # noqa: PLR2004 - microseconds are enough
    if isinstance(value, dict | list):
        return one_line(as_json_line({"": value}).decode()[4:-2])
    return str(value)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(str(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _JSON_INTEGER_BITS:
        return str(value)
    return value
