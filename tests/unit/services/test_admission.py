from __future__ import annotations

import asyncio
import random

import pytest

from fastapi_foundry.errors import EngineTimeoutError, QueueFullError, QueueTimeoutError
from fastapi_foundry.services.admission import Admission, LaneReport, Place, Priority, QueueLimits
from tests.support.queue_simulation import LANE, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def enter(admission: Admission, flow: str = "a", capacity: int = 1, **options) -> Place:
    return admission.enter(LANE, flow, capacity, **options)


def report(admission: Admission) -> LaneReport:
    (found,) = admission.snapshot()
    return found


def granted(*places: Place) -> list[bool]:
    return [place.granted for place in places]


def last_for(admission: Admission, clock: Clock, service_s: float) -> None:
    """Have one request measured."""
    place = enter(admission)
    clock.now += service_s
    place.leave()


def test_a_free_place_is_granted_at_once_and_a_taken_one_in_turn(clock):
    admission = Admission(QueueLimits(), clock)
    first, second, third = (enter(admission, capacity=2) for _ in range(3))
    assert granted(first, second, third) == [True, True, False]
    assert (first.position, second.eta_s, third.position) == (0, 0.0, 1)
    second.leave()
    assert third.granted


def test_leaving_twice_gives_one_place_back(clock):
    admission = Admission(QueueLimits(), clock)
    holder, *others = (enter(admission) for _ in range(4))
    holder.leave()
    holder.leave()
    assert granted(*others) == [True, False, False]
    others[1].leave()
    others[1].leave()
    others[0].leave()
    assert others[2].granted
    assert report(admission).active == 1


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_places_are_neither_lost_nor_given_twice(seed, clock):
    rand = random.Random(seed)
    admission = Admission(QueueLimits(max_waiting=40, aging_s=5.0), clock)
    capacity, held, waiting = 3, [], []
    order: dict[tuple[str, Priority], list[Place]] = {}
    for _ in range(1000):
        clock.now += rand.expovariate(2.0)
        match rand.choices(("enter", "leave", "cancel", "resize"), (10, 6, 3, 1))[0]:
            case "enter":
                try:
                    place = enter(
                        admission,
                        rand.choice("abcde"),
                        capacity,
                        priority=rand.choice(list(Priority)),
                        weight=rand.random() + 0.5,
                    )
                except QueueFullError:
                    continue
                waiting.append(place)
                order.setdefault((place.flow, place.level), []).append(place)
            case "leave" if held:
                held.pop(rand.randrange(len(held))).leave()
            case "cancel" if waiting:
                waiting.pop(rand.randrange(len(waiting))).leave()
            case "resize":
                capacity = rand.randrange(6)
                admission.resize(LANE, capacity)
        held += [place for place in waiting if place.granted]
        waiting = [place for place in waiting if not place.granted]
        now = report(admission) if admission.snapshot() else None
        if now is not None:
            assert (now.active, sum(now.waiting.values())) == (len(held), len(waiting))
            assert not waiting or len(held) >= capacity, "somebody waits although a place is free"
            assert sorted(place.position for place in waiting)[:1] in ([], [1]), "somebody is next"
    while held or waiting:
        assert held or not capacity
        capacity = capacity or 1
        admission.resize(LANE, capacity)
        held += [place for place in waiting if place.granted]
        waiting = [place for place in waiting if not place.granted]
        held.pop().leave()
        held += [place for place in waiting if place.granted]
        waiting = [place for place in waiting if not place.granted]
    assert report(admission).active == 0
    assert admission._lanes[LANE].queue is None


def test_a_flow_is_served_in_its_own_order_within_a_class(clock):
    admission = Admission(QueueLimits(), clock)
    running = [enter(admission)]
    normal = [enter(admission) for _ in range(5)]
    urgent = [enter(admission, priority=Priority.HIGH) for _ in range(3)]
    late = [enter(admission, priority=Priority.LOW) for _ in range(2)]
    expected = urgent + normal + late
    assert [place.position for place in expected] == list(range(1, 11))
    for place in expected:
        clock.now += 1
        running.pop().leave()
        assert place.granted
        running.append(place)


