"""The short way of a record to its lines: what other records taught, and what differs from them.

About a fifth of the work of the long way in ``records``, which everything takes that is not as plain as most records
are; both ways give the same bytes. The writer's thread holds the interpreter's lock, so what it spends no request gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import orjson

from fastapi_foundry.observability.records import (
    GENERATION_TYPES,
    REQUEST_TYPES,
    Record,
    RecordItems,
    text_time,
    timestamp,
)
from fastapi_foundry.observability.shapes import Files, GenerationShape, Learner, RequestShape, Shape, is_plain_id

__all__ = ["ShortWay"]

Key = tuple[object, ...]
S = TypeVar("S", Shape, RequestShape, GenerationShape)

_MAX_SHAPES: Final = 512
_MILLION: Final = 1e6  # from here on a text line shows all digits of a float
_LINE_END: Final = orjson.OPT_APPEND_NEWLINE


class ShortWay:
    """Makes the lines of ordinary records; for one thread.

    Args:
        process: As every record says it.
        pid: The same.
        files_of: Where a record goes, judged by logger, level, message, kind and mode; None if not into files alone.
    """

    def __init__(self, process: str, pid: int, files_of: Callable[[Record], Files | None]) -> None:
        self._learner = Learner(process, pid, files_of)
        self._plain_texts = self._learner.plain_texts
        self._shapes: dict[Key, Shape] = {}
        self._requests: dict[Key, RequestShape] = {}
        self._generations: dict[Key, GenerationShape] = {}
        # The time and the id of the record before: the next one often has the same.
        self._since = self._until = 0.0
        self._text_time, self._structured_time = "", b""
        self._id: str | None = None
        self._text_id, self._structured_id = "", b""

    def add(self, items: RecordItems) -> bool:
        """Append a record's lines where they wait; False, and nothing done, if it must take the long way."""
        created, _, _, _, _, request_id, exception, place, _, _, types = items
        if not types or exception is not None or place is not None:
            return False
        if request_id != self._id and not self._set_id(request_id):
            return False
        if not self._since <= created < self._until:
            self._set_time(created)
        if types is REQUEST_TYPES:
            return self._add_request(items)
        if types is GENERATION_TYPES:
            return self._add_generation(items)
        return self._add_other(items)

    def _add_other(self, items: RecordItems) -> bool:
        _, level, logger, message, fields, _, _, _, kind, mode, types = items
        key = (logger, level, message, kind, mode, types, *fields)
        shape = self._shapes.get(key) or _learned(self._shapes, key, self._learner.shape, items)
        if shape is None:
            return False
        values = tuple(fields.values())
        texts = shape.texts(values)
        if not self._plain_texts.issuperset(texts) and not self._learner.are_plain(texts):
            return False
        try:
            structured = orjson.dumps(fields, None, _LINE_END)
        except orjson.JSONEncodeError:
            return False
        text = shape.pattern % values
        if "+" in text and "e+" in text:
            return False  # perhaps a float from a million on
        line = f"{self._text_time}{shape.head}{self._text_id}{text}".encode()
        for lines in shape.files.text:
            lines.append(line)
        line = b"".join((self._structured_time, shape.structured_head, self._structured_id, structured[1:]))
        for lines in shape.files.structured:
            lines.append(line)
        return True

    def _add_request(self, items: RecordItems) -> bool:
        _, level, logger, _, fields, _, _, _, _, mode, _ = items
        method, path, status_code, duration = fields.values()
        key = (logger, level, mode, method, path, status_code)
        shape = self._requests.get(key) or _learned(self._requests, key, self._learner.request, items)
        if shape is None or not -_MILLION < duration < _MILLION:
            return False
        line = f"{self._text_time}{shape.head}{self._text_id}{shape.fields}{duration:.6g}\n".encode()
        for lines in shape.files.text:
            lines.append(line)
        head = (self._structured_time, shape.structured_head, self._structured_id)
        line = b"".join((*head, shape.structured_fields, orjson.dumps(duration), b"}\n"))
        for lines in shape.files.structured:
            lines.append(line)
        return True

    def _add_generation(self, items: RecordItems) -> bool:
        _, level, logger, _, fields, _, _, _, _, mode, _ = items
        model_id, operation, status, duration, generated, read, written, busy, first, user_id = fields.values()
        key = (logger, level, mode, model_id, operation, status, user_id)
        shape = self._generations.get(key) or _learned(self._generations, key, self._learner.generation, items)
        if (
            shape is None
            or not -_MILLION < duration < _MILLION
            or not -_MILLION < busy < _MILLION
            or not (first is None or -_MILLION < first < _MILLION)
        ):
            return False
        try:
            structured = orjson.dumps(fields, None, _LINE_END)
        except orjson.JSONEncodeError:
            return False
        duration_text = f"{duration:.6g}"
        line = (
            f"{self._text_time}{shape.head}{self._text_id}{shape.before}{duration_text} tokens_generated={generated}"
            f" input_tokens={read} output_tokens={written}"
            f" generation_time={duration_text if busy is duration else f'{busy:.6g}'}"
            f" first_byte_time={None if first is None else f'{first:.6g}'}{shape.after}"
        ).encode()
        for lines in shape.files.text:
            lines.append(line)
        line = b"".join((self._structured_time, shape.structured_head, self._structured_id, structured[1:]))
        for lines in shape.files.structured:
            lines.append(line)
        return True

    def _set_time(self, created: float) -> None:
        seconds = int(created)
        milliseconds = int((created - seconds) * 1000)
        # A microsecond less than it lasts, since the border between two milliseconds is no exact number.
        self._since, self._until = created, seconds + (milliseconds + 1) / 1000 - 1e-6
        stamp = timestamp(seconds)
        self._text_time = text_time(stamp, milliseconds)
        self._structured_time = f'{{"timestamp":"{stamp}","ms":{milliseconds},'.encode()

    def _set_id(self, request_id: str | None) -> bool:
        if request_id is None:
            self._text_id, self._structured_id = "", b""
        elif is_plain_id(request_id):
            self._text_id, self._structured_id = f" request_id={request_id}", f'"request_id":"{request_id}",'.encode()
        else:
            return False
        self._id = request_id
        return True


def _learned(known: dict[Key, S], key: Key, learn: Callable[[Record], S | None], items: RecordItems) -> S | None:
    shape = learn(Record._make(items))
    if shape is not None:
        if len(known) >= _MAX_SHAPES:
            known.clear()
        known[key] = shape
    return shape
