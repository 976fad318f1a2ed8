"""The two records that nearly every request leaves behind, as finished lines.

A record that the writer's thread formats makes the event loop wait for the interpreter's lock, which costs a busy gateway
more than the formatting itself. Here the caller's thread makes the lines of both records, from what it knows of earlier ones
and in hardly more time than handing the values over takes; the writer only joins and writes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from fastapi_foundry.observability import pipeline
from fastapi_foundry.observability.logger import (
    OPERATION_MESSAGE,
    REQUEST_MESSAGE,
    Logger,
    operation_level,
    request_level,
)
from fastapi_foundry.observability.records import Record, timestamp
from fastapi_foundry.observability.shapes import Files, GenerationShape, Learner, RequestShape, is_plain_id

__all__ = ["ExchangeLog"]

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

_Key = tuple[str, int, str, str]


class _Patterns(NamedTuple):
    """Of lines, for ``%`` with what differs between requests of one kind; and where the lines go."""

    generation_files: Files
    generation_text: bytes
    generation_structured: bytes
    request_files: Files
    request_text: bytes
    request_structured: bytes


_NO_FILES: Final = Files((), ())
_ODD: Final = _Patterns(_NO_FILES, b"", b"", _NO_FILES, b"", b"")  # left to the loggers
_SILENT: Final = _Patterns(_NO_FILES, b"", b"", _NO_FILES, b"", b"")  # below the level of all files
_ODD_USER: Final = (b"", b"")


class ExchangeLog:
    """Writes what ``log_model_operation`` and then ``log_api_request`` write of one request, to the byte.

    Whatever is not ordinary goes through those two: a console that shows the records, the places of dev mode, texts and
    ids that a line does not show as they are, numbers from a million on, a process without logging. For one thread.

    Args:
        generations: Name of the logger of the generation's record.
        requests: The same for the request's.
        method: HTTP method of the requests.
        operation: What is done with the model.
        clock: Seconds since 1970.
    """

    __slots__ = (
        "_clock",
        "_generations",
        "_learner",
        "_method",
        "_names",
        "_numbers",
        "_operation",
        "_padded",
        "_patterns",
        "_requests",
        "_second",
        "_stamp",
        "_users",
        "_writer",
    )

    def __init__(
        self,
        generations: str,
        requests: str,
        *,
        method: str = "POST",
        operation: str = "generate",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names = (generations, requests)
        self._generations, self._requests = Logger(generations), Logger(requests)
        self._method = method
        self._operation = operation
        self._clock = clock
        self._writer: pipeline.Pipeline | None = None
        self._learner: Learner | None = None
        self._patterns: dict[_Key, _Patterns] = {}
        self._users: dict[str | None, tuple[bytes, bytes]] = {}
        self._numbers = [b"%d" % number for number in range(_NUMBERS)]
        self._padded = [b"%03d" % number for number in range(1000)]
        self._second, self._stamp = 0.0, b"1970-01-01T00:00:00"

    def write(  # noqa: PLR0913 - all plain values, in one call: that is what makes it cheap
        self,
        path: str,
        status_code: int,
        request_id: bytes,
        duration_s: float,
        model_id: str,
        status: str,
        generation_s: float,
        prompt_tokens: int,
        completion_tokens: int,
        first_byte_s: float | None,
        user_id: str | None,
    ) -> None:
        """Log a generation and the request that it was made for; never waits, never raises.

        Args:
            path: The route's template.
            status_code: The HTTP status.
            request_id: Visible ASCII.
            duration_s: Seconds from the request's arrival to the last byte of the answer.
            model_id: Full id.
            status: ``ok``, ``failed``, ``cancelled``, ...
            generation_s: Seconds that the generation took.
            prompt_tokens: Tokens of the prompt.
            completion_tokens: Tokens of the answer.
            first_byte_s: Seconds until the first byte; None if nobody looked.
            user_id: The id of the key that asked; None where none is needed.
        """
        writer = pipeline.active()
        if writer is not self._writer:
            self._follow(writer)
        key = (path, status_code, model_id, status)
        files, text, structured, request_files, request_text, request_structured = self._patterns.get(
            key
        ) or self._learn(key)
        user_text, user_json = self._users.get(user_id) or self._learn_user(user_id)
        if (
            writer is None
            or not text
            or not user_text
            or not 0.0 <= duration_s < _MILLION
            or not 0.0 <= generation_s < _MILLION
            or not (first_byte_s is None or 0.0 <= first_byte_s < _MILLION)
            or not 0 <= prompt_tokens < _MAX_TOKENS
            or not 0 <= completion_tokens < _MAX_TOKENS
            or not (_is_own_id(request_id) or _is_plain(request_id))
        ):
            if self._patterns.get(key) is not _SILENT:
                generation = (generation_s, prompt_tokens, completion_tokens, first_byte_s, user_id)
                self._write_odd(key, _text(request_id), duration_s, generation)
            return
        created = self._clock()
        if not 0.0 <= created - self._second < 1.0:
            self._set_second(created)
        stamp, numbers = self._stamp, self._numbers
        milliseconds = int((created - self._second) * 1000)
        padded, ms = self._padded[milliseconds], numbers[milliseconds]
        read = numbers[prompt_tokens] if prompt_tokens < _NUMBERS else b"%d" % prompt_tokens
        written = numbers[completion_tokens] if completion_tokens < _NUMBERS else b"%d" % completion_tokens
        busy, busy_json = b"%.6g" % generation_s, _json(generation_s)
        first, first_json = (
            (b"None", b"null") if first_byte_s is None else (b"%.6g" % first_byte_s, _json(first_byte_s))
        )
        writer.submit_finished(
            (
                files,
                text % (stamp, padded, request_id, busy, written, read, written, busy, first, user_text),
                structured
                % (stamp, ms, request_id, busy_json, written, read, written, busy_json, first_json, user_json),
            ),
            (
                request_files,
                request_text % (stamp, padded, request_id, duration_s),
                request_structured % (stamp, ms, request_id, _json(duration_s)),
            ),
        )

    def _write_odd(
        self,
        key: _Key,
        request_id: str,
        duration_s: float,
        generation: tuple[float, int, int, float | None, str | None],
    ) -> None:
        """The way of any other record."""
        path, status_code, model_id, status = key
        generation_s, prompt_tokens, completion_tokens, first_byte_s, user_id = generation
        self._generations.log_model_operation(
            model_id,
            self._operation,
            status,
            generation_s,
            completion_tokens,
            input_tokens=prompt_tokens,
            output_tokens=completion_tokens,
            generation_time=generation_s,
            first_byte_time=first_byte_s,
            user_id=user_id,
            request_id=request_id,
        )
        self._requests.log_api_request(self._method, path, status_code, duration_s, request_id=request_id)

    def _follow(self, writer: pipeline.Pipeline | None) -> None:
        """Forget what belongs to the pipeline before."""
        self._writer = writer
        # Places in the code are found by the loggers alone.
        self._learner = None if writer is None or writer.verbose else writer.learner()
        self._patterns.clear()
        self._users.clear()

    def _learn(self, key: _Key) -> _Patterns:
        path, status_code, model_id, status = key
        if max(len(path), len(model_id), len(status)) > _MAX_KEPT_LENGTH:
            return _ODD
        levels = (operation_level(status), request_level(status_code))
        if self._writer is not None and max(levels) < self._writer.lowest[None]:
            learned = _SILENT
        else:
            learned = self._patterns_of(key, levels) or _ODD
        if len(self._patterns) >= _MAX_PATTERNS:
            self._patterns.clear()
        self._patterns[key] = learned
        return learned

    def _patterns_of(self, key: _Key, levels: tuple[int, int]) -> _Patterns | None:
        path, status_code, model_id, status = key
        if self._learner is None:
            return None
        names = {"model_id": model_id, "operation": self._operation, "status": status}
        generation = Record(0.0, levels[0], self._names[0], OPERATION_MESSAGE, names | {"user_id": None}, None)
        told = {"method": self._method, "api_path": path, "status_code": status_code}
        request = Record(0.0, levels[1], self._names[1], REQUEST_MESSAGE, told, None)
        shape = self._learner.generation(generation._replace(kind="model_operation"))
        request_shape = self._learner.request(request._replace(kind="api_request"))
        if shape is None or request_shape is None:
            return None
        return _Patterns(
            shape.files,
            _text_pattern(shape, shape.before, _GENERATION_TEXT),
            _structured_pattern(shape, orjson.dumps(names)[1:-1], _GENERATION_JSON),
            request_shape.files,
            _text_pattern(request_shape, request_shape.fields, b"%.6g\n"),
            _structured_pattern(request_shape, request_shape.structured_fields, b"%b}\n"),
        )

    def _learn_user(self, user_id: str | None) -> tuple[bytes, bytes]:
        if user_id is None:
            learned = (b"None", b"null")
        elif self._learner is not None and self._learner.are_plain((user_id,)):
            learned = (user_id.encode(), orjson.dumps(user_id))
        else:
            return _ODD_USER
        if len(self._users) >= _MAX_USERS:
            self._users.clear()
        self._users[user_id] = learned
        return learned

    def _set_second(self, created: float) -> None:
        second = int(created)
        self._second, self._stamp = float(second), timestamp(second)[:-1].encode()


def _text_pattern(shape: GenerationShape | RequestShape, fields: str, rest: bytes) -> bytes:
    return b"%b.%bZ" + _literal(shape.head.encode()) + b" request_id=%b" + _literal(fields.encode()) + rest


def _structured_pattern(shape: GenerationShape | RequestShape, fields: bytes, rest: bytes) -> bytes:
    head = _literal(shape.structured_head)
    return b'{"timestamp":"%bZ","ms":%b,' + head + b'"request_id":"%b",' + _literal(fields) + rest


def _literal(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def _is_plain(request_id: bytes) -> bool:
    return is_plain_id(_text(request_id))


def _text(request_id: bytes) -> str:
    return request_id.decode("latin-1")