def test_flows_take_turns_by_time_and_not_by_count(clock):
    admission = Admission(QueueLimits(), clock)
    lasts = {"long": 9.0, "short": 1.0}
    running = enter(admission, "other")
    places = [enter(admission, flow) for flow in ("long", "short") for _ in range(50)]
    served = dict.fromkeys(lasts, 0.0)
    clock.now += 1
    running.leave()
    for _ in range(44):
        (running,) = [place for place in places if place.granted]
        places.remove(running)
        clock.now += lasts[running.flow]
        served[running.flow] += lasts[running.flow]
        running.leave()
    assert abs(served["long"] - served["short"]) <= 9.0 + 1.0


def test_weights_divide_a_lane(clock):
    admission = Admission(QueueLimits(), clock)
    running = enter(admission, "other")
    places = [enter(admission, flow, weight=weight) for flow, weight in (("a", 3.0), ("b", 1.0)) for _ in range(40)]
    order = []
    for _ in range(40):
        clock.now += 1
        running.leave()
        (running,) = [place for place in places if place.granted]
        places.remove(running)
        order.append(running.flow)
    assert 29 <= order.count("a") <= 31


def test_what_was_used_while_nobody_waited_costs_nothing(clock):
    admission = Admission(QueueLimits(), clock)
    early = [enter(admission, "early", 4) for _ in range(4)]
    clock.now += 3600
    theirs = [enter(admission, "late", 4) for _ in range(8)]
    own = [enter(admission, "early", 4) for _ in range(8)]
    for place in early:
        clock.now += 1
        place.leave()
    # The hour alone is not held against it: they share from now on.
    assert sum(granted(*own)) >= 1
    assert sum(granted(*theirs)) >= 2


def test_idling_earns_nothing(clock):
    admission = Admission(QueueLimits(), clock)
    running = enter(admission, "busy")
    busy = [enter(admission, "busy") for _ in range(100)]
    for _ in range(60):
        clock.now += 1
        running.leave()
        running = next(place for place in busy if place.granted)
        busy.remove(running)
    idle = [enter(admission, "idle") for _ in range(30)]
    order = []
    for _ in range(20):
        clock.now += 1
        running.leave()
        running = next(place for place in busy + idle if place.granted)
        (busy if running in busy else idle).remove(running)
        order.append(running.flow)
    assert 9 <= order.count("idle") <= 11


def test_what_a_flow_has_had_is_held_against_it_when_it_comes_back_at_once(clock):
    admission = Admission(QueueLimits(), clock)
    long, short = enter(admission, "long"), enter(admission, "short")
    clock.now += 10
    long.leave()
    assert short.granted
    # Nobody waits for a moment.
    again, rest = enter(admission, "long"), [enter(admission, "short") for _ in range(40)]
    turns = 0
    while not again.granted:
        clock.now += 1
        turns += 1
        short.leave()
        short = next((place for place in rest if place.granted), short)
        if short in rest:
            rest.remove(short)
    assert 9 <= turns <= 11


def test_a_flow_that_has_all_places_shares_them_from_the_moment_that_another_comes(clock):
    admission = Admission(QueueLimits(), clock)
    running = [enter(admission, "early", 4) for _ in range(4)]
    early = [enter(admission, "early", 4) for _ in range(40)]
    clock.now += 600
    late = [enter(admission, "late", 4) for _ in range(40)]
    order = []
    for _ in range(24):
        clock.now += 0.25
        running.pop(0).leave()
        place = next(place for place in late + early if place.granted and place not in running)
        (late if place in late else early).remove(place)
        running.append(place)
        order.append(place.flow)
    assert 12 <= order.count("late") <= 16


