"""Who may be in memory, decided without a process."""

from __future__ import annotations

from fastapi_foundry.daemon.placement import Bounds, Evict, Fits, Need, Never, Resident, Wait, place, relieve

BOUNDS = Bounds(max_models=3, budget_mb=1000)


def runner(key: int, model: str, mb: float = 100, *, used: float = 0, idle: bool = True, **more: bool) -> Resident:
    return Resident(key, model, mb, last_used=used, idle=idle, **more)


def need(mb: float, likely: float | None = None) -> Need:
    return Need(mb, mb if likely is None else likely)


def test_what_fits_gets_the_memory_of_its_likely_peak():
    assert place("new", need(100, 300), [runner(1, "a", 700)], BOUNDS) == Fits(300)


def test_the_longest_unused_runner_makes_room_and_no_more_than_are_needed():
    residents = [runner(1, "a", 300, used=3), runner(2, "b", 400, used=1), runner(3, "c", 300, used=2)]
    bounds = Bounds(9, 1000)
    assert place("new", need(350), residents, bounds) == Evict((2,))
    assert place("new", need(700), residents, bounds) == Evict((2, 3))


def test_a_models_further_runner_goes_before_anybodys_last_one():
    residents = [runner(1, "a", 300, used=1), runner(2, "b", 300, used=2), runner(3, "b", 300, used=3)]
    assert place("new", need(200), residents, BOUNDS) == Evict((2,))
    assert place("new", need(500), residents, BOUNDS) == Evict((2, 1))


def test_nobody_is_ended_while_that_would_not_be_enough():
    residents = [runner(1, "a", 600, idle=False), runner(2, "b", 100)]
    decision = place("new", need(500), residents, BOUNDS)
    assert isinstance(decision, Wait)
    assert "a 600 MB busy" in decision.reason
    assert "500 MB are needed" in decision.reason


def test_what_is_ending_already_is_waited_for_and_not_added_to():
    residents = [runner(1, "a", 600, ending=True, idle=False), runner(2, "b", 300)]
    assert isinstance(place("new", need(500), residents, BOUNDS), Wait)
    assert place("new", need(800), residents, BOUNDS) == Evict((2,))


def test_pinned_runners_stay_and_the_refusal_has_the_numbers():
    residents = [runner(1, "keep:1", 600, pinned=True), runner(2, "b", 100)]
    decision = place("new", Need(500, 900, measured=True), residents, BOUNDS)
    assert isinstance(decision, Never)
    for words in ("500 MB (measured", "1,000 MB", "700 MB are in use", "600 MB pinned (keep:1 600 MB pinned)"):
        assert words in decision.reason


def test_a_peak_that_is_too_large_is_no_reason_for_a_refusal():
    assert place("new", need(300, 5000), [], BOUNDS) == Fits(1000)
    assert place("new", need(300, 5000), [runner(1, "a", 400, pinned=True)], BOUNDS) == Fits(600)
    assert isinstance(place("new", need(1001), [], BOUNDS), Never)


def test_the_number_of_models_counts_models_and_not_runners():
    residents = [runner(1, "a"), runner(2, "a"), runner(3, "b")]
    assert place("new", need(100), residents, BOUNDS) == Fits(100)
    assert place("a", need(100), [*residents, runner(4, "c")], BOUNDS) == Fits(100)


def test_for_a_place_every_runner_of_the_longest_unused_model_goes():
    residents = [runner(1, "a", used=1), runner(2, "a", used=9), runner(3, "b", used=5)]
    assert place("new", need(100), residents, Bounds(2, 1000)) == Evict((3,))
    busy = [runner(1, "a", used=1, idle=False), runner(2, "a", used=9), runner(3, "b", used=5, idle=False)]
    assert isinstance(place("new", need(100), busy, Bounds(2, 1000)), Wait)


def test_pins_on_every_place_are_a_refusal_and_half_of_them_are_not():
    residents = [runner(1, "a", pinned=True), runner(2, "b", pinned=True, idle=False)]
    decision = place("new", need(1), residents, Bounds(2, 1000))
    assert isinstance(decision, Never)
    assert "a, b" in decision.reason
    assert place("new", need(1), [residents[0], runner(3, "c")], Bounds(2, 1000)) == Evict((3,))


def test_runners_that_have_grown_are_ended_until_the_rest_is_within_the_budget():
    residents = [
        runner(1, "a", 400, used=1, idle=False),
        runner(2, "b", 400, used=3),
        runner(3, "c", 400, used=2),
        runner(4, "d", 300, pinned=True),
    ]
    assert relieve(residents, 1500) == []
    assert relieve(residents, 1499) == [3]
    assert relieve(residents, 100) == [3, 2]
    assert relieve([*residents, runner(5, "e", 900, ending=True)], 1500) == []
