from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastapi_foundry.services.limit_windows import Window

STEPS = st.lists(st.tuples(st.floats(0, 40, allow_nan=False), st.integers(1, 4)), max_size=60)
START = 1000.0


@given(STEPS, st.integers(1, 10))
def test_no_sixty_seconds_ever_hold_more_than_the_window_says(steps: list[tuple[float, int]], limit: int) -> None:
    window, now = Window(), START
    taken: list[tuple[float, int]] = []
    for wait, amount in steps:
        now += wait
        if window.held(now) + amount <= limit:
            window.add(amount, now)
            taken.append((now, amount))
        assert sum(each for at, each in taken if at > now - 60) <= window.held(now) <= limit


@given(STEPS, st.integers(0, 10))
def test_there_is_room_after_the_wait_that_was_said_and_none_just_before(
    steps: list[tuple[float, int]], most: int
) -> None:
    window, now = Window(), START
    for wait, amount in steps:
        now += wait
        window.add(amount, now)
        wait_s = window.wait_s(most, now)
        assert 0 <= wait_s <= 61
        if window.held(now) <= most:
            assert wait_s == 0
            continue
        now += wait_s - 0.01
        assert window.held(now) > most
        now += 0.011
        assert window.held(now) <= most


def test_it_says_when_all_of_it_is_free_again() -> None:
    window = Window()
    assert window.room(5, START) == (5, 0)
    window.add(1, START)
    window.add(1, START + 10.5)
    assert window.room(5, START + 20) == (3, 51)
    assert window.room(1, START + 20) == (0, 51)
    assert window.held(START + 70.9) == 1
    assert window.held(START + 71) == 0
    assert window.room(5, START + 71) == (5, 0)
