"""Three keys in the ratio 100 : 10 : 1 at one slow runner, in simulated time, against the same with one other client."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median

import pytest

from fastapi_foundry.services.admission import QueueLimits
from tests.support.queue_simulation import Job, Simulation, arrivals, client

Service = Callable[[random.Random], float]
UNBOUNDED = QueueLimits(max_waiting=100_000, max_wait_s=1e9)
SEEDS = range(6)


def constant(rand: random.Random) -> float:
    return 1.0


def even(rand: random.Random) -> float:
    return rand.uniform(0.5, 1.5)


def skewed(rand: random.Random) -> float:
    return rand.expovariate(1.0)


def requests(rand: random.Random) -> list[str]:
    found = ["heavy"] * 1802 + ["middle"] * 180 + ["light"] * 18
    rand.shuffle(found)
    return found


def at_once(seed: int, service: Service, names: dict[str, str]) -> Simulation:
    """All of them at the beginning."""
    rand, simulation = random.Random(seed), Simulation(UNBOUNDED)
    arrivals(simulation, [(0.0, Job(names.get(flow, flow), service(rand))) for flow in requests(rand)])
    return simulation.run()


def open_arrivals(seed: int, service: Service, names: dict[str, str]) -> Simulation:
    """Half as many again as the runner can serve, one after the other; what is refused is gone."""
    rand, simulation, time_s, jobs = random.Random(seed), Simulation(QueueLimits()), 0.0, []
    for flow in requests(rand):
        time_s += rand.expovariate(1.5)
        jobs.append((time_s, Job(names.get(flow, flow), service(rand))))
    arrivals(simulation, jobs)
    return simulation.run()


def closed_arrivals(seed: int, service: Service, names: dict[str, str]) -> Simulation:
    """100 workers and 10 that never rest, and one that sends its 18 in the time of all the others."""
    simulation, workers = Simulation(UNBOUNDED), ["heavy"] * 100 + ["middle"] * 10
    for number, flow in enumerate(workers):
        rand = random.Random(1000 * seed + number)
        client(simulation, names.get(flow, flow), 18, lambda rand=rand: service(rand), lambda: 0.0)
    rand = random.Random(1000 * seed + 999)
    client(simulation, "light", 18, lambda: service(rand), lambda: rand.expovariate(1 / 110))
    return simulation.run()


def wait(simulation: Simulation) -> float:
    assert len(simulation.waits["light"]) == 18, "none of them is refused"
    return median(simulation.waits["light"])


@pytest.mark.parametrize(("load", "service"), [(open_arrivals, even), (open_arrivals, skewed), (closed_arrivals, even)])
def test_the_lightest_key_waits_about_as_long_as_beside_one_other_client(load, service):
    three = [wait(load(seed, service, {})) for seed in SEEDS]
    two = [wait(load(seed, service, {"middle": "heavy"})) for seed in SEEDS]
    # Each is the median of 18 waits; all seeds together are no matter of luck.
    assert sum(three) <= 1.5 * sum(two)
    # No more than what is under way, and one more at times.
    assert sum(three) / len(three) <= 1.5


def test_where_all_come_at_once_three_share_where_two_did():
    three, two = at_once(1, constant, {}), at_once(1, constant, {"middle": "heavy"})
    assert wait(three) <= 1.5 * wait(two)


def test_each_key_gets_the_same_time_whatever_its_requests_are_like():
    simulation, lasts = Simulation(UNBOUNDED, capacity=3), {"heavy": 0.5, "middle": 2.0, "light": 6.0}
    for flow, workers in (("heavy", 100), ("middle", 10), ("light", 4)):
        for number in range(workers):
            rand = random.Random(f"{flow}{number}")
            client(
                simulation, flow, 10_000, lambda rand=rand, flow=flow: lasts[flow] * rand.uniform(0.5, 1.5), lambda: 0.0
            )
    simulation.run(until_s=600.0)
    total = sum(simulation.served.values())
    assert total >= 0.97 * 3 * 600
    for flow in lasts:
        assert simulation.served[flow] / total == pytest.approx(1 / 3, abs=0.03)


def test_long_requests_one_after_the_other_get_no_more_time_than_many_short_ones():
    simulation = Simulation(UNBOUNDED)
    client(simulation, "long", 10_000, lambda: 10.0, lambda: 0.0)
    for _ in range(20):
        client(simulation, "short", 10_000, lambda: 1.0, lambda: 0.0)
    simulation.run(until_s=2000.0)
    assert simulation.served["long"] / sum(simulation.served.values()) == pytest.approx(0.5, abs=0.03)


def test_in_one_line_the_light_key_would_wait_for_all_the_others():
    """What the queue is for: the same requests under one name."""
    everybody = at_once(1, constant, dict.fromkeys(("heavy", "middle", "light"), "all"))
    assert median(everybody.waits["all"]) > 30 * wait(at_once(1, constant, {}))
