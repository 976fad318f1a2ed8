"""An engine's stream on its way to the client: whole frames, the usage read in passing, failures seen."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import ReplyStream
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.services.limit_tickets import Meter
from fastapi_foundry.wire.sse import SSEDecoder, WholeFrames

__all__ = ["FrameReader", "Relay"]

# These cannot occur inside a JSON string, where every quotation mark carries a backslash.
_USAGE: Final = (b'"usage":{', b'"usage": {')
_NO_TEXT: Final = (b'"finish_reason":"', b'"finish_reason": "', b"data: [DONE]", b'"choices":[]', b'"choices": []')
_ERROR_FRAME: Final = re.compile(rb'(?:^|[\r\n])data: ?\{\s*"error"\s*:')
_DONE: Final = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")
_FRAME_END: Final = re.compile(rb"(\r\n\r\n|\n\n|\r\r)")


class FrameReader:
    """What goes through: whole frames, counted, the usage read in passing; nothing of interest passes unparsed.

    Args:
        hide_usage: Keep the usage frame from the client, which did not ask for it.
        meter: Watches over budgets; a stream that passes one ends after the frame that did.

    Attributes:
        content_frames: Frames with text that have been passed on.
        usage: The engine's usage, once it has come by.
        error_passed: Whether one of the frames was the engine's own error.
    """

    __slots__ = ("_hide_usage", "_meter", "_splitter", "content_frames", "error_passed", "usage")

    def __init__(self, *, hide_usage: bool, meter: Meter | None = None) -> None:
        self._hide_usage = hide_usage
        self._meter = meter
        self._splitter = WholeFrames()
        self.error_passed = False
        self.usage: dict[str, Any] = {}
        self.content_frames = 0

    def split(self, chunk: bytes) -> bytes:
        """The frames that ``chunk`` completes."""
        return self._splitter.feed(chunk)

    def pass_on(self, frames: bytes) -> bytes:
        """Whole frames as the client gets them.

        Raises:
            TokenBudgetExceededError: When a budget has been passed.
        """
        self._count(frames)
        if b'"error"' in frames and _ERROR_FRAME.search(frames):
            self.error_passed = True
        if b'"usage"' in frames and any(mark in frames for mark in _USAGE):
            pieces = _FRAME_END.split(frames)
            whole = [text + end for text, end in zip(pieces[::2], [*pieces[1::2], b""], strict=True)]
            return b"".join(frame for frame in whole if not self._read_usage(frame))
        return frames

    def passes(self, chunk: bytes) -> bool:
        """Whether ``chunk`` is nothing but whole frames that the client gets as they are; only then has it been counted.

        Raises:
            TokenBudgetExceededError: When a budget has been passed.
        """
        if (
            not chunk.endswith(b"\n\n")
            or self._splitter.holds_any
            or b'"error"' in chunk
            or (b'"usage"' in chunk and any(mark in chunk for mark in _USAGE))
        ):
            return False
        self._count(chunk)
        return True

    def end(self) -> None:
        """The engine's stream has ended.

        Raises:
            EngineFailedError: It did in the middle of a frame.
        """
        if self._splitter.flush().strip():
            raise EngineFailedError("The engine's stream ended in the middle of a frame.")

    def _count(self, frames: bytes) -> None:
        count = _frames_in(frames)
        if not self.content_frames and b'"content":""' in frames:
            count -= 1  # the first one says who speaks, and nothing yet
        if frames.endswith(_DONE):
            count -= 1
        meter = self._meter
        # Where only the end is left to be said, it may be.
        if meter is not None and meter.charge(count) and count > sum(frames.count(mark) for mark in _NO_TEXT):
            refusal = meter.refusal()
            meter.charge(-count)
            if refusal is not None:
                raise refusal
        self.content_frames += count

    def _read_usage(self, frame: bytes) -> bool:
        """Note the usage that ``frame`` holds; whether the frame is to be kept from the client."""
        if not any(mark in frame for mark in _USAGE):
            return False
        for event in SSEDecoder().feed(frame):
            try:
                data = orjson.loads(event.data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(data, dict) and isinstance(data.get("usage"), dict):
                self.usage = data["usage"]
                return self._hide_usage and not data.get("choices")
        return False


class Relay:
    """Reads one ``ReplyStream`` through a ``FrameReader``.

    Args:
        reply: The engine's running answer.
        hide_usage: See ``FrameReader``.
        meter: Likewise.

    Attributes:
        ended_well: Whether the engine's normal end has been reached without an error frame.
    """

    def __init__(self, reply: ReplyStream, *, hide_usage: bool, meter: Meter | None = None) -> None:
        self._reply = aiter(reply)
        self._reader = FrameReader(hide_usage=hide_usage, meter=meter)
        self._first = b""
        self.ended_well = False

    @property
    def usage(self) -> dict[str, Any]:
        """The engine's usage, once it has come by."""
        return self._reader.usage

    @property
    def content_frames(self) -> int:
        """Frames with text that have been passed on."""
        return self._reader.content_frames

    async def begin(self) -> None:
        """Take the first frames, which have arrived already."""
        async for chunk in self._reply:
            self._first = self._reader.split(chunk)
            if self._first:
                break

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Whole frames in order; ends after the engine's normal end.

        Raises:
            EngineFailedError: When the engine breaks off.
            EngineTimeoutError: When it falls silent.
            TokenBudgetExceededError: When a budget has been passed.
        """
        reader = self._reader
        if first := reader.pass_on(self._first):
            yield first
        async for chunk in self._reply:
            whole = reader.split(chunk)
            if whole and (passed := reader.pass_on(whole)):
                yield passed
        reader.end()
        self.ended_well = not reader.error_passed


def _frames_in(frames: bytes) -> int:
    return frames.count(b"\n\n") or frames.count(b"\r\n\r\n") or frames.count(b"\r\r")
