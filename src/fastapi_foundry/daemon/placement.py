"""Who may be in memory: pure decisions about models, their measured memory, pins and the two bounds.

Nothing in here waits, measures or ends anything; ``room`` does what is decided. Memory is in MB (MiB) throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Bounds", "Evict", "Fits", "Need", "Never", "Placement", "Resident", "Wait", "place", "relieve"]

_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Resident:
    """One runner that takes memory: loaded, let in to load, or about to end.

    Attributes:
        key: Names the runner.
        model_id: Its model.
        memory_mb: Measured, or what was set aside for it while it loads.
        last_used: Monotonic time of its last request's end.
        idle: Whether it could be ended now: nobody uses it or waits for it.
        pinned: Whether it must not be ended to make room.
        ending: Whether it is being ended already.
    """

    key: int
    model_id: str
    memory_mb: float
    last_used: float = 0.0
    idle: bool = False
    pinned: bool = False
    ending: bool = False

    @property
    def evictable(self) -> bool:
        """Whether it may make room."""
        return self.idle and not self.pinned and not self.ending


@dataclass(frozen=True, slots=True)
class Need:
    """What one more runner of a model takes.

    Attributes:
        least_mb: As it is loaded; it never fits into less.
        likely_mb: At its peak, at least ``least_mb``; room is made for as much of it as the budget can give.
        measured: Whether both were measured, rather than calculated from the model's files.
    """

    least_mb: float
    likely_mb: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that may be in memory: different models, and MB of all runners together."""

    max_models: int
    budget_mb: float


@dataclass(frozen=True, slots=True)
class Fits:
    """It may load now; ``memory_mb`` is to be set aside for it."""

    memory_mb: float


@dataclass(frozen=True, slots=True)
class Evict:
    """It fits once the runners with these ``keys`` have ended."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """It fits once somebody else becomes idle or has ended; ``reason`` says who is in the way."""

    reason: str


@dataclass(frozen=True, slots=True)
class Never:
    """It cannot fit while the bounds and pins are what they are; ``reason`` has the numbers."""

    reason: str


Placement = Fits | Evict | Wait | Never


def place(model_id: str, need: Need, residents: Sequence[Resident], bounds: Bounds) -> Placement:
    """Whether one more runner of ``model_id`` may load, and what has to happen first."""
    others = [resident for resident in residents if resident.model_id != model_id]
    return _by_models(others, bounds) or _by_memory(need, residents, others, bounds)


def relieve(residents: Sequence[Resident], budget_mb: float) -> list[int]:
    """Which idle runners to end because the runners have grown past the budget; empty while they have not."""
    excess = sum(resident.memory_mb for resident in residents if not resident.ending) - budget_mb
    victims = []
    for resident in _by_age(residents, residents):
        if excess <= 0:
            break
        victims.append(resident.key)
        excess -= resident.memory_mb
    return victims


def _by_models(others: Sequence[Resident], bounds: Bounds) -> Evict | Wait | Never | None:
    """None where the number of models is no obstacle."""
    names = {resident.model_id for resident in others}
    if len(names) < bounds.max_models:
        return None
    held = {resident.model_id for resident in others if resident.pinned}
    if len(held) >= bounds.max_models:
        return Never(
            f"pinned models hold every place (foundry_service.max_loaded_models is {bounds.max_models}): "
            f"{', '.join(sorted(held)[:_SHOWN])}. Unload one of them first."
        )
    going = {name for name in names if all(resident.ending for resident in others if resident.model_id == name)}
    if len(names) - len(going) < bounds.max_models:
        return Wait("another model is being unloaded")
    free = [
        (max(resident.last_used for resident in runners), runners)
        for runners in (_living(others, name) for name in names - going)
        if all(resident.evictable for resident in runners)
    ]
    if not free:
        return Wait(f"{len(names)} models are in use (foundry_service.max_loaded_models is {bounds.max_models})")
    _, victims = min(free, key=lambda each: each[0])
    return Evict(tuple(resident.key for resident in victims))


def _by_memory(need: Need, residents: Sequence[Resident], others: Sequence[Resident], bounds: Bounds) -> Placement:
    kept = [resident for resident in residents if resident.pinned and not resident.ending]
    ceiling = bounds.budget_mb - _sum(kept)
    if need.least_mb > ceiling:
        return Never(_too_much(need, residents, kept, bounds))
    wanted = max(need.least_mb, min(need.likely_mb, ceiling))
    used = _sum(residents)
    if used + wanted <= bounds.budget_mb:
        return Fits(wanted)
    going = _sum(resident for resident in residents if resident.ending)
    short = used + wanted - bounds.budget_mb
    if short <= going:
        return Wait("another model is being unloaded")
    victims, found = [], going
    for resident in _by_age(others, residents):
        victims.append(resident.key)
        found += resident.memory_mb
        if found >= short:
            return Evict(tuple(victims))
    return Wait(_in_the_way(wanted, residents, bounds))


def _by_age(candidates: Iterable[Resident], residents: Sequence[Resident]) -> list[Resident]:
    """Those that may be ended, the best to end first: a model's further runners, then the longest unused."""
    order = sorted((each for each in candidates if each.evictable), key=lambda each: each.last_used)
    left = {name: len(_living(residents, name)) for name in {each.model_id for each in order}}
    further: list[Resident] = []
    last: list[Resident] = []
    for each in order:
        (further if left[each.model_id] > 1 else last).append(each)
        left[each.model_id] -= 1
    return further + last


def _living(residents: Iterable[Resident], model_id: str) -> list[Resident]:
    return [each for each in residents if each.model_id == model_id and not each.ending]


def _sum(residents: Iterable[Resident]) -> float:
    return sum(resident.memory_mb for resident in residents)


def _too_much(need: Need, residents: Sequence[Resident], kept: Sequence[Resident], bounds: Bounds) -> str:
    how = "measured when it was last loaded" if need.measured else "estimated from its files"
    words = (
        f"it needs {need.least_mb:,.0f} MB ({how}), and the memory budget for models is {bounds.budget_mb:,.0f} MB, of "
        f"which {_sum(residents):,.0f} MB are in use"
    )
    if kept:
        words += f" and {_sum(kept):,.0f} MB pinned ({_list(kept)})"
    return words + ". Raise foundry_service.memory_budget_mb" + (", or unload a pinned model." if kept else ".")


def _in_the_way(wanted_mb: float, residents: Sequence[Resident], bounds: Bounds) -> str:
    return (
        f"{wanted_mb:,.0f} MB are needed, and of the memory budget of {bounds.budget_mb:,.0f} MB are in use: "
        f"{_list(residents)}"
    )


def _list(residents: Sequence[Resident]) -> str:
    largest = sorted(residents, key=lambda each: -each.memory_mb)[:_SHOWN]
    return ", ".join(
        f"{each.model_id} {each.memory_mb:,.0f} MB"
        + (" pinned" if each.pinned else " ending" if each.ending else "" if each.idle else " busy")
        for each in largest
    )
