"""What may go wrong with an HTTP request, and what it may cost.

Each error has one meaning for the caller::

    HttpError
    ├── ConnectFailedError     no connection, so nothing was sent
    ├── ConnectionLostError    it ended before the response did
    ├── ResponseTimeoutError   it is there and silent
    └── ProtocolError          what arrived is no response, or too large
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ConnectFailedError",
    "ConnectionLostError",
    "HttpError",
    "Limits",
    "Phase",
    "ProtocolError",
    "ResponseTimeoutError",
    "Timeouts",
]

Phase = Literal["first_byte", "between_bytes", "total"]


class HttpError(Exception):
    """The root of what a request may raise."""


class ConnectFailedError(HttpError):
    """No connection came about, so nothing was sent.

    Attributes:
        refused: Nobody listens there; False for a time-out, an unknown host and all else.
    """

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


class ConnectionLostError(HttpError):
    """The connection ended before the response did.

    Attributes:
        received_any: Whether a byte of the response had arrived; False leaves open whether the server saw
            the request.
    """

    def __init__(self, message: str, *, received_any: bool) -> None:
        super().__init__(message)
        self.received_any = received_any


class ResponseTimeoutError(HttpError):
    """Nothing arrived in time.

    Attributes:
        phase: ``first_byte`` (until the head was whole), ``between_bytes`` or ``total``.
        limit_s: The limit that has passed, in seconds.
    """

    def __init__(self, phase: Phase, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:g} s ({phase})")
        self.phase: Phase = phase
        self.limit_s = limit_s


class ProtocolError(HttpError):
    """What arrived is no HTTP response, or larger than allowed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one response may cost, in bytes.

    Attributes:
        max_head_bytes: Status line, headers and trailers together, interim responses included.
        max_buffered_bytes: Body that may wait to be taken before the socket is no longer read.
    """

    max_head_bytes: int = 64 * 1024
    max_buffered_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        connect_s: For a connection.
        first_byte_s: From the request's end to the whole head of the response.
        idle_s: Between two parts of the body; runs only while somebody waits for one.
        total_s: For everything together; None for no such limit.
    """

    connect_s: float = 2.0
    first_byte_s: float = 30.0
    idle_s: float = 30.0
    total_s: float | None = None