def test_a_low_request_waits_for_all_others_and_does_not_starve(clock):
    admission = Admission(QueueLimits(aging_s=30.0), clock)
    running = enter(admission, "loud")
    low = [enter(admission, "quiet", priority=Priority.LOW) for _ in range(3)]
    loud = [enter(admission, "loud") for _ in range(3)]
    begun, turns = clock.now, []
    while low[:-1]:
        clock.now += 2
        running.leave()
        running = next(place for place in loud + low if place.granted)
        if running in low:
            low.remove(running)
            turns.append(clock.now - begun)
        else:
            loud.remove(running)
            loud.append(enter(admission, "loud"))
    assert 30 <= turns[0] <= 34
    assert 60 <= turns[1] <= 68
    for place in loud:
        place.leave()
    running.leave()
    assert low[0].granted, "there is nobody above it any more"


def test_only_what_was_passed_over_moves_up_so_that_a_crowd_does_not_take_over_a_class(clock):
    admission = Admission(QueueLimits(aging_s=30.0), clock)
    running = enter(admission, "crowd")
    crowd = [enter(admission, "crowd") for _ in range(100)]
    for _ in range(30):
        clock.now += 2
        running.leave()
        running = next(place for place in crowd if place.granted)
        crowd.remove(running)
    assert report(admission).waiting == {Priority.HIGH: 0, Priority.NORMAL: 70, Priority.LOW: 0}
    urgent = enter(admission, "crowd", priority=Priority.HIGH)
    running.leave()
    assert urgent.granted


def test_ever_new_flows_do_not_starve_one_that_waits(clock):
    admission = Admission(QueueLimits(aging_s=30.0), clock)
    running = enter(admission, "first")
    old = [enter(admission, "first") for _ in range(3)]
    new: list[Place] = []
    for number in range(60):
        new.append(enter(admission, f"new {number}"))
        clock.now += 1
        running.leave()
        running = next(place for place in old + new if place.granted)
        if running in old:
            assert number <= 32
            return
        new.remove(running)
    pytest.fail("never got its turn")


def test_one_flow_takes_half_of_the_queue_and_there_is_room_for_others(clock):
    admission = Admission(QueueLimits(max_waiting=64), clock)
    enter(admission)

    def fill(flow: str) -> int:
        count = 0
        while True:
            try:
                enter(admission, flow)
            except QueueFullError as fact:
                refused.append(fact)
                return count
            count += 1

    refused: list[QueueFullError] = []
    assert [fill(flow) for flow in "abc"] == [32, 16, 8]
    assert "32 requests of this client" in refused[0].message
    while fill("".join(random.choices("xyz", k=9))):
        pass
    assert "may wait (64)" in refused[-1].message


def test_the_time_to_come_back_is_when_ones_own_share_is_free(clock):
    admission = Admission(QueueLimits(max_waiting=8), clock)
    last_for(admission, clock, 7.3)
    enter(admission)
    for _ in range(4):
        enter(admission, "a")
    with pytest.raises(QueueFullError) as alone:
        enter(admission, "a")
    assert alone.value.retry_after_s == 8.0
    for flow in "bbc":
        enter(admission, flow)
    with pytest.raises(QueueFullError) as shared:
        enter(admission, "a")
    # Four of one's own, one place free: three turns of everybody, of whom one's own is each third.
    assert shared.value.retry_after_s == 22.0
    assert QueueFullError.code == "queue_full"


def test_nobody_waits_where_nobody_may(clock):
    admission = Admission(QueueLimits(max_waiting=0), clock)
    place = enter(admission)
    with pytest.raises(QueueFullError) as refused:
        enter(admission, "b")
    assert refused.value.retry_after_s == 1.0
    place.leave()
    assert enter(admission, "b").granted


