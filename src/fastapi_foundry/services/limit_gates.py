"""Where one holder of limits, a key or all clients together, is counted in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from fastapi_foundry.errors import InvalidInputError, LimitExceededError
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.services.budgets import Budgets, periods
from fastapi_foundry.services.limit_windows import Window

__all__ = ["KINDS", "Gate", "Notice", "Shape"]

Shape = tuple[tuple[str, int], ...]
"""Which limits there are, by kind (``requests``, ``tokens``, ``tokens-per-day``, ``tokens-per-month``,
``concurrent-requests``), in this order, with the figure of each."""

KINDS: Final = {
    "requests": "requests_per_minute",
    "tokens": "tokens_per_minute",
    "tokens-per-day": "tokens_per_day",
    "tokens-per-month": "tokens_per_month",
    "concurrent-requests": "concurrent_requests",
}
"""The names of limits towards clients, and in the settings."""

_BUDGETS: Final = ("tokens-per-day", "tokens-per-month")
_SOON_S: Final = 1.0
_BOTH: Final = 2


def _or_endless(limit: int | None) -> float:
    return math.inf if limit is None else limit


class Gate:
    """What a holder may use, and what it uses now. Changed by the limits service and its tickets alone.

    Args:
        name: Under which its use is counted.
        words: For people, at the beginning of a sentence.
        limits: What it may use.

    Attributes:
        under_way: Its requests at this moment.
        requests: Those of the last minute.
        tokens: Likewise.
        budgets: Its limits for the tokens of a day and of a month; None where there is neither.
    """

    __slots__ = (
        "_concurrent",
        "_requests",
        "_tokens",
        "budgets",
        "limits",
        "name",
        "requests",
        "tokens",
        "under_way",
        "words",
    )

    def __init__(self, name: str, words: str, limits: KeyLimits) -> None:
        self.name = name
        self.words = words
        self.under_way = 0
        self.requests = Window()
        self.tokens = Window()
        self.renew(limits)

    def renew(self, limits: KeyLimits) -> None:
        """Go on with other limits."""
        self.limits = limits
        self.budgets = (limits.tokens_per_day, limits.tokens_per_month) if limits.budget else None
        self._concurrent = _or_endless(limits.concurrent_requests)
        self._requests = _or_endless(limits.requests_per_minute)
        self._tokens = _or_endless(limits.tokens_per_minute)

    def admits(self, now: float) -> bool:
        """Whether one request more fits into the minute, and into what is under way."""
        requests, tokens = self.requests, self.tokens
        if now >= requests.turns_at or now >= tokens.turns_at:
            requests.turn(now)
            tokens.turn(now)
        return self.under_way < self._concurrent and requests.total < self._requests and tokens.total < self._tokens

    def places(self, wanted: int) -> int:
        """How many of so many further requests may be under way."""
        limit = self.limits.concurrent_requests
        return wanted if limit is None else max(0, min(wanted, limit - self.under_way))

    def refusal(self, requests: int, now: float) -> LimitExceededError | None:
        """Why so many requests more would be too many in this minute; None if they are not."""
        limits = self.limits
        if limits.requests_per_minute is not None:
            most = limits.requests_per_minute - requests
            if self.requests.held(now) > most:
                return self.too_many("requests", limits.requests_per_minute, self.requests.wait_s(most, now))
        if limits.tokens_per_minute is not None and self.tokens.held(now) >= limits.tokens_per_minute:
            wait_s = self.tokens.wait_s(limits.tokens_per_minute - 1, now)
            return self.too_many("tokens", limits.tokens_per_minute, wait_s)
        return None

    def check_batch(self, prompts: int) -> None:
        """Refuse what can never be let in.

        Raises:
            InvalidInputError: It has more prompts than requests are taken in a minute.
        """
        limit = self.limits.requests_per_minute
        if limit is not None and prompts > limit:
            raise InvalidInputError(
                f"{self.words} is limited to {limit} requests per minute; a batch of {prompts} prompts can never be let in.",
                param="prompts",
            )

    def too_many(self, kind: str, limit: int, wait_s: float) -> LimitExceededError:
        """That a minute's requests or tokens are used up."""
        again = f"there will be room again in {max(1, round(wait_s))} s"
        return LimitExceededError(
            f"{self.words} is limited to {limit} {kind} per minute; {again}.", retry_after_s=wait_s
        )

    def no_place(self) -> LimitExceededError:
        """That as many requests are under way as may be."""
        limit = self.limits.concurrent_requests
        many = "request" if limit == 1 else "requests"
        message = f"{self.words} is limited to {limit} {many} at the same time; one has to end first."
        return LimitExceededError(message, retry_after_s=_SOON_S)


class Notice:
    """What is said about limits in every answer: of each kind the key's own, or the server's where it has none.

    What others use shows as little as possible in this way. It is made once for each key, since it is used often.

    Args:
        gates: The key's, if it has limits, and the server's, if that has.

    Attributes:
        shape: What there is.
        of: Whose each is.
    """

    __slots__ = ("_budgets", "_concurrent", "_windows", "of", "shape")

    def __init__(self, gates: Sequence[Gate]) -> None:
        found: dict[str, tuple[int, Gate]] = {}
        for kind in KINDS:
            for gate in gates:
                limit = getattr(gate.limits, KINDS[kind])
                if limit is not None:
                    found.setdefault(kind, (limit, gate))
        self.shape: Shape = tuple((kind, limit) for kind, (limit, _) in found.items())
        self.of = {kind: gate for kind, (_, gate) in found.items()}
        self._windows = [
            (kind, limit, gate.requests if kind == "requests" else gate.tokens)
            for kind, (limit, gate) in found.items()
            if kind in {"requests", "tokens"}
        ]
        self._budgets = [(at, *found[kind]) for at, kind in enumerate(_BUDGETS) if kind in found]
        self._concurrent = found.get("concurrent-requests")

    def left(self, clock: float, now: float, budgets: Budgets) -> list[int]:
        """What is left of each of ``shape``; the arguments are those of ``resets``."""
        left: list[int] = []
        for _, limit, window in self._windows:
            if clock >= window.turns_at:
                window.turn(clock)
            left.append(limit - window.total)
        if self._budgets:
            whose, spent = None, (0, 0)
            for at, limit, gate in self._budgets:
                if gate is not whose:
                    whose, spent = gate, budgets.spent(gate.name, now)
                left.append(limit - spent[at])
        if self._concurrent is not None:
            limit, gate = self._concurrent
            left.append(limit - gate.under_way)
        if left and min(left) < 0:
            left = [max(0, each) for each in left]
        return left

    def resets(self, clock: float, now: float) -> list[int]:
        """In how many seconds all of each of ``shape`` is free again, but for the last kind, of which nobody knows.

        Args:
            clock: The time of the windows.
            now: Seconds since 1970.
        """
        resets = [window.room(limit, clock)[1] for _, limit, window in self._windows]
        if self._budgets:
            both = periods(now)
            resets += [int(both[at].ends - now) for at, _, _ in self._budgets]
        return resets

    def moment(self, clock: float, now: float) -> tuple[float, ...]:
        """What ``resets`` depends on: as long as this is the same, so are they."""
        if len(self._windows) == _BOTH:
            (_, _, requests), (_, _, tokens) = self._windows
            return (requests.turns_at, now // 1, requests.current > 0, tokens.current > 0)
        return (clock // 1, now // 1, *[window.current > 0 for _, _, window in self._windows])
