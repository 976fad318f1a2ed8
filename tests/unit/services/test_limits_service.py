from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fastapi_foundry.errors import InvalidInputError, LimitExceededError, TokenBudgetExceededError
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.limit_tickets import Ticket
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.usage import UsageService, Use
from fastapi_foundry.storage.database import open_database
from fastapi_foundry.storage.usage import UsageStore
from tests.support.gateway import gateway_settings

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def usage(tmp_path: Path, clock: Clock) -> AsyncIterator[UsageService]:
    database = await open_database(gateway_settings(tmp_path))
    yield UsageService(UsageStore(database), now=clock)
    await database.aclose()


def service(usage: UsageService, clock: Clock, **server: int) -> LimitsService:
    return LimitsService(KeyLimits(**server), usage, now=clock, clock=clock)


def guest(**limits: int) -> Principal:
    return Principal("key_1", "guest", frozenset({Scope.CHAT}), limits=KeyLimits(**limits))


def message(ticket: Ticket) -> str:
    return "" if ticket.refusal is None else ticket.refusal.message


def levels(ticket: Ticket) -> dict[str, tuple[int, int]]:
    """By kind the limit and what is left of it."""
    shape, left, _ = ticket.levels()
    return {kind: (limit, left[at]) for at, (kind, limit) in enumerate(shape)}


async def test_nothing_applies_where_nothing_is_limited(usage: UsageService, clock: Clock) -> None:
    assert not service(usage, clock).apply_to(LOCAL)
    assert not service(usage, clock).apply_to(guest())
    assert service(usage, clock).apply_to(guest(tokens_per_day=1))
    assert service(usage, clock, concurrent_requests=1).apply_to(LOCAL)


async def test_requests_of_a_minute_come_to_an_end_and_the_refusal_says_when_there_are_more(
    usage: UsageService, clock: Clock
) -> None:
    limits, principal = service(usage, clock), guest(requests_per_minute=2)
    assert levels(await limits.take(principal)) == {"requests": (2, 1)}
    assert (await limits.take(principal)).refusal is None
    clock.now += 20
    refused = await limits.take(principal)
    assert isinstance(refused.refusal, LimitExceededError)
    assert refused.refusal.retry_after_s == 41
    assert message(refused) == (
        "The key 'guest' is limited to 2 requests per minute; there will be room again in 41 s."
    )
    clock.now += 41
    assert (await limits.take(principal)).refusal is None


async def test_each_key_has_its_own_requests_and_all_together_have_the_servers(
    usage: UsageService, clock: Clock
) -> None:
    limits = service(usage, clock, requests_per_minute=3)
    other = Principal("key_2", "other", frozenset({Scope.CHAT}), limits=KeyLimits(requests_per_minute=1))
    assert (await limits.take(other)).refusal is None
    assert "The key 'other'" in message(await limits.take(other))
    assert (await limits.take(guest())).refusal is None
    third = await limits.take(LOCAL)
    assert levels(third) == {"requests": (3, 0)}
    assert "This server is limited to 3 requests per minute" in message(await limits.take(LOCAL))


async def test_what_the_server_refuses_is_not_taken_from_the_key(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock, requests_per_minute=1), guest(requests_per_minute=2)
    await limits.take(LOCAL)
    assert "This server" in message(await limits.take(principal))
    assert limits._gates(principal)[0][0].requests.held(clock.now) == 0


async def test_tokens_of_a_minute_are_counted_after_the_answer(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock), guest(tokens_per_minute=100)
    assert levels(await limits.take(principal)) == {"tokens": (100, 100)}
    limits.spend(principal, 130)
    refused = await limits.take(principal)
    assert "limited to 100 tokens per minute; there will be room again in 61 s" in message(refused)
    clock.now += 61
    assert (await limits.take(principal)).refusal is None


