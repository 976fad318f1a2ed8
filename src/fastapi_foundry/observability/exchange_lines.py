"""The lines of the two records of whole requests, from their values; see ``exchange_log``.

What requests of one kind have in common is made once, as patterns; what their lines read like is taken from ``shapes``, and
so from ``records``. For each request there is left to write its numbers and to join all of it, a third of what the short way of
``lines`` takes for the two.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import orjson

from fastapi_foundry.observability.records import (
    OPERATION_MESSAGE,
    REQUEST_MESSAGE,
    ExchangeItems,
    ExchangeNames,
    Record,
    operation_level,
    request_level,
    timestamp,
)
from fastapi_foundry.observability.shapes import Files, GenerationShape, Learner, RequestShape, is_plain_id

__all__ = ["ExchangeLines", "as_records"]

_MAX_PATTERNS: Final = 512
_MAX_USERS: Final = 4096
_MAX_KEPT_LENGTH: Final = 256
_MILLION: Final = 1e6  # from here on a text line shows all digits of a float
_MAX_TOKENS: Final = 2**53
_NUMBERS: Final = 4096  # whose digits are kept; those of milliseconds are among them
_is_own_id: Final = re.compile(rb"req_[0-9a-f]{1,32}\Z").match
_json: Final = orjson.dumps
_GENERATION_TEXT: Final = (
    b"%b tokens_generated=%b input_tokens=%b output_tokens=%b generation_time=%b first_byte_time=%b user_id=%b\n"
)
_GENERATION_JSON: Final = (
    b',"duration":%b,"tokens_generated":%b,"input_tokens":%b,"output_tokens":%b'
    b',"generation_time":%b,"first_byte_time":%b,"user_id":%b}\n'
)
_REQUEST_TEXT: Final = b"%.6g\n"
_REQUEST_JSON: Final = b"%b}\n"

_Key = tuple[ExchangeNames, str, int, str, str]


class _Patterns(NamedTuple):
    """Of lines, for ``%`` with what differs between requests of one kind; and where the lines go."""

    generation_files: Files
    generation_text: bytes
    generation_structured: bytes
    request_files: Files
    request_text: bytes
    request_structured: bytes


_NO_FILES: Final = Files((), ())
_ODD: Final = _Patterns(_NO_FILES, b"", b"", _NO_FILES, b"", b"")
_ODD_USER: Final = (b"", b"")


class ExchangeLines:
    """Makes the lines of ordinary requests; for one thread.

    Args:
        learner: Knows what lines look like and where they go; of the same thread.
    """

    __slots__ = ("_learner", "_numbers", "_padded", "_patterns", "_second", "_stamp", "_users")

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._patterns: dict[_Key, _Patterns] = {}
        self._users: dict[str | None, tuple[bytes, bytes]] = {}
        self._numbers = [b"%d" % number for number in range(_NUMBERS)]
        self._padded = [b"%03d" % number for number in range(1000)]
        self._second, self._stamp = 0.0, b"1970-01-01T00:00:00"

    def add(self, items: ExchangeItems) -> bool:
        """Append the lines where they wait; False, and nothing done, if the records must go another way."""
        created, names, values = items
        path, status_code, own_id, duration, model_id, status, busy, read, written, first, user = values
        key = (names, path, status_code, model_id, status)
        patterns = self._patterns.get(key) or self._learn(key)
        files, text, structured, request_files, request_text, request_structured = patterns
        user_text, user_json = self._users.get(user) or self._learn_user(user)
        if (
            not text
            or not user_text
            or not 0.0 <= duration < _MILLION
            or not 0.0 <= busy < _MILLION
            or not (first is None or 0.0 <= first < _MILLION)
            or not 0 <= read < _MAX_TOKENS
            or not 0 <= written < _MAX_TOKENS
            or not (_is_own_id(own_id) or is_plain_id(own_id.decode("latin-1")))
        ):
            return False
        if not 0.0 <= created - self._second < 1.0:
            self._set_second(created)
        stamp, numbers = self._stamp, self._numbers
        milliseconds = int((created - self._second) * 1000)
        padded, ms = self._padded[milliseconds], numbers[milliseconds]
        prompt = numbers[read] if read < _NUMBERS else b"%d" % read
        answer = numbers[written] if written < _NUMBERS else b"%d" % written
        busy_text, busy_json = b"%.6g" % busy, _json(busy)
        first_text, first_json = (b"None", b"null") if first is None else (b"%.6g" % first, _json(first))
        line = text % (stamp, padded, own_id, busy_text, answer, prompt, answer, busy_text, first_text, user_text)
        for lines in files.text:
            lines.append(line)
        line = structured % (stamp, ms, own_id, busy_json, answer, prompt, answer, busy_json, first_json, user_json)
        for lines in files.structured:
            lines.append(line)
        line = request_text % (stamp, padded, own_id, duration)
        for lines in request_files.text:
            lines.append(line)
        line = request_structured % (stamp, ms, own_id, _json(duration))
        for lines in request_files.structured:
            lines.append(line)
        return True

    def _learn(self, key: _Key) -> _Patterns:
        if max(map(len, (key[1], *key[3:]))) > _MAX_KEPT_LENGTH:
            return _ODD
        learned = self._patterns_of(key) or _ODD
        if len(self._patterns) >= _MAX_PATTERNS:
            self._patterns.clear()
        self._patterns[key] = learned
        return learned

    def _patterns_of(self, key: _Key) -> _Patterns | None:
        names, path, status_code, model_id, status = key
        sample = (path, status_code, b"", 0.0, model_id, status, 0.0, 0, 0, None, None)
        generation, request = as_records((0.0, names, sample))
        shape, request_shape = self._learner.generation(generation), self._learner.request(request)
        if shape is None or request_shape is None:
            return None
        told = {name: generation.fields[name] for name in ("model_id", "operation", "status")}
        return _Patterns(
            shape.files,
            _text_pattern(shape, shape.before, _GENERATION_TEXT),
            _structured_pattern(shape, _json(told)[1:-1], _GENERATION_JSON),
            request_shape.files,
            _text_pattern(request_shape, request_shape.fields, _REQUEST_TEXT),
            _structured_pattern(request_shape, request_shape.structured_fields, _REQUEST_JSON),
        )

    def _learn_user(self, user_id: str | None) -> tuple[bytes, bytes]:
        if user_id is None:
            learned = (b"None", b"null")
        elif self._learner.are_plain((user_id,)):
            learned = (user_id.encode(), _json(user_id))
        else:
            return _ODD_USER
        if len(self._users) >= _MAX_USERS:
            self._users.clear()
        self._users[user_id] = learned
        return learned

    def _set_second(self, created: float) -> None:
        second = int(created)
        self._second, self._stamp = float(second), timestamp(second)[:-1].encode()


def as_records(items: ExchangeItems) -> tuple[Record, Record]:
    """What the loggers would have made of the same: the records of the generation and of the request."""
    created, names, values = items
    path, status_code, own_id, duration, model_id, status, busy, read, written, first, user = values
    request_id = own_id.decode("latin-1")
    generation = {
        "model_id": model_id,
        "operation": names.operation,
        "status": status,
        "duration": busy,
        "tokens_generated": written,
        "input_tokens": read,
        "output_tokens": written,
        "generation_time": busy,
        "first_byte_time": first,
        "user_id": user,
    }
    request = {"method": names.method, "api_path": path, "status_code": status_code, "duration": duration}
    return (
        Record(
            created,
            operation_level(status),
            names.generations,
            OPERATION_MESSAGE,
            generation,
            request_id,
            kind="model_operation",
        ),
        Record(
            created,
            request_level(status_code),
            names.requests,
            REQUEST_MESSAGE,
            request,
            request_id,
            kind="api_request",
        ),
    )


def _text_pattern(shape: GenerationShape | RequestShape, fields: str, rest: bytes) -> bytes:
    return b"%b.%bZ" + _literal(shape.head.encode()) + b" request_id=%b" + _literal(fields.encode()) + rest


def _structured_pattern(shape: GenerationShape | RequestShape, fields: bytes, rest: bytes) -> bytes:
    head = _literal(shape.structured_head)
    return b'{"timestamp":"%bZ","ms":%b,' + head + b'"request_id":"%b",' + _literal(fields) + rest


def _literal(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
