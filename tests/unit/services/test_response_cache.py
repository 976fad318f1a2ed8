from __future__ import annotations

import asyncio
import random

import orjson
import pytest

from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.services.response_cache import CachedAnswer, CacheLimits, CacheStatus, ResponseCache

HIT, MISS, SHARED = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.SHARED


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Answers when it is let, one call after the other; an answer may be an error to be raised."""

    def __init__(self) -> None:
        self.calls = 0
        self._answers: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    async def __call__(self) -> bytes:
        self.calls += 1
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def say(self, *answers: bytes | Exception) -> None:
        for answer in answers:
            self._answers.put_nowait(answer)


def answer(text: str = "Hello", reason: str | None = "stop") -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason}]})


def padded(size: int, mark: int = 0) -> bytes:
    body = answer(f"{mark:04}")
    return body + b" " * (size - len(body))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> ResponseCache:
    return ResponseCache(CacheLimits(), clock)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def together(cache: ResponseCache, engine: Engine, count: int) -> list[asyncio.Task[CachedAnswer]]:
    tasks = [asyncio.create_task(cache.through(b"key", engine)) for _ in range(count)]
    await settle()
    return tasks


async def test_an_answer_is_made_once_and_kept_for_its_time(cache, clock):
    engine = Engine()
    engine.say(answer("one"), answer("two"))
    first = await cache.through(b"key", engine)
    clock.now += 3599.5
    second = await cache.through(b"key", engine)
    assert (first.status, first.age_s) == (MISS, 0.0)
    assert second == CachedAnswer(first.body, HIT, 3599.5)
    clock.now += 0.5
    third = await cache.through(b"key", engine)
    assert (third.status, third.body) == (MISS, answer("two"))
    assert engine.calls == 2
    assert await cache.through(b"key", engine) == CachedAnswer(answer("two"), HIT, 0.0)


async def test_different_keys_have_different_answers(cache):
    engine = Engine()
    engine.say(answer("one"), answer("two"))
    bodies = [(await cache.through(key, engine)).body for key in (b"a", b"b", b"a", b"b")]
    assert bodies == [answer("one"), answer("two")] * 2


async def test_equal_requests_at_the_same_time_are_asked_once(cache):
    engine = Engine()
    tasks = await together(cache, engine, 50)
    engine.say(answer())
    found = await asyncio.gather(*tasks)
    assert engine.calls == 1
    assert [each.status for each in found] == [MISS] + [SHARED] * 49
    assert {each.body for each in found} == {answer()}
    report = cache.report()
    assert (report.misses, report.shared, report.hits, report.entries) == (1, 49, 0, 1)


async def test_a_failure_is_the_leaders_alone_and_another_asks(cache):
    engine = Engine()
    tasks = await together(cache, engine, 4)
    engine.say(EngineFailedError("gone"))
    await settle()
    assert [task.done() for task in tasks] == [True, False, False, False]
    assert engine.calls == 2, "one at a time"
    engine.say(EngineFailedError("gone again"))
    await settle()
    late = await together(cache, engine, 1)
    engine.say(answer())
    found = await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert [str(each) for each in found[:2]] == ["gone", "gone again"]
    assert [each.status for each in found[2:]] == [MISS, SHARED, SHARED]
    assert engine.calls == 3
    assert cache._flights == {}


async def test_a_failure_is_never_kept(cache):
    engine = Engine()
    engine.say(EngineFailedError("gone"), answer())
    with pytest.raises(EngineFailedError):
        await cache.through(b"key", engine)
    assert cache.report().entries == 0
    assert (await cache.through(b"key", engine)).status is MISS


async def test_a_leader_that_is_cancelled_hands_over(cache):
    engine = Engine()
    tasks = await together(cache, engine, 3)
    tasks[0].cancel()
    await settle()
    assert (tasks[0].cancelled(), engine.calls) == (True, 2)
    engine.say(answer())
    assert [(await task).status for task in tasks[1:]] == [MISS, SHARED]
    assert cache._flights == {}


async def test_who_is_cancelled_at_the_moment_of_the_handover_hands_on(cache):
    engine = Engine()
    tasks = await together(cache, engine, 3)
    tasks[0].cancel()
    while not tasks[0].done():
        await asyncio.sleep(0)
    # The second has been told by now, and has not run.
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    engine.say(answer())
    assert (await tasks[2]).status is MISS
    assert cache._flights == {}


async def test_a_waiter_that_is_cancelled_is_passed_by(cache):
    engine = Engine()
    tasks = await together(cache, engine, 3)
    tasks[1].cancel()
    await settle()
    assert len(cache._flights[b"key"].waiting) == 1
    tasks[0].cancel()
    await settle()
    engine.say(answer())
    assert (await tasks[2]).status is MISS
    assert engine.calls == 2


@pytest.mark.parametrize(
    "body",
    [
        answer(reason="content_filter"),
        answer(reason=None),
        b'{"choices": []}',
        b'{"error": {"message": "x"}}',
        b"[]",
        b"{",
    ],
)
async def test_an_answer_that_is_none_is_neither_kept_nor_shared(cache, body):
    engine = Engine()
    tasks = await together(cache, engine, 3)
    engine.say(body)
    await settle()
    assert engine.calls == 3, "the others ask for themselves"
    engine.say(answer("a"), answer("b"))
    assert [(each.body, each.status) for each in await asyncio.gather(*tasks)] == [
        (body, MISS), (answer("a"), MISS), (answer("b"), MISS)
    ]  # fmt: skip
    assert (cache.report().entries, cache._flights) == (0, {})


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
async def test_answers_that_came_to_their_end_are_kept(cache, reason):
    engine = Engine()
    engine.say(answer(reason=reason))
    await cache.through(b"key", engine)
    assert (await cache.through(b"key", engine)).status is HIT


async def test_a_new_answer_can_be_asked_for_and_takes_the_place_of_the_old(cache):
    engine = Engine()
    engine.say(answer("old"), answer("new"))
    await cache.through(b"key", engine)
    assert await cache.through(b"key", engine, read=False) == CachedAnswer(answer("new"), MISS)
    assert (await cache.through(b"key", engine)).body == answer("new")
    assert cache.report().entries == 1


async def test_an_answer_that_is_not_to_be_kept_is_not(cache):
    engine = Engine()
    engine.say(answer())
    await cache.through(b"key", engine, write=False)
    assert (cache.report().entries, cache.find(b"key")) == (0, None)


async def test_what_is_too_large_is_shared_and_not_kept():
    cache, engine = ResponseCache(CacheLimits(max_entry_bytes=1000)), Engine()
    tasks = await together(cache, engine, 2)
    engine.say(padded(1001))
    assert [(await task).status for task in tasks] == [MISS, SHARED]
    assert cache.report().entries == 0
    assert cache.put(b"key", padded(1000))
    assert cache.report().entries == 1


def test_the_least_recently_asked_for_goes_first(clock):
    cache = ResponseCache(CacheLimits(max_bytes=10_000), clock)
    for number in range(7):
        cache.put(b"%032d" % number, padded(1000, number))
    assert cache.find(b"%032d" % 0)
    cache.put(b"%032d" % 7, padded(1000, 7))
    kept = [number for number in range(8) if cache.find(b"%032d" % number)]
    assert kept == [0, 2, 3, 4, 5, 6, 7]
    assert cache.report().evicted == 1


def test_the_bytes_never_pass_their_bound_and_are_counted_right(clock):
    rand = random.Random(1)
    cache = ResponseCache(CacheLimits(max_bytes=50_000, max_entry_bytes=5000, ttl_s=100.0), clock)
    for _ in range(3000):
        clock.now += rand.random()
        key = b"%032d" % rand.randrange(100)
        if rand.random() < 0.5:
            cache.put(key, padded(rand.randrange(100, 6000)))
        else:
            cache.find(key)
        report = cache.report()
        assert report.bytes <= 50_000
        assert (report.bytes == 0) == (report.entries == 0)
    while cache._entries:
        cache._drop(next(iter(cache._entries)))
    assert cache.report().bytes == 0


def test_many_small_answers_count_for_what_they_take(clock):
    cache = ResponseCache(CacheLimits(max_bytes=100_000), clock)
    for number in range(1000):
        cache.put(b"%032d" % number, answer("x"))
    assert 100 < cache.report().entries < 300


def test_what_is_too_old_makes_room_without_being_asked_for(clock):
    cache = ResponseCache(CacheLimits(ttl_s=10.0), clock)
    for number in range(5):
        cache.put(b"%d" % number, answer())
    clock.now += 10
    cache.put(b"new", answer())
    report = cache.report()
    assert (report.entries, report.evicted) == (1, 0)


def test_all_can_be_forgotten(cache):
    cache.put(b"key", answer())
    cache.clear()
    assert (cache.find(b"key"), cache.report().bytes) == (None, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_fails_and_is_cancelled_nobody_waits_for_ever(cache, seed):
    rand = random.Random(seed)
    under_way = dict.fromkeys((b"a", b"b"), 0)

    def engine(key: bytes):
        async def make() -> bytes:
            under_way[key] += 1
            assert under_way[key] == 1, "no herd"
            try:
                await asyncio.sleep(rand.random() / 500)
                if rand.random() < 0.5:
                    raise EngineFailedError("gone")
                return answer()
            finally:
                under_way[key] -= 1

        return make

    tasks = []
    for number in range(300):
        key = rand.choice((b"a", b"b"))
        tasks.append(asyncio.create_task(cache.through(key, engine(key))))
        if rand.random() < 0.4:
            rand.choice(tasks).cancel()
        if rand.random() < 0.2:
            await asyncio.sleep(rand.random() / 1000)
        if number % 20 == 0:
            cache.clear()
    async with asyncio.timeout(20):
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {CachedAnswer, EngineFailedError, asyncio.CancelledError}
    assert cache._flights == {}
