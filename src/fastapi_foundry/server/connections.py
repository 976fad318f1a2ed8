"""Every open connection of the server: how many there may be, and the one timer that looks after all of them.

A timer for each request would cost more than everything else here; so a connection only notes what happens on
it, and a sweep, once a second, finds those that have been waited for long enough.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections import Counter
from typing import Final, Protocol

from fastapi_foundry.errors import OverloadedError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings import HttpLimitsSettings

__all__ = ["Connection", "Connections", "Seat"]

logger = get_logger(__name__)

_LONGEST_TICK_S: Final = 1.0
_SHORTEST_TICK_S: Final = 0.02
_PER_CLIENT_SHARE: Final = 4  # one address gets a quarter of all connections
_MOST_REFUSED: Final = 64  # connections beyond the bound that are told so; further ones are dropped without a word
_NETWORK_BYTES: Final = 8  # of an IPv6 address: one customer gets a /64 at the least
_RETRY_AFTER_S: Final = 1.0
# 200 slow clients that began together run out of time together. To end them all at once was measured to hold up
# everybody else for 65 ms; so it is done by and by, 250 in a second.
_ENDED_AT_ONCE: Final = 2
_PAUSE_S: Final = 0.008
_CLOSED_AT_ONCE: Final = 256  # idle ones, which cost little


class Connection(Protocol):
    """What the sweep asks of a connection."""

    def check(self, now: float) -> bool:
        """End what has lasted too long, and say whether that was so; ``now`` is the loop's time in seconds."""

    def close_idle(self) -> None:
        """Close, since no request is on the connection."""


class Seat:
    """A place among the open connections, from the moment that one is accepted until ``release``.

    Attributes:
        refusal: What the first request on it is answered with, because there is no room; None where there is.
    """

    __slots__ = ("_connections", "client", "refusal")

    def __init__(self, connections: Connections, client: str, refusal: OverloadedError | None) -> None:
        self._connections: Connections | None = connections
        self.client = client
        self.refusal = refusal

    def release(self) -> None:
        """Give the place back; a second time does nothing."""
        if self._connections is not None:
            self._connections.leave(self)
            self._connections = None


class Connections:
    """The one owner of what is open. Used on the event loop alone.

    Args:
        limits: The bounds.
    """

    def __init__(self, limits: HttpLimitsSettings) -> None:
        self.limits = limits
        own = limits.max_connections_per_client
        self._per_client = own or max(1, limits.max_connections // _PER_CLIENT_SHARE)
        self._bounds_this_machine = own is not None
        self._seats: Counter[str] = Counter()
        self._taken = 0
        self._refused = 0
        self._busy: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # in the order in which they fell idle
        self._news: Counter[str] = Counter()
        self._last_client: dict[str, str] = {}
        self._due: list[Connection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next_due: asyncio.TimerHandle | None = None
        shortest = min(
            limits.head_timeout_s,
            limits.body_idle_timeout_s,
            limits.body_pace_window_s,
            limits.write_timeout_s,
            limits.keep_alive_s,
        )
        self._tick_s = max(_SHORTEST_TICK_S, min(_LONGEST_TICK_S, shortest / 4))

    @property
    def taken(self) -> int:
        """Open connections, those included that are only open to be refused."""
        return self._taken + self._refused

    def start(self) -> None:
        """Begin to look after the connections; needs the running loop."""
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._sweep)

    def stop(self) -> None:
        """Look after nothing any more."""
        for timer in (self._timer, self._next_due):
            if timer is not None:
                timer.cancel()
        self._report()

    def take(self, address: str) -> Seat | None:
        """A place for a connection from ``address``; None when it has to be dropped without a word."""
        client, is_this_machine = _client(address)
        bounded = self._bounds_this_machine or not is_this_machine
        refusal: OverloadedError | None = None
        if bounded and self._seats[client] >= self._per_client:
            refusal = OverloadedError("Your address has too many open connections.", retry_after_s=_RETRY_AFTER_S)
        elif self._taken >= self.limits.max_connections and not self._make_room():
            refusal = OverloadedError("The server has too many open connections.", retry_after_s=_RETRY_AFTER_S)
        if refusal is None:
            self._taken += 1
            self._seats[client] += 1
        elif self._refused >= _MOST_REFUSED:
            self.tell("connection_dropped", address)
            return None
        else:
            self._refused += 1
        return Seat(self, client, refusal)

    def leave(self, seat: Seat) -> None:
        """Take a seat back; ``Seat.release`` calls this."""
        if seat.refusal is not None:
            self._refused -= 1
            return
        self._taken -= 1
        self._seats[seat.client] -= 1
        if not self._seats[seat.client]:
            del self._seats[seat.client]

    def work(self, connection: Connection) -> None:
        """Something is on ``connection`` from now on; it is checked in every sweep."""
        self._idle.pop(connection, None)
        self._busy.add(connection)

    def rest(self, connection: Connection, now: float) -> None:
        """``connection`` waits for its next request from now on."""
        self._busy.discard(connection)
        self._idle[connection] = now

    def forget(self, connection: Connection) -> None:
        """``connection`` is no more."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def tell(self, what: str, address: str) -> None:
        """Count an incident; the log gets one line for all of a kind in a sweep, however many there are."""
        self._news[what] += 1
        self._last_client[what] = address

    def _make_room(self) -> bool:
        for connection in self._idle:
            self._close_idle(connection)
            return True
        return False

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._tick_s, self._sweep)
        expired = loop.time() - self.limits.keep_alive_s
        for connection, since in list(itertools.islice(self._idle.items(), _CLOSED_AT_ONCE)):
            if since > expired:
                break
            self._close_idle(connection)
        # Whatever is left from the last time is among them.
        self._due = list(self._busy)
        self._check_some()
        self._report()

    def _check_some(self) -> None:
        if self._next_due is not None:
            self._next_due.cancel()
            self._next_due = None
        loop = asyncio.get_running_loop()
        now, ended = loop.time(), 0
        while self._due:
            connection = self._due.pop()
            ended += connection in self._busy and connection.check(now)
            if ended >= _ENDED_AT_ONCE:
                self._next_due = loop.call_later(_PAUSE_S, self._check_some)
                return

    def _close_idle(self, connection: Connection) -> None:
        # It stays under watch: what is left of its last answer may not be taken by the client.
        self.work(connection)
        connection.close_idle()

    def _report(self) -> None:
        for what, count in self._news.items():
            logger.warning(
                "connections ended",
                reason=what,
                count=count,
                client=self._last_client[what],
                open_connections=self.taken,
            )
        self._news.clear()


def _client(address: str) -> tuple[str, bool]:
    """Who counts as one client, and whether that is this machine."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # no address: a Unix socket
        return address, True
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped), ip.ipv4_mapped.is_loopback
        return ip.packed[:_NETWORK_BYTES].hex(), ip.is_loopback
    return address, ip.is_loopback
