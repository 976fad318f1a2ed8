"""One HTTP response, as its reader and its connection see it."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from fastapi_foundry.engines.http_errors import ConnectionLostError, HttpError, Phase, ProtocolError, Timeouts

__all__ = ["Carrier", "HttpResponse", "KnownHead", "Listener"]

_BODILESS: Final = frozenset({204, 304})
_FIRST_FINAL_STATUS: Final = 200


class KnownHead(NamedTuple):
    """What the bytes of a head mean, of a response that is followed by others on its connection.

    Attributes:
        raw_headers: Shared by all responses with this head; not to be changed.
    """

    status: int
    content_length: int
    raw_headers: list[tuple[bytes, bytes]]


class Carrier(Protocol):
    """What a response needs of the connection that carries it."""

    def abort(self) -> None:
        """Close at once; the response ends with an error."""

    def resume(self) -> None:
        """Read on, if reading was paused."""

    async def wait(self, limit_s: float, phase: Phase) -> None:
        """Wait until something has arrived, the response has ended, or time is up (which ends it)."""

    def expect(self, limit_s: float, phase: Phase) -> None:
        """End the response unless something arrives in that time; for one with a listener."""

    def expect_nothing(self) -> None:
        """Set no limit until ``expect`` is called again."""


class Listener(Protocol):
    """Who is told of a response as it comes, from the event loop's callbacks, and takes what has arrived."""

    def news(self) -> None:
        """Something has arrived, or has happened to the response."""

    def chunk(self, body: bytes, framed: bytes) -> bool:
        """A piece of the body, and the bytes that it was transferred in; false if it is to be kept, as others are."""
        ...


