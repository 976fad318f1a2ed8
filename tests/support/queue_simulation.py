"""Clients and a slow runner around the real ``Admission``, in simulated time: seconds of load in milliseconds."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fastapi_foundry.errors import QueueFullError
from fastapi_foundry.services.admission import Admission, Place, QueueLimits

LANE = "foundry::slow:1"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Job:
    """One request: whose it is, and how long the runner needs for it, in seconds."""

    flow: str
    service_s: float
    after: Callable[[], None] = lambda: None


@dataclass
class Simulation:
    """Everything that happens, in order.

    Attributes:
        waits: By flow, the seconds that each of its requests waited.
        served: By flow, the seconds that the runner worked for it.
        refused: By flow, how many were turned away.
    """

    limits: QueueLimits
    capacity: int = 1
    clock: Clock = field(default_factory=Clock)
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    served: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits, self.clock)
        self.begun = self.clock.now
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._jobs: dict[Place, Job] = {}
        self._waiting: set[Place] = set()
        self._order = 0

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        """Have something happen so many seconds after the beginning."""
        self._order += 1
        heapq.heappush(self._events, (self.begun + time_s, self._order, what))

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now - self.begun

    def arrive(self, job: Job) -> None:
        """A request comes in."""
        try:
            place = self.admission.enter(LANE, job.flow, self.capacity)
        except QueueFullError:
            self.refused[job.flow] += 1
            job.after()
            return
        self._jobs[place] = job
        self._waiting.add(place)
        self._look()

    def run(self, until_s: float = float("inf")) -> Simulation:
        """Let it happen until nothing more does, or the time is over."""
        while self._events and self._events[0][0] - self.begun <= until_s:
            self.clock.now, _, what = heapq.heappop(self._events)
            what()
        return self

    def _look(self) -> None:
        lane = self.admission._lanes[LANE]
        assert len(lane.running) <= self.capacity
        for place in [place for place in lane.running if place in self._waiting]:
            self._waiting.discard(place)
            job = self._jobs[place]
            self.waits[job.flow].append(place.waited_s)
            self.at(self.elapsed + job.service_s, lambda place=place: self._end(place))
        assert not self._waiting or len(lane.running) == self.capacity

    def _end(self, place: Place) -> None:
        job = self._jobs.pop(place)
        self.served[job.flow] += job.service_s
        place.leave()
        self._look()
        job.after()


def arrivals(simulation: Simulation, jobs: Iterable[tuple[float, Job]]) -> None:
    """Requests that come when they come, whatever became of those before."""
    for time_s, job in jobs:
        simulation.at(time_s, lambda job=job: simulation.arrive(job))


def client(
    simulation: Simulation, flow: str, requests: int, service_s: Callable[[], float], think_s: Callable[[], float]
) -> None:
    """A client that sends its next request some time after the answer to the one before."""
    left = requests

    def send() -> None:
        nonlocal left
        if left:
            left -= 1
            simulation.arrive(Job(flow, service_s(), again))

    def again() -> None:
        simulation.at(simulation.elapsed + think_s(), send)

    simulation.at(think_s(), send)
