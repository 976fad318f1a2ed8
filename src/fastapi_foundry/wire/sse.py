"""Server-sent events as bytes: encode, decode at any split, cut at frame ends.

Follows the WHATWG HTML standard, section "Server-sent events": lines end in LF, CR LF or CR, a blank
line dispatches, ``data`` lines are joined with LF, lines that start with a colon are comments.
Everything here is pure; nothing reads or waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

__all__ = ["DONE", "Event", "SSEDecoder", "WholeFrames", "comment", "encode_json", "first_frame_end"]

DONE: Final = b"data: [DONE]\n\n"
"""The frame that ends a stream of OpenAI's API, after a normal end alone."""

_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event; ``data`` is the joined payload, still bytes so that it can be parsed as JSON."""

    data: bytes
    event: str = "message"
    id: str | None = None


def encode_json(value: Any, *, event: str | None = None) -> bytes:
    """One frame with ``value`` as JSON; an ``event:`` line first when a name is given."""
    frame = b"data: " + orjson.dumps(value) + b"\n\n"
    return frame if event is None else b"event: " + event.encode() + b"\n" + frame


def comment(text: str) -> bytes:
    """A comment, which clients ignore and which keeps proxies from giving up."""
    return b": " + text.replace("\r", " ").replace("\n", " ").encode() + b"\n\n"


class SSEDecoder:
    """Turns a byte stream, cut anywhere, into events.

    Args:
        max_event_bytes: Upper bound on one event that has not ended yet, in bytes.
    """

    def __init__(self, *, max_event_bytes: int = _MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._at_start = True
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = ""
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that they complete, in order.

        Raises:
            ValueError: When one event grows past ``max_event_bytes``.
        """
        buffer = self._rest + chunk
        if self._at_start:
            if _BOM.startswith(buffer[:3]) and len(buffer) < len(_BOM):
                self._rest = buffer
                return []
            self._at_start = False
            buffer = buffer.removeprefix(_BOM)
        # A CR at the very end may be half of a CR LF; it waits for its other half.
        held = b"\r" if buffer.endswith(b"\r") else b""
        lines = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        events = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._rest) + self._data_bytes > self._max_event_bytes:
            raise ValueError(f"an event is larger than {self._max_event_bytes} bytes")
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Event | None:
        event = Event(b"\n".join(self._data), self._event or "message", self._id) if self._data else None
        self._data, self._data_bytes, self._event = [], 0, ""
        return event


class WholeFrames:
    """Lets only whole frames through, so that an error frame can follow at any time.

    What has arrived of a frame is of no use to a client before its blank line; holding it back delays nothing.
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def holds_any(self) -> bool:
        """Whether the beginning of a frame waits for its end."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes and return every frame that is whole now, as one run of bytes, unchanged."""
        if not self._rest and chunk.endswith(b"\n\n"):
            return chunk
        buffer = self._rest + chunk
        end = max(_end_of(buffer, b"\n\n"), _end_of(buffer, b"\r\n\r\n"), _end_of(buffer, b"\r\r"))
        if len(buffer) - end > _MAX_EVENT_BYTES:
            end = len(buffer)
        self._rest = buffer[end:]
        return buffer[:end]

    def flush(self) -> bytes:
        """What is left after the last whole frame; empty after an engine's proper end."""
        rest, self._rest = self._rest, b""
        return rest


def first_frame_end(buffer: bytes) -> int:
    """Where the first whole frame of ``buffer`` ends, its blank line included; -1 while it is not whole."""
    ends = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if (at := buffer.find(mark)) >= 0]
    return min(ends, default=-1)


def _end_of(buffer: bytes, mark: bytes) -> int:
    at = buffer.rfind(mark)
    return 0 if at < 0 else at + len(mark)
