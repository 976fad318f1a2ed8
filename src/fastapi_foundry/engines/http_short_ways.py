"""What of a response need not be parsed: a head that has been read before, and a chunk that comes alone.

Both are told by their very bytes; whatever differs in one of them is the parser's.
"""

from __future__ import annotations

from typing import Final

from fastapi_foundry.engines.http_response import HttpResponse, KnownHead

__all__ = ["KnownHeads", "only_chunk"]

_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_HEADS: Final = 1024
_LONGEST_SIZE: Final = 9  # of a chunk's size in hexadecimal digits, and the line's end


class KnownHeads:
    """Heads of whole responses that the parser has read, so that it need not read the very same bytes again.

    An engine's answers have few heads: those of one second and one length are the same. Belongs to one event loop.
    """

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead | None, int]:
        """What ``data`` begins with, if all of that response is in it and nothing behind it; and where its body begins."""
        end = data.find(_END_OF_HEAD)
        head = self._heads.get(data[:end])
        body = end + len(_END_OF_HEAD)
        return (head if head is not None and len(data) - body == head.content_length else None), body

    def learn(self, data: bytes, response: HttpResponse) -> None:
        """Remember the head of ``response``, which came as ``data``, unless something about it is particular."""
        end, length = data.find(_END_OF_HEAD), response.content_length
        if not length or response.head_only or len(data) - end - len(_END_OF_HEAD) != length:
            return
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        self._heads[data[:end]] = KnownHead(response.status, length, response.raw_headers)


def only_chunk(data: bytes) -> bytes | None:
    """The body of the one chunk that ``data`` is, written as everybody writes them; None where it is anything else."""
    end = data.find(b"\r\n", 1, _LONGEST_SIZE)
    size = len(data) - end - 4
    if size <= 0 or end < 0 or not data.startswith(b"%x\r\n" % size) or not data.endswith(b"\r\n"):
        return None
    return data[end + 2 : -2]