async def test_places_are_given_back_once(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock, concurrent_requests=2), guest(concurrent_requests=1)
    first = await limits.take(principal)
    refused = await limits.take(principal)
    assert message(refused) == "The key 'guest' is limited to 1 request at the same time; one has to end first."
    assert levels(refused)["concurrent-requests"] == (1, 0)
    refused.release()
    assert (await limits.take(principal)).refusal is not None
    second = await limits.take(LOCAL)
    assert "This server is limited to 2 requests at the same time" in message(await limits.take(LOCAL))
    first.release()
    first.release()
    third, fourth = await limits.take(LOCAL), await limits.take(LOCAL)
    assert third.refusal is None
    assert fourth.refusal is not None
    second.release()
    third.release()
    assert [gate.under_way for gate in limits._server] == [0]


async def test_a_refusal_by_a_window_gives_the_place_back(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock), guest(concurrent_requests=1, requests_per_minute=1)
    (await limits.take(principal)).release()
    for _ in range(3):
        assert "per minute" in message(await limits.take(principal))


async def test_a_batch_takes_no_more_places_than_there_are(usage: UsageService, clock: Clock) -> None:
    limits = service(usage, clock, concurrent_requests=3)
    batch, other = await limits.take(guest(concurrent_requests=9)), await limits.take(LOCAL)
    assert batch.add_places(5) == 1
    assert (await limits.take(LOCAL)).refusal is not None
    batch.release()
    assert (await limits.take(LOCAL)).refusal is None
    other.release()


async def test_a_batch_counts_as_many_requests_as_it_has_prompts(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock), guest(requests_per_minute=10)
    ticket = await limits.take(principal)
    await ticket.take_more(4)
    assert levels(ticket) == {"requests": (10, 5)}
    other = await limits.take(principal)
    with pytest.raises(LimitExceededError, match="10 requests per minute"):
        await other.take_more(5)
    await other.take_more(4)
    with pytest.raises(InvalidInputError, match="can never be let in"):
        await ticket.take_more(11)
    clock.now += 61
    third = await limits.take(principal)
    with pytest.raises(InvalidInputError, match="can never be let in"):
        await third.take_more(10)


@pytest.mark.parametrize(
    ("limit", "ends", "reset_s"),
    [("tokens_per_day", "2026-11-22T00:00:00Z", 43_200), ("tokens_per_month", "2026-12-01T00:00:00Z", 820_800)],
)
async def test_a_budget_that_is_used_up_refuses_until_its_end(
    usage: UsageService, clock: Clock, limit: str, ends: str, reset_s: int
) -> None:
    limits, principal = service(usage, clock), guest(**{limit: 100})
    assert (await limits.take(principal)).refusal is None
    usage.record(Use("key_1", "m:1", 60, 40, 1.0, failed=False))
    refused = (await limits.take(principal)).refusal
    assert isinstance(refused, TokenBudgetExceededError)
    assert refused.retry_after_s == reset_s
    word = limit.removeprefix("tokens_per_")
    assert refused.message == (
        f"The key 'guest' is limited to 100 tokens per {word} and they are used up; the {word} ends at {ends}."
    )
    clock.now += reset_s
    assert (await limits.take(principal)).refusal is None


async def test_the_server_has_a_budget_for_everybody(usage: UsageService, clock: Clock) -> None:
    usage.record(Use("key_7", "m:1", 10, 0, 1.0, failed=False))  # before anybody asked
    limits = service(usage, clock, tokens_per_day=50)
    ticket = await limits.take(LOCAL)
    assert levels(ticket) == {"tokens-per-day": (50, 40)}
    usage.record(Use(None, "m:1", 30, 10, 1.0, failed=False))
    assert "This server is limited to 50 tokens per day" in message(await limits.take(guest()))


async def test_streams_see_the_end_of_a_budget_together(usage: UsageService, clock: Clock) -> None:
    limits, principal = service(usage, clock), guest(tokens_per_day=10)
    await limits.take(principal)
    meters = [limits.meter(principal), limits.meter(principal)]
    one, two = (meter for meter in meters if meter is not None)
    one.charge(5)
    two.charge(5)
    assert one.refusal() is None
    two.charge(1)
    refusal = one.refusal()
    assert refusal is not None
    assert "this answer ends here because they are used up" in refusal.message
    one.settle()
    two.settle()
    assert one.refusal() is None
    assert limits.meter(guest(requests_per_minute=3)) is None
