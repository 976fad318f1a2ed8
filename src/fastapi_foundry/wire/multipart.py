"""``multipart/form-data`` (RFC 7578), read piece by piece: a file of any size passes through without being held.

A pure state machine: bytes in, parts out. Everything is bounded but the content of a part, which whoever reads it bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto
from typing import Final

from fastapi_foundry.errors import InvalidInputError

__all__ = ["Data", "MultipartParser", "PartBegin", "PartEnd", "boundary_of"]

_MOST_PARTS: Final = 32
_MOST_HEAD_BYTES: Final = 8192
_BOUNDARY: Final = re.compile(r"[ -~]{0,69}[!-~]")  # RFC 2046: up to 70 characters, no blank at the end


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part begins; ``filename`` is None for a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """Some of the part's content."""

    content: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


class _State(Enum):
    PREAMBLE = auto()
    BEHIND_BOUNDARY = auto()
    HEAD = auto()
    CONTENT = auto()
    END = auto()


def boundary_of(content_type: str) -> bytes:
    """The boundary that a ``Content-Type`` names.

    Raises:
        InvalidInputError: It is of another type, or names none.
    """
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise InvalidInputError(
            "The request body must be a form with a file, sent with 'Content-Type: multipart/form-data; boundary=...'.",
            code="unsupported_content_type",
        )
    if _BOUNDARY.fullmatch(boundary) is None:
        raise _wrong("its boundary is none")
    return boundary.encode("ascii")


class MultipartParser:
    """Fed with a body as it arrives; holds no more than a boundary's length of it, or the head of a part.

    Args:
        boundary: From ``boundary_of``.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # The first boundary has no line before it.
        self._buffer = bytearray(b"\r\n")
        self._state = _State.PREAMBLE
        self._parts = 0

    def feed(self, data: bytes) -> list[PartBegin | Data | PartEnd]:
        """What ``data`` completes.

        Raises:
            InvalidInputError: It is no such form, or one with too many parts or too long heads.
        """
        self._buffer += data
        found: list[PartBegin | Data | PartEnd] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> None:
        """Nothing follows.

        Raises:
            InvalidInputError: The form has no end.
        """
        if self._state is not _State.END:
            raise _wrong("it ends before its last boundary")

    def _step(self, found: list[PartBegin | Data | PartEnd]) -> bool:
        """Take one step; false when more bytes are needed for the next."""
        if self._state is _State.END:
            self._buffer.clear()
            return False
        if self._state is _State.BEHIND_BOUNDARY:
            return self._behind_boundary()
        if self._state is _State.HEAD:
            return self._head(found)
        at = self._buffer.find(self._delimiter)
        # What may be the beginning of a boundary stays.
        taken = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if taken and self._state is _State.CONTENT:
            found.append(Data(bytes(self._buffer[:taken])))
        del self._buffer[:taken]
        if at < 0:
            return False
        if self._state is _State.CONTENT:
            found.append(PartEnd())
        del self._buffer[: len(self._delimiter)]
        self._state = _State.BEHIND_BOUNDARY
        return True

    def _behind_boundary(self) -> bool:
        if self._buffer.startswith(b"--"):
            self._state = _State.END
            return True
        line = self._buffer.find(b"\r\n")
        if line < 0:
            if len(self._buffer) > len(self._delimiter) + 2:
                raise _wrong("something follows a boundary")
            return False
        if self._buffer[:line].strip(b" \t"):
            raise _wrong("something follows a boundary")
        del self._buffer[:line]  # the line end stays, so that an empty head ends like any other
        self._state = _State.HEAD
        return True

    def _head(self, found: list[PartBegin | Data | PartEnd]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > _MOST_HEAD_BYTES or (end < 0 and len(self._buffer) > _MOST_HEAD_BYTES + 4):
            raise _wrong(f"the head of a part is longer than {_MOST_HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _wrong(f"it has more than {_MOST_PARTS} parts")
        found.append(_part(bytes(self._buffer[2:end])))
        del self._buffer[: end + 4]
        self._state = _State.CONTENT
        return True


def _part(head: bytes) -> PartBegin:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError as error:
        raise _wrong("the head of a part is not UTF-8") from error
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == "content-disposition":
            return _disposition(value.strip())
    raise _wrong("a part has no Content-Disposition")


def _disposition(value: str) -> PartBegin:
    message = Message()
    message["content-disposition"] = value
    name = message.get_param("name", header="content-disposition")
    if message.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise _wrong("a part has no name")
    return PartBegin(name, message.get_filename())


def _wrong(why: str) -> InvalidInputError:
    return InvalidInputError(f"The request body is not a valid form: {why}.", code="multipart_invalid")
