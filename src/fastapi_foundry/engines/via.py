"""Which gateways a request has passed: the ``Via`` header (RFC 9110, section 7.6.3), so that none goes in a circle.

Each gateway process has a pseudonym. It adds it to what it sends to an engine by URL, and refuses what carries it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from fastapi_foundry.errors import EngineLoopError

__all__ = ["MOST_GATEWAYS", "Via", "gateways_in", "gateways_passed"]

MOST_GATEWAYS: Final = 8
"""So many gateways in a row may have part in one request."""

_MOST_CHARS: Final = 1024
_GATEWAY: Final = re.compile(r"(?:^|,)\s*(?:HTTP/)?\d(?:\.\d)?\s+(foundry-[0-9a-f]{16})(?=[\s,]|$)")


@dataclass(frozen=True, slots=True)
class _Received:
    """What the request that is being served came with.

    Attributes:
        header: What is sent on.
        gateways: Their pseudonyms, in the order in which they were passed.
    """

    header: str = ""
    gateways: tuple[str, ...] = ()


_NOTHING: Final = _Received()
_received: Final[ContextVar[_Received]] = ContextVar("fastapi_foundry_via", default=_NOTHING)


def gateways_in(header: str) -> tuple[str, ...]:
    """The pseudonyms of gateways in a ``Via`` header, in order; whatever else it names is left out."""
    return tuple(_GATEWAY.findall(header))


def gateways_passed() -> tuple[str, ...]:
    """The gateways that the request that is being served has passed before this one; none when a client sent it."""
    return _received.get().gateways


@dataclass(frozen=True, slots=True)
class Via:
    """One gateway's part in the header; made once for each process.

    Attributes:
        pseudonym: Random, since a host's name is nobody's business.
    """

    pseudonym: str = field(default_factory=lambda: f"foundry-{secrets.token_hex(8)}")

    @property
    def own(self) -> str:
        """The header of what this gateway asks or answers of its own accord."""
        return f"1.1 {self.pseudonym}"

    @property
    def header(self) -> str:
        """The header of what is sent on behalf of the request that is being served."""
        received = _received.get().header
        return f"{received}, {self.own}" if received else self.own

    @contextmanager
    def serving(self, received: str) -> Iterator[None]:
        """The time in which a request with that header is served.

        Raises:
            EngineLoopError: It has been here before, or has passed as many gateways as may be.
        """
        gateways = gateways_in(received)
        if self.pseudonym in gateways:
            raise EngineLoopError("The request came back to a gateway that it had passed before.", gateways=gateways)
        if len(gateways) >= MOST_GATEWAYS:
            raise EngineLoopError(f"The request passed more than {MOST_GATEWAYS} gateways.", gateways=gateways)
        plain = received.isascii() and received.isprintable() and len(received) <= _MOST_CHARS
        header = received.strip() if plain else ", ".join(f"1.1 {gateway}" for gateway in gateways)
        token = _received.set(_Received(header, gateways))
        try:
            yield
        finally:
            _received.reset(token)
