from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from fastapi_foundry.engines.base import EngineState
from fastapi_foundry.engines.discovery import Discovery
from fastapi_foundry.engines.process import start_child
from fastapi_foundry.engines.restart_policy import RestartPolicy, StartBudget
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.errors import EngineUnavailableError
from tests.support import engine_double
from tests.support.engine_double import EngineDouble
from tests.support.waiting import eventually

QUICK = RestartPolicy(
    first_delay_s=0.02, max_delay_s=0.1, slow_delay_s=0.3, check_every_s=0.2, probe_timeout_s=0.2, silent_probes=2
)


class DoubleStarter:
    """Starts the double as a process; its arguments can be changed between starts."""

    def __init__(self, *arguments: str, timeout_s: float = 10.0) -> None:
        self.arguments = arguments
        self.timeout_s = timeout_s
        self.started = 0

    async def __call__(self):
        self.started += 1
        argv = [sys.executable, engine_double.__file__, "--supervised", *self.arguments]
        return await start_child(argv, env=dict(os.environ), timeout_s=self.timeout_s)


@pytest.fixture
async def supervise(client, tmp_path):
    made: list[Supervisor] = []

    def make(starter=None, *, base_url=None, ports=range(0), policy=QUICK) -> Supervisor:
        looking = Discovery(client, home=tmp_path, ports=ports, default_port=0, probe_timeout_s=0.3, path=str(tmp_path))
        supervisor = Supervisor(client, discovery=looking, starter=starter, base_url=base_url, policy=policy)
        supervisor.start()
        made.append(supervisor)
        return supervisor

    yield make
    for supervisor in made:
        await supervisor.aclose()


