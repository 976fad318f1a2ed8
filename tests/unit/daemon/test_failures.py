from __future__ import annotations

import pytest

from fastapi_foundry.daemon.failures import DEATH_WINDOW_S, MAX_COOL_DOWN_S, Failures
from fastapi_foundry.errors import ModelUnavailableError


def test_three_failures_within_the_window_put_a_model_aside():
    failures = Failures()
    assert [failures.note_death(now, "boom") for now in (0.0, 1.0, DEATH_WINDOW_S)] == [False, False, True]
    assert "boom" in failures.put_aside
    with pytest.raises(ModelUnavailableError) as caught:
        failures.check("m:1", 10.0)
    assert caught.value.code == "model_put_aside"
    failures.forgive()
    failures.check("m:1", 10.0)


def test_old_failures_do_not_count():
    failures = Failures()
    assert not any(failures.note_death(now, "boom") for now in (0.0, 1.0, DEATH_WINDOW_S + 0.1))
    assert not failures.put_aside


def test_each_failed_load_doubles_the_wait_up_to_a_minute():
    failures, now, waits = Failures(), 0.0, []
    for _ in range(9):
        failures.note_failed_load(now, "no")
        waits.append(failures.cool_down_s(now))
        now += DEATH_WINDOW_S
    assert waits == [1, 2, 4, 8, 16, 32, MAX_COOL_DOWN_S, MAX_COOL_DOWN_S, MAX_COOL_DOWN_S]


def test_a_load_within_the_cool_down_is_refused_with_the_reason_and_the_time():
    failures = Failures()
    failures.note_failed_load(10.0, "the disk is on fire.")
    with pytest.raises(ModelUnavailableError, match="the disk is on fire") as caught:
        failures.check("m:1", 10.5)
    assert caught.value.retry_after_s == 0.5
    assert ".." not in caught.value.message
    failures.check("m:1", 11.0)
    failures.note_failed_load(11.0, "again")
    failures.note_loaded()
    failures.check("m:1", 11.0)