class HttpResponse:
    """A response whose head has arrived: ``read`` it, or iterate it once, or ``close`` it.

    One task may use it. Iteration yields the body's bytes as they arrive and ends at the body's end.
    Both ways raise ``ConnectionLostError``, ``ResponseTimeoutError`` or ``ProtocolError`` when the end never
    comes, after what had arrived has been taken; both close the connection when their task is cancelled.

    One with a listener is not waited for: the listener is called after whatever arrived or happened, and takes it.

    Attributes:
        listener: See above; None for a response that a task reads.
        status: The status code, 200 or above.
        raw_headers: Names (lower case) and values, in order, as they came.
        content_length: The body's announced size in bytes; None where it was not announced.
        received_any: Whether any byte of it has arrived.
        ends_with_connection: Whether the body has no length of its own, so that an early end looks like the end.
        head_complete: Whether the status and the headers are known.
        complete: Whether all of it has arrived.
        failure: Why it has ended too early, if it has.
    """

    __slots__ = (
        "_buffered_bytes",
        "_carrier",
        "_chunked",
        "_head_bytes",
        "_parts",
        "_unknown_coding",
        "complete",
        "content_length",
        "ends_with_connection",
        "failure",
        "head_complete",
        "head_only",
        "idle_s",
        "listener",
        "raw_headers",
        "received_any",
        "status",
        "total_deadline",
        "total_s",
    )

    def __init__(
        self,
        carrier: Carrier,
        timeouts: Timeouts,
        started_at: float,
        *,
        head_only: bool,
        listener: Listener | None = None,
    ) -> None:
        self.listener = listener
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.content_length: int | None = None
        self.received_any = False
        self.ends_with_connection = False
        self.head_only = head_only
        self.total_s = timeouts.total_s
        self.total_deadline = None if timeouts.total_s is None else started_at + timeouts.total_s
        self.idle_s = timeouts.idle_s
        self._carrier: Carrier | None = carrier
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._head_bytes = 0
        self.head_complete = False
        self.complete = False
        self._chunked = False
        self._unknown_coding = False
        self.failure: HttpError | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Names (lower case) and values; the values of a repeated name are joined by commas."""
        merged: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            merged[name] = f"{merged[name]}, {value}" if name in merged else value
        return merged

    def take(self) -> bytes:
        """What has arrived of the body since the last time; never waits. For a listener."""
        parts = self._parts
        if not parts:
            return b""
        if self.complete and len(parts) == 1:
            return parts.pop()
        self._parts = []
        self._buffered_bytes = 0
        if self._carrier is not None:
            self._carrier.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def expect_more(self) -> None:
        """Have the response end with a ``ResponseTimeoutError`` unless more of it arrives in time. For a listener."""
        if self._carrier is not None:
            self._carrier.expect(self.idle_s, "between_bytes")

    def expect_nothing(self) -> None:
        """Set no limit for the time being, since it is not the other side that is waited for. For a listener."""
        if self._carrier is not None:
            self._carrier.expect_nothing()

    def __aiter__(self) -> HttpResponse:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self.failure is not None:
                raise self.failure
            if self.complete:
                raise StopAsyncIteration
            await self._wait(self.idle_s, "between_bytes")
        parts = self._parts
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._buffered_bytes = 0
        if self._carrier is not None:
            self._carrier.resume()
        return taken

    async def read(self, limit: int) -> bytes:
        """Wait for the whole body.

        Args:
            limit: The most bytes it may have; a longer one is a ``ProtocolError`` and closes the connection.
        """
        size = 0
        parts: list[bytes] = []
        if self.content_length is None or self.content_length <= limit:
            async for part in self:
                size += len(part)
                if size > limit:
                    break
                parts.append(part)
            else:
                return parts[0] if len(parts) == 1 else b"".join(parts)
        self.close()
        raise ProtocolError(f"the body is larger than {limit} bytes")

    def close(self) -> None:
        """Give the response up; closes the connection unless the end has arrived."""
        if self._carrier is not None:
            self._carrier.abort()

    async def wait_for_head(self, first_byte_s: float) -> None:
        """Wait until the head is whole; for the client alone."""
        while not self.head_complete:
            if self.failure is not None:
                raise self.failure
            await self._wait(first_byte_s, "first_byte")

    async def _wait(self, limit_s: float, phase: Phase) -> None:
        if self._carrier is None:
            raise ConnectionLostError("the response was closed", received_any=self.received_any)
        await self._carrier.wait(limit_s, phase)

    # What follows is called by the connection.

    def add_header(self, name: bytes, value: bytes) -> None:
        """Note a header; a trailer counts towards the limit and is dropped."""
        self._head_bytes += len(name) + len(value) + 4
        if self.head_complete:
            return
        name = name.lower()
        self.raw_headers.append((name, value))
        if name == b"content-length":
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = True
            self._unknown_coding |= value.strip().lower() != b"chunked"

    def end_head(self, status: int) -> str | None:
        """Note the end of the head; what is wrong with it, if something is."""
        self.status = status
        if status < _FIRST_FINAL_STATUS:
            return None if status // 100 == 1 else f"the status is {status}"
        if self._unknown_coding:
            return "the transfer coding is not known"
        self.head_complete = True
        if self.head_only or status in _BODILESS:
            self.content_length = 0
        self.ends_with_connection = self.content_length is None and not self._chunked
        return None

    @property
    def holds_any(self) -> bool:
        """Whether something has arrived that has not been taken."""
        return bool(self._parts)

    def begin_known(self, head: KnownHead, body: bytes) -> None:
        """Take a response that has arrived as a whole, with a head as one before it had."""
        self.status, self.content_length, self.raw_headers = head
        self.head_complete = self.received_any = True
        self._parts.append(body)

    def restart(self) -> None:
        """Forget an interim response; its size counts on."""
        self.status = 0
        self.raw_headers = []
        self.content_length = None
        self._chunked = self._unknown_coding = False

    def add_part(self, data: bytes) -> int:
        """Keep a part of the body; how many bytes wait now."""
        self._parts.append(data)
        self._buffered_bytes += len(data)
        return self._buffered_bytes

    def is_head_larger_than(self, limit_bytes: int, fed_bytes: int) -> bool:
        """Whether the head passes the limit, counting all that was fed while it is not whole."""
        if self._head_bytes <= limit_bytes and (self.head_complete or fed_bytes <= limit_bytes):
            return False
        self.head_complete = False  # nobody shall see it
        return True

    def end(self, failure: HttpError | None) -> None:
        """Let go of the connection, at the response's end or for ``failure``."""
        self._carrier = None
        self.complete = failure is None
        self.failure = failure

    def end_with_connection(self, reason: BaseException | None) -> None:
        """Note that the connection has ended: the response's end for some, a failure for most."""
        if self.head_complete and self.ends_with_connection and reason is None:
            self.end(None)
            return
        message = f"the connection ended before the response did{f': {reason}' if reason else ''}"
        self.end(ConnectionLostError(message, received_any=self.received_any))