def processes_of_doubles() -> list[psutil.Process]:
    """Those of this test; the processes of shared fixtures are children of this one too."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if any("engine_double" in word for word in child.cmdline())]


async def test_service_is_started_where_none_is_found(supervise):
    supervisor = supervise(DoubleStarter())
    status = await supervisor.wait_ready(10)
    assert (status.state, status.supervised, status.found_by, status.restarts) == (
        EngineState.READY,
        True,
        "started",
        0,
    )
    assert psutil.pid_exists(status.pid)
    assert [step for step, _, _ in status.tried] == ["daemon_file", "cli", "scan"]
    await supervisor.aclose()
    assert supervisor.status.state is EngineState.ABSENT
    assert not psutil.pid_exists(status.pid)


async def test_running_service_is_taken_and_never_ended(supervise):
    async with EngineDouble() as double:
        starter = DoubleStarter()
        supervisor = supervise(starter, ports=range(double.port, double.port + 1))
        status = await supervisor.wait_ready(10)
        assert (status.url, status.supervised, status.found_by, starter.started) == (double.url, False, "scan", 0)
        await supervisor.aclose()
        await asyncio.open_connection("127.0.0.1", double.port)


async def test_killed_service_is_noticed_by_itself_and_replaced(supervise):
    supervisor = supervise(DoubleStarter())
    first = await supervisor.wait_ready(10)
    os.kill(first.pid, signal.SIGKILL)
    await eventually(lambda: supervisor.status.state is not EngineState.READY, timeout_s=1)
    second = await supervisor.wait_ready(10)
    assert (second.restarts, second.supervised) == (1, True)
    assert second.pid != first.pid


async def test_reported_loss_is_checked_before_anybody_goes_on(supervise):
    supervisor = supervise(DoubleStarter(), policy=RestartPolicy(check_every_s=100, first_delay_s=0.02))
    first = await supervisor.wait_ready(10)
    os.kill(first.pid, signal.SIGKILL)
    second = await supervisor.recheck(first.url, 10)
    assert second.pid != first.pid


async def test_false_alarm_leaves_the_engine_as_it_is(supervise):
    async with EngineDouble() as double:
        supervisor = supervise(base_url=double.url, policy=RestartPolicy(check_every_s=100))
        before = await supervisor.wait_ready(10)
        asked = len(double.seen)
        results = await asyncio.gather(*(supervisor.recheck(double.url, 5) for _ in range(50)))
        assert all(result is before for result in results)
        assert len(double.seen) - asked <= 6, "one or two probes serve all who report"


async def test_report_about_an_address_of_the_past_changes_nothing(supervise):
    async with EngineDouble() as double:
        supervisor = supervise(base_url=double.url, policy=RestartPolicy(check_every_s=100))
        await supervisor.wait_ready(10)
        asked = len(double.seen)
        status = await supervisor.recheck("http://127.0.0.1:1", 5)
        assert status.url == double.url
        assert len(double.seen) == asked


async def test_found_engine_that_moves_is_found_again(supervise, tmp_path):
    async with EngineDouble() as double:
        (tmp_path / "daemon.json").write_text(f'{{"web_urls": ["{double.url}"]}}')
        starter = DoubleStarter()
        supervisor = supervise(starter)
        first = await supervisor.wait_ready(10)
        await double.move()
        (tmp_path / "daemon.json").write_text(f'{{"web_urls": ["{double.url}"]}}')
        second = await supervisor.recheck(first.url, 10)
        assert (second.url, second.found_by, starter.started) == (double.url, "daemon_file", 0)


async def test_found_engine_that_vanishes_is_replaced_by_ours(supervise):
    async with EngineDouble() as double:
        supervisor = supervise(DoubleStarter(), ports=range(double.port, double.port + 1))
        await supervisor.wait_ready(10)
    await eventually(lambda: supervisor.status.supervised)
    status = await supervisor.wait_ready(10)
    assert (status.found_by, status.supervised) == ("started", True)


async def test_explicit_address_is_the_only_one(supervise):
    async with EngineDouble() as other:
        starter = DoubleStarter()
        supervisor = supervise(starter, base_url="http://127.0.0.1:1", ports=range(other.port, other.port + 1))
        with pytest.raises(EngineUnavailableError) as caught:
            await supervisor.wait_ready(5)
        assert caught.value.url == "http://127.0.0.1:1"
        assert "connection refused" in caught.value.message
        assert (starter.started, other.seen) == (0, [])


async def test_engine_that_is_silent_is_lost_and_its_return_is_noticed(supervise):
    async with EngineDouble() as double:
        supervisor = supervise(base_url=double.url)
        await supervisor.wait_ready(10)
        double.broken = "stall"
        await eventually(lambda: supervisor.status.state is EngineState.WEDGED)
        assert "does not answer" in supervisor.status.reason
        double.broken = ""
        await eventually(lambda: supervisor.status.state is EngineState.READY)


async def test_our_own_service_is_replaced_when_it_is_silent(supervise):
    supervisor = supervise(DoubleStarter())
    first = await supervisor.wait_ready(10)
    os.kill(first.pid, signal.SIGSTOP)
    await eventually(lambda: supervisor.status.pid not in {first.pid, None}, timeout_s=10)
    assert not psutil.pid_exists(first.pid)


async def test_service_that_does_not_start_is_tried_again_and_its_last_words_are_the_reason(supervise):
    starter = DoubleStarter("--exit-at-start")
    supervisor = supervise(starter)
    with pytest.raises(EngineUnavailableError, match="the double gives up"):
        await supervisor.wait_ready(30)
    assert starter.started >= QUICK.budget
    assert supervisor.status.state is not EngineState.READY
    starter.arguments = ()
    await eventually(lambda: supervisor.status.state is EngineState.READY)


async def test_crash_loop_slows_down_and_fails_fast(supervise):
    policy = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02, budget=3, slow_delay_s=30.0)
    starter = DoubleStarter("--die-after", "0.1")
    supervisor = supervise(starter, policy=policy)
    await eventually(lambda: supervisor._in_vain, timeout_s=20)
    assert starter.started == 3
    async with asyncio.timeout(1):
        with pytest.raises(EngineUnavailableError, match="ended with status 9"):
            await supervisor.wait_ready(30)


async def test_service_that_is_never_ready_is_given_up(supervise):
    starter = DoubleStarter("--never-ready", timeout_s=0.3)
    supervisor = supervise(starter)
    await eventually(lambda: "not ready within 0.3 s" in supervisor.status.reason)
    starter.arguments, starter.timeout_s = (), 10.0
    await supervisor.wait_ready(10)
    assert len(processes_of_doubles()) == 1


async def test_waiter_has_a_limit_of_its_own(supervise):
    supervisor = supervise(DoubleStarter())
    with pytest.raises(EngineUnavailableError, match=r"it is starting|not been looked for"):
        await supervisor.wait_ready(0.001)
    await supervisor.wait_ready(10)


async def test_close_while_it_starts_leaves_no_process(supervise):
    supervisor = supervise(DoubleStarter())
    await eventually(lambda: supervisor.status.state is EngineState.STARTING and processes_of_doubles())
    await supervisor.aclose()
    assert not processes_of_doubles()
    with pytest.raises(EngineUnavailableError, match="stopping"):
        await supervisor.wait_ready(5)


async def test_waiters_are_woken_when_the_gateway_stops(supervise):
    supervisor = supervise(DoubleStarter())
    waiter = asyncio.create_task(supervisor.wait_ready(30))
    await asyncio.sleep(0)
    await supervisor.aclose()
    with pytest.raises(EngineUnavailableError):
        await waiter


async def test_supervision_survives_what_nobody_foresaw(supervise, monkeypatch):
    async def stumble(self):
        raise ZeroDivisionError

    async with EngineDouble() as double:
        supervisor = supervise(base_url=double.url)
        await supervisor.wait_ready(10)
        with monkeypatch.context() as patch:
            patch.setattr(Supervisor, "_check", stumble)
            await eventually(lambda: supervisor.status.reason == "supervision stumbled")
        await eventually(lambda: supervisor.status.state is EngineState.READY)


def test_pauses_double_up_to_their_limit():
    policy = RestartPolicy(first_delay_s=0.5, max_delay_s=3)
    assert [policy.pause_after(failures) for failures in (1, 2, 3, 4, 1000)] == [0.5, 1, 2, 3, 3]


def test_budget_pauses_longer_and_longer_and_forgets():
    now = 0.0
    budget = StartBudget(RestartPolicy(first_delay_s=1, budget=4, window_s=10, slow_delay_s=99), lambda: now)
    pauses = []
    for _ in range(6):
        pauses.append(budget.pause_s)
        budget.note_start()
    assert pauses == [0, 0, 1, 2, 99, 99]
    assert budget.is_spent
    now = 10.0
    assert (budget.pause_s, budget.is_spent, budget.total) == (0, False, 6)