def test_a_wait_far_beyond_the_deadline_is_refused_at_once(clock):
    admission = Admission(QueueLimits(max_wait_s=60.0), clock)
    last_for(admission, clock, 10.0)
    enter(admission)
    waiting = [enter(admission, deadline_s=5.0)]
    with pytest.raises(QueueFullError, match="about 20 s now, and the request may wait 5 s") as refused:
        enter(admission, deadline_s=5.0)
    assert refused.value.retry_after_s == 15.0
    waiting += [enter(admission) for _ in range(11)]
    with pytest.raises(QueueFullError, match="about 130 s now, and the request may wait 60 s"):
        enter(admission, deadline_s=1000.0)
    assert sum(report(admission).waiting.values()) == 12


def test_estimates_follow_what_is_measured(clock):
    admission = Admission(QueueLimits(), clock)
    places = [enter(admission, capacity=2) for _ in range(5)]
    assert [place.eta_s for place in places] == [0.0, 0.0, None, None, None]
    clock.now += 4
    places[0].leave()
    assert [place.eta_s for place in places[2:]] == [0.0, 2.0, 4.0]
    clock.now += 8
    places[1].leave()
    assert report(admission).ewma_s == pytest.approx(4 + 8 / 8)
    assert report(admission).oldest_wait_s == 12.0
    assert (places[2].waited_s, places[4].waited_s) == (4.0, 12.0)


def test_more_places_let_those_in_who_wait_and_fewer_interrupt_nobody(clock):
    admission = Admission(QueueLimits(), clock)
    places = [enter(admission, capacity=0) for _ in range(4)]
    assert not any(granted(*places))
    admission.resize(LANE, 2)
    assert granted(*places) == [True, True, False, False]
    places.append(enter(admission, "b", 3))
    assert granted(*places[2:]) == [True, False, False] or granted(*places[2:]) == [False, False, True]
    admission.resize(LANE, 1)
    assert report(admission).active == 3
    running = [place for place in places if place.granted]
    running.pop().leave()
    running.pop().leave()
    assert report(admission).active == 1
    running.pop().leave()
    assert report(admission).active == 1


def test_a_lane_that_nobody_waits_for_any_more_is_at_rest(clock):
    admission = Admission(QueueLimits(), clock)
    place = enter(admission, capacity=0)
    assert place.eta_s is None
    place.leave()
    assert admission._lanes[LANE].queue is None


def test_lanes_do_not_touch_each_other_and_idle_ones_are_forgotten(clock):
    admission = Admission(QueueLimits(), clock)
    busy = admission.enter("busy", "a", 1)
    for number in range(3000):
        admission.enter(f"lane {number}", "a", 1).leave()
    assert len(admission.snapshot()) <= 1025
    assert not admission.enter("busy", "a", 1).granted
    busy.leave()


def test_idle_flows_are_forgotten(clock):
    admission = Admission(QueueLimits(), clock)
    rand = random.Random(1)
    running = enter(admission)
    for number in range(5000):
        place = enter(admission, f"flow {number}")
        clock.now += rand.random()
        running.leave()
        running = place
    queue = admission._lanes[LANE].queue
    assert queue is None or sum(len(level.accounts) for level in queue._levels) <= 1026


async def test_a_waiting_task_goes_on_when_its_turn_comes():
    admission = Admission(QueueLimits())
    first, second = enter(admission), enter(admission)
    await first.wait()
    task = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    assert not task.done()
    first.leave()
    await task
    assert second.granted


async def test_a_cancelled_waiter_leaves_at_once():
    admission = Admission(QueueLimits())
    enter(admission)
    waiting = enter(admission)
    task = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sum(report(admission).waiting.values()) == 0
    waiting.leave()


async def test_a_grant_to_a_waiter_cancelled_at_that_moment_passes_on():
    admission = Admission(QueueLimits())
    first, second, third = enter(admission), enter(admission), enter(admission, "b", 1)
    places = {place: asyncio.create_task(place.wait()) for place in (second, third)}
    await asyncio.sleep(0)
    first.leave()
    chosen, other = (second, third) if second.granted else (third, second)
    places[chosen].cancel()
    assert not other.granted
    await places[other]
    assert places[chosen].cancelled()
    assert other.granted
    assert report(admission).active == 1


