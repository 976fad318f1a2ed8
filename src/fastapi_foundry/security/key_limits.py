"""How much somebody may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

__all__ = ["UNLIMITED", "KeyLimits"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key, or the whole server, may use; None means no limit.

    Attributes:
        requests_per_minute: Requests that are taken within any 60 seconds.
        tokens_per_minute: Prompt and completion tokens within 60 seconds, after which no new request is taken.
        concurrent_requests: Requests under way at the same time.
        tokens_per_day: Tokens from midnight to midnight, UTC.
        tokens_per_month: Tokens of a calendar month, UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is any limit at all."""
        return self != UNLIMITED

    @property
    def budget(self) -> bool:
        """Whether the tokens of a day or a month are limited."""
        return self.tokens_per_day is not None or self.tokens_per_month is not None

    def to_dict(self) -> dict[str, int]:
        """The limits that there are."""
        pairs = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in pairs if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Self:
        """From ``to_dict``'s form; what is not known here (a newer program wrote it) is left out."""
        known = {name: value for name, value in (values or {}).items() if name in cls.__slots__}
        return cls(**known)


UNLIMITED: Final = KeyLimits()
