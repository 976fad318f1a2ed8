"""The language between the service and a runner: one JSON object per line, both ways.

To the runner, on its stdin::

    {"op": "init", ...}                             first line; what to load (``ModelSpec``), which role to play, and
                                                    what may stay open between turns (``keep``: ``KeepLimits``)
    {"op": "chat" | "embeddings" | "count", "id": 7, "body": {...}}
    {"op": "list"} and {"op": "download", "id": 7, "body": {"model": ...}}   for the catalogue's worker
    {"op": "cancel", "id": 7}                       no answer of its own; request 7 ends with code "cancelled"
    {"op": "shutdown"}                              the runner leaves at once, as it does at the end of its stdin

From the runner::

    {"event": "ready", ...} or {"event": "failed", "message": ...}            once, after init
    {"event": "begun", "id": 7}                     a thread took request 7 up; before that, nothing was done of it
    {"event": "chunk", "id": 7, "data": {...}}      an OpenAI chunk (or download progress), as the engine made it
    {"event": "done", "id": 7, "data": {...}, "tokens": 12, "usage": {...}}
    {"event": "error", "id": 7, "code": ..., "message": ..., "param": ..., "tokens": 3}
        of a cancelled request: with ``after_cancel``, the tokens that still came after the cancel

A request ends with exactly one ``done`` or ``error``. ``chunk`` lines have a fixed key order, so that the
service forwards their data without parsing it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

__all__ = ["MAX_LINE_BYTES", "begun_line", "chunk_line", "encode", "split_chunk"]

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Longest line that either side accepts; a longer one means that the other side is out of its mind."""

_CHUNK_HEAD: Final = b'{"event":"chunk","id":'
_CHUNK_DATA: Final = b',"data":'


def encode(message: dict[str, Any]) -> bytes:
    """One frame, newline included."""
    return orjson.dumps(message) + b"\n"


def begun_line(request_id: int) -> bytes:
    """The frame that says that a request was taken up."""
    return b'{"event":"begun","id":%d}\n' % request_id


def chunk_line(request_id: int, data: bytes) -> bytes:
    """The frame for one chunk whose JSON is at hand already; ``data`` must hold no newline."""
    return b"%b%d%b%b}\n" % (_CHUNK_HEAD, request_id, _CHUNK_DATA, data)


def split_chunk(line: bytes) -> tuple[int, bytes] | None:
    """Request id and data of a chunk line (without its newline); None for every other line."""
    if not line.startswith(_CHUNK_HEAD):
        return None
    end = line.index(_CHUNK_DATA)
    return int(line[len(_CHUNK_HEAD) : end]), line[end + len(_CHUNK_DATA) : -1]
