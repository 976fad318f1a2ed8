"""Windows that several processes share, in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastapi_foundry.errors import LimitExceededError
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.principal import LOCAL
from fastapi_foundry.services.limit_gates import Gate
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.shared_windows import SharedWindows
from fastapi_foundry.services.usage import UsageService
from fastapi_foundry.storage.database import open_database
from fastapi_foundry.storage.usage import UsageStore
from tests.support.gateway import gateway_settings
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.redis

MINUTE = 1_763_700_000.0  # the beginning of one


class Clock:
    def __init__(self) -> None:
        self.now = MINUTE

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def windows(redis: RedisServer, clock: Clock | None = None) -> AsyncIterator[SharedWindows]:
    shared = SharedWindows(redis.url, now=clock or Clock())
    await shared.start()
    yield shared
    await shared.aclose()


def gate(name: str, **limits: int) -> Gate:
    return Gate(name, f"The key '{name}'", KeyLimits(**limits))


async def refusal(shared: SharedWindows, *gates: Gate, requests: int = 1) -> LimitExceededError | None:
    return (await shared.take(gates, requests))[0]


async def left(shared: SharedWindows, gate: Gate) -> int:
    """What is left after one request more that is let in."""
    refused, ((_, _, remaining, _),) = await shared.take([gate], 1)
    assert refused is None
    return remaining


async def test_two_processes_let_in_as_many_together_as_one_would(redis: RedisServer) -> None:
    key = gate("together", requests_per_minute=10)
    async with windows(redis) as one, windows(redis) as two:
        refused = await asyncio.gather(*(refusal(each, key) for each in (one, two) * 20))
        let_in = refused.count(None)
        assert 1 <= let_in <= 10  # those at the same moment may refuse each other
        while await refusal(one, key) is None:
            let_in += 1
        assert let_in == 10
        assert await refusal(two, key) is not None


async def test_what_is_asked_one_after_the_other_is_counted_exactly(redis: RedisServer) -> None:
    key = gate("in turn", requests_per_minute=5)
    async with windows(redis) as one, windows(redis) as two:
        got = [await refusal(each, key) is None for each in (one, two) * 4]
        assert got == [True] * 5 + [False] * 3
        assert await refusal(one, gate("in turn", requests_per_minute=7), requests=2) is None
        refused = await refusal(two, gate("in turn", requests_per_minute=7))
        assert refused is not None
        assert "The key 'in turn' is limited to 7 requests per minute" in refused.message


async def test_nothing_is_taken_when_one_of_several_windows_is_full(redis: RedisServer) -> None:
    empty, full = gate("empty", requests_per_minute=10), gate("full", requests_per_minute=1)
    async with windows(redis) as one:
        assert await refusal(one, full) is None
        assert await refusal(one, empty, full, requests=3) is not None
        assert await left(one, empty) == 9


async def test_tokens_that_one_process_counts_are_seen_by_the_other(redis: RedisServer) -> None:
    key = gate("tokens", tokens_per_minute=100)
    async with windows(redis) as one, windows(redis) as two:
        one.add("tokens:tokens", 70)
        assert await left(one, key) == 30  # its own at once

        async def seen() -> bool:
            return await left(two, key) == 30

        await eventually(seen)
        two.add("tokens:tokens", 70)
        refused = await refusal(two, key)
        assert refused is not None
        assert "100 tokens per minute" in refused.message


async def test_the_minute_before_counts_by_the_part_of_it_that_is_not_over(redis: RedisServer) -> None:
    clock, key = Clock(), gate("sliding", requests_per_minute=10)
    async with windows(redis, clock) as one:
        assert await refusal(one, key, requests=10) is None
        clock.now = MINUTE + 60
        refused = await refusal(one, key)
        assert refused is not None
        clock.now += refused.retry_after_s - 0.5
        assert await refusal(one, key) is not None
        clock.now += 0.6
        assert await refusal(one, key) is None
        clock.now = MINUTE + 180
        assert await left(one, key) == 9


@asynccontextmanager
async def service(redis: RedisServer, home: Path, **limits: int) -> AsyncIterator[tuple[LimitsService, SharedWindows]]:
    database = await open_database(gateway_settings(home))
    shared = SharedWindows(redis.url)
    limited = LimitsService(KeyLimits(**limits), UsageService(UsageStore(database)), shared)
    await limited.start()
    yield limited, shared
    await limited.aclose()
    await database.aclose()


async def remaining(limits: LimitsService) -> int:
    ticket = await limits.take(LOCAL)
    assert ticket.refusal is None
    return ticket.levels()[1][0]


async def test_without_redis_each_process_goes_by_what_it_let_in_itself_until_redis_is_back(tmp_path: Path) -> None:
    limit = {"requests_per_minute": 50}
    with redis_server() as redis:
        async with (
            service(redis, tmp_path / "one", **limit) as (one, shared_one),
            service(redis, tmp_path / "two", **limit) as (two, shared_two),
        ):
            assert [await remaining(each) for each in (one, one, one, two)] == [49, 48, 47, 46]
            redis.kill()
            began = time.monotonic()
            assert await remaining(one) == 46  # its own three, and this one
            assert await remaining(two) == 48
            assert time.monotonic() - began < 0.5
            redis.start()
            await eventually(lambda: shared_one.in_use and shared_two.in_use)
            assert await remaining(one) == 45  # what it let in itself still counts
            assert await remaining(two) == 47


async def test_a_redis_that_hangs_holds_up_one_request_for_half_a_second(tmp_path: Path) -> None:
    with redis_server() as redis:
        async with service(redis, tmp_path, requests_per_minute=50) as (limits, _):
            await limits.take(LOCAL)
            redis.freeze()
            began = time.monotonic()
            await limits.take(LOCAL)
            assert 0.4 < time.monotonic() - began < 1.5
            began = time.monotonic()
            await limits.take(LOCAL)
            assert time.monotonic() - began < 0.1
            redis.kill()


async def test_limits_hold_although_redis_is_away_from_the_start(tmp_path: Path) -> None:
    with redis_server() as redis:
        redis.kill()
        async with service(redis, tmp_path, requests_per_minute=2) as (limits, _):
            assert [(await limits.take(LOCAL)).refusal is None for _ in range(3)] == [True, True, False]
