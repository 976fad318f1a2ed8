"""When a body is too slow."""

from __future__ import annotations

from fastapi_foundry.server.pace import BodyPace
from fastapi_foundry.settings import HttpLimitsSettings

LIMITS = HttpLimitsSettings(body_idle_timeout_s=30.0, min_body_bytes_per_s=100, body_pace_window_s=10.0)


def complaints(*arrivals: tuple[float, int], limits: HttpLimitsSettings = LIMITS) -> list[float]:
    """When there is a complaint, looking once a second; ``arrivals`` are times and bytes that arrive then."""
    pace = BodyPace(limits, 0.0, 0)
    seconds = range(1, int(arrivals[-1][0]) + 2)
    received = {second: sum(count for when, count in arrivals if when <= second) for second in seconds}
    return [second for second in seconds if pace.complaint(float(second), received[second])]


def test_a_pause_shorter_than_the_limit_is_allowed_wherever_it_falls() -> None:
    assert complaints((1, 5000), (30, 5000), (59, 5000)) == []


def test_silence_for_as_long_as_the_limit_is_not() -> None:
    assert complaints((1, 5000), (32, 0))[:1] == [31]


def test_few_bytes_now_and_then_are_a_trickle_even_where_they_break_the_silence() -> None:
    assert complaints((25, 1), (35, 0))[:1] == [30]


def test_a_window_counts_what_arrived_within_it() -> None:
    assert complaints(*((second, 100) for second in range(1, 62))) == []
    assert complaints((1, 100_000), *((second, 99) for second in range(11, 60)))[:1] == [20]


def test_no_pace_is_asked_for_where_it_is_0() -> None:
    lazy = HttpLimitsSettings(body_idle_timeout_s=30.0, min_body_bytes_per_s=0, body_pace_window_s=10.0)
    assert complaints(*((second, 1) for second in range(1, 120, 20)), limits=lazy) == []
