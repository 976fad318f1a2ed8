from __future__ import annotations

import pytest

from fastapi_foundry.engines.breaker import Breaker, BreakerPolicy, BreakerState
from fastapi_foundry.errors import (
    EngineFailedError,
    InvalidInputError,
    ModelLoadingError,
    ModelOutputError,
    QueueFullError,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(BreakerPolicy(failures=2, first_pause_s=5, longest_pause_s=15), clock=clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.begin()
        breaker.failed(EngineFailedError("broke"))


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(breaker: Breaker) -> None:
    fail(breaker)
    breaker.succeeded()
    fail(breaker)
    assert breaker.allows()
    fail(breaker)
    assert (breaker.state, breaker.allows(), breaker.retry_after_s) == (BreakerState.OPEN, False, 5)


def test_after_the_pause_one_request_is_on_trial(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    clock.now += 5
    assert breaker.allows()
    breaker.begin()
    assert (breaker.state, breaker.allows()) == (BreakerState.HALF_OPEN, False)
    breaker.succeeded()
    assert (breaker.state, breaker.allows()) == (BreakerState.CLOSED, True)


def test_a_failed_trial_doubles_the_pause_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    for pause in (10, 15, 15):
        clock.now += breaker.retry_after_s
        fail(breaker)
        assert (breaker.state, breaker.retry_after_s) == (BreakerState.OPEN, pause)


def test_what_a_model_says_wrong_is_not_the_engines_failure(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.begin()
        breaker.failed(ModelOutputError("The model's tool call makes no sense."))
    assert breaker.state is BreakerState.CLOSED


def test_a_trial_that_its_client_gave_up_leaves_room_for_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    clock.now += 5
    breaker.begin()
    breaker.abandoned()
    assert breaker.allows()


@pytest.mark.parametrize("fact", [InvalidInputError("wrong"), ModelLoadingError("soon", retry_after_s=0)])
def test_what_is_no_failure_of_the_engine_never_opens_it(breaker: Breaker, fact: Exception) -> None:
    for _ in range(5):
        breaker.begin()
        breaker.failed(fact)
    assert (breaker.state, breaker.allows()) == (BreakerState.CLOSED, True)


def test_retry_after_is_honoured_and_bounded(breaker: Breaker, clock: Clock) -> None:
    breaker.failed(QueueFullError("full", retry_after_s=3))
    assert (breaker.state, breaker.allows(), breaker.retry_after_s) == (BreakerState.CLOSED, False, 3)
    clock.now += 3
    assert breaker.allows()
    breaker.failed(ModelLoadingError("soon", retry_after_s=100_000))
    assert breaker.retry_after_s == 15