async def test_a_waiter_cancelled_before_its_grant_is_passed_by():
    admission = Admission(QueueLimits())
    first, second, third = enter(admission), enter(admission), enter(admission)
    tasks = [asyncio.create_task(place.wait()) for place in (second, third)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    first.leave()
    await tasks[1]
    assert third.granted
    assert tasks[0].cancelled()
    assert report(admission).active == 1


async def test_the_deadline_ends_the_wait_with_a_fact_of_its_own():
    admission = Admission(QueueLimits())
    holder, late = enter(admission), enter(admission, deadline_s=0.05)
    with pytest.raises(
        QueueTimeoutError, match=r"^The request waited 0\.1 s for its turn, longer than its deadline\.$"
    ):
        await late.wait()
    assert isinstance(late.failure, EngineTimeoutError)
    assert late.failure.limit_s == 0.05
    assert sum(report(admission).waiting.values()) == 0
    holder.leave()
    assert not late.granted
    assert report(admission).active == 0


async def test_a_place_in_time_is_not_taken_back_at_the_deadline():
    admission = Admission(QueueLimits(max_wait_s=0.05))
    holder, waiting = enter(admission), enter(admission)
    task = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    holder.leave()
    await task
    assert waiting._timer is None
    await asyncio.sleep(0.1)
    assert waiting.failure is None
    assert report(admission).active == 1


async def test_who_has_no_task_is_called_once_by_the_loop():
    admission = Admission(QueueLimits())
    heard: list[tuple[str, bool]] = []
    places = {name: enter(admission, deadline_s=0.05) for name in ("first", "second", "late", "gone")}
    for name, place in places.items():
        place.when_settled(lambda place, name=name: heard.append((name, place.granted)))
    assert heard == []
    await asyncio.sleep(0)
    assert heard == [("first", True)]
    places["gone"].leave()
    places["first"].leave()
    assert heard == [("first", True)]
    await asyncio.sleep(0.1)
    assert heard == [("first", True), ("second", True), ("late", False)]
    assert isinstance(places["late"].failure, QueueTimeoutError)


async def test_who_leaves_before_it_is_called_is_not_called():
    admission = Admission(QueueLimits())
    heard: list[Place] = []
    first, second = enter(admission), enter(admission)
    second.when_settled(heard.append)
    first.leave()
    assert second.granted
    second.leave()
    await asyncio.sleep(0.01)
    assert heard == []


async def test_nobody_waits_for_a_place_that_has_been_left():
    admission = Admission(QueueLimits())
    enter(admission)
    left, waiting = enter(admission), enter(admission)
    left.leave()
    with pytest.raises(RuntimeError):
        await left.wait()
    task = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    waiting.leave()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("seed", range(4))
async def test_many_tasks_that_come_wait_fail_and_are_cancelled_leave_nothing_behind(seed):
    rand = random.Random(seed)
    admission = Admission(QueueLimits(max_waiting=100))
    active = most = 0

    async def work(flow: str) -> None:
        nonlocal active, most
        place = enter(admission, flow, 4, deadline_s=rand.choice((None, 0.01)))
        try:
            await place.wait()
            active += 1
            most = max(most, active)
            try:
                await asyncio.sleep(rand.random() / 200)
            finally:
                active -= 1
        finally:
            place.leave()

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(work(rand.choice("abc"))))
        if rand.random() < 0.5:
            await asyncio.sleep(rand.random() / 500)
        if rand.random() < 0.3:
            rand.choice(tasks).cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 4
    assert all(
        end is None or isinstance(end, QueueFullError | QueueTimeoutError | asyncio.CancelledError) for end in ends
    )
    now = report(admission)
    assert (now.active, sum(now.waiting.values())) == (0, 0)
