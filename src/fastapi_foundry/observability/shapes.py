"""What is learned of a record, for the lines of those of the same shape that follow it.

Nearly every record has the logger, the level, the message, the names and the kinds of values of one before it, and what
those make of a line is made once. Texts come again too (methods, routes, model ids), so it is remembered which of them
a line shows as they are. How a line reads is defined in ``records`` alone, from which everything here is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from fastapi_foundry.observability.credentials import without_credentials
from fastapi_foundry.observability.records import (
    Record,
    as_event,
    as_text_line,
    field_name,
    is_own_id,
    one_line,
    text_time,
    value_in_text,
)
from fastapi_foundry.observability.redaction import redacted_field, redacted_text

__all__ = ["Files", "GenerationShape", "Learner", "RequestShape", "Shape", "is_plain_id"]

_MAX_TEXTS: Final = 2048
_MAX_TEXT_LENGTH: Final = 64
_MAX_SHAPE_LENGTH: Final = 1024  # characters of message and names
_is_sane_id: Final = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII).match
# What redaction does to a number or None depends on the field's name alone, and so it does with a harmless text.
_SAMPLES: Final[dict[type, Any]] = {str: "x", int: 1, float: 1.0, bool: True, type(None): None}


class Files(NamedTuple):
    """Where the lines of a record wait for their files: those of text, and those of JSON."""

    text: tuple[list[bytes], ...]
    structured: tuple[list[bytes], ...]


class Shape(NamedTuple):
    """What records have in common that differ in time, request id and values.

    Attributes:
        head: Of a text line, from the time to the request id.
        structured_head: The same of a line of JSON.
        pattern: Makes a text line's fields of their values.
        texts: Picks the texts among the values.
        files: Where the lines go.
    """

    head: str
    structured_head: bytes
    pattern: str
    texts: Callable[[tuple[Any, ...]], Iterable[str]]
    files: Files


class RequestShape(NamedTuple):
    """What records of requests have in common that differ in time, request id and duration; the fields up to it."""

    head: str
    structured_head: bytes
    fields: str
    structured_fields: bytes
    files: Files


class GenerationShape(NamedTuple):
    """What records of generations have in common that differ in time, request id and numbers; the fields around them."""

    head: str
    structured_head: bytes
    before: str
    after: str
    files: Files


class Learner:
    """Makes shapes of records; None of one that is not ordinary enough.

    Args:
        process: As every record says it.
        pid: The same.
        files_of: Where a record goes, judged by logger, level, message, kind and mode; None if not into files alone.
    """

    def __init__(self, process: str, pid: int, files_of: Callable[[Record], Files | None]) -> None:
        self._process = process
        self._pid = pid
        self._files_of = files_of
        self.plain_texts: Final[set[str]] = set()

    def shape(self, record: Record) -> Shape | None:
        """Of any record."""
        files = self._files_of(record)
        heads = self._heads(record) if _is_ordinary(record) else None
        if files is None or heads is None:
            return None
        return Shape(*heads, _pattern(record), _picker(record.types), files)

    def request(self, record: Record) -> RequestShape | None:
        """Of a record with ``REQUEST_TYPES``."""
        files, heads = self._files_of(record), self._heads(record)
        fields = {name: value for name, value in record.fields.items() if name != "duration"}
        if files is None or heads is None or not self.are_plain((fields["method"], fields["api_path"])):
            return None
        try:
            structured = orjson.dumps(fields)[1:-1] + b',"duration":'
        except orjson.JSONEncodeError:
            return None
        text = "".join(f" {name}={value}" for name, value in fields.items()) + " duration="
        return RequestShape(*heads, text, structured, files)

    def generation(self, record: Record) -> GenerationShape | None:
        """Of a record with ``GENERATION_TYPES``."""
        files, heads, fields = self._files_of(record), self._heads(record), record.fields
        texts = [fields[name] for name in ("model_id", "operation", "status", "user_id") if fields[name] is not None]
        if files is None or heads is None or not self.are_plain(texts):
            return None
        before = "".join(f" {name}={fields[name]}" for name in ("model_id", "operation", "status"))
        return GenerationShape(*heads, f"{before} duration=", f" user_id={fields['user_id']}\n", files)

    def are_plain(self, texts: Iterable[str]) -> bool:
        """Whether a line shows all of ``texts`` as they are; those that it does are remembered."""
        for text in texts:
            if len(text) > _MAX_TEXT_LENGTH or redacted_text(text) != text or value_in_text(text) != text:
                return False
            if len(self.plain_texts) >= _MAX_TEXTS:
                self.plain_texts.clear()
            self.plain_texts.add(text)
        return True

    def _heads(self, record: Record) -> tuple[str, bytes] | None:
        event = as_event(record._replace(fields={}, request_id=None), self._process, self._pid)
        time = text_time(event["timestamp"], event["ms"])
        text = as_text_line(event).removeprefix(time).removesuffix("\n")
        del event["timestamp"], event["ms"]
        try:
            return text, orjson.dumps(event)[1:-1] + b","
        except orjson.JSONEncodeError:
            return None


def is_plain_id(request_id: str) -> bool:
    """Whether a line shows the id as it is; nothing is remembered of ids, since each differs."""
    return is_own_id(request_id) is not None or (
        _is_sane_id(request_id) is not None and without_credentials(request_id) == request_id
    )


def _is_ordinary(record: Record) -> bool:
    """Whether nothing but the forms of its texts can change what is written of the fields."""
    fields, types = record.fields, record.types
    return (
        len(types) == len(fields)
        and len(record.message) + sum(map(len, fields)) <= _MAX_SHAPE_LENGTH
        and redacted_text(record.message) == record.message
        and all(
            redacted_field(name, _SAMPLES[each]) == (name, _SAMPLES[each])
            and field_name(name, _SAMPLES[each], record.kind) == name
            for name, each in zip(fields, types, strict=True)
        )
    )


def _pattern(record: Record) -> str:
    """For ``%`` with the values, which shows them as ``value_in_text`` does."""
    parts = zip(record.fields, record.types, strict=True)
    named = ((one_line(name).replace("%", "%%"), "%.6g" if each is float else "%s") for name, each in parts)
    return "".join(f" {name}={form}" for name, form in named) + "\n"


def _picker(types: tuple[type, ...]) -> Callable[[tuple[Any, ...]], Iterable[str]]:
    places = [place for place, each in enumerate(types) if each is str]
    match places:
        case []:
            return lambda _: ()
        case [only]:
            return lambda values: (values[only],)
        case _:
            return itemgetter(*places)
