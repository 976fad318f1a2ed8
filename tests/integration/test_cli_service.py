"""``fastapi-foundry service`` with a real service behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cli import cli_in_a_pipe, cli_on_a_terminal, end_service_of
from tests.support.processes import gateway_process, product_environment, service_process
from tests.support.waiting import eventually_sync


@pytest.fixture
def home(foundry_home: Path) -> Iterator[Path]:
    yield foundry_home
    end_service_of(foundry_home)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_service_is_started_once_seen_restarted_and_stopped(home):
    started = cli_in_a_pipe(home, "service", "start", "--json").json
    assert started["status"] == "started"
    assert alive(started["pid"])

    again = cli_in_a_pipe(home, "service", "start", "--json")
    assert (again.code, again.json) == (0, {**started, "status": "already_running"})

    seen = cli_in_a_pipe(home, "service", "status", "--json").json
    assert seen["running"] is True
    assert seen["pid"] == started["pid"]
    words = cli_in_a_pipe(home, "service", "status").out
    for word in (started["url"], str(started["pid"]), "Version", "Memory", "No model is loaded."):
        assert word in words

    restarted = cli_in_a_pipe(home, "service", "restart", "--json").json
    assert restarted["status"] == "restarted"
    assert restarted["pid"] != started["pid"]
    assert not alive(started["pid"])

    stopped = cli_in_a_pipe(home, "service", "stop", "--json").json
    assert stopped["status"] == "stopped"
    assert not alive(restarted["pid"])
    assert not (home / "daemon.json").exists()
    assert cli_in_a_pipe(home, "service", "status").code == 3


def test_starters_at_the_same_time_get_one_service(home):
    command = [sys.executable, "-m", "fastapi_foundry", "service", "start", "--json"]
    env = product_environment(home)
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _ in range(4)]
    said = [json.loads(starter.communicate(timeout=60)[0]) for starter in starters]
    assert len({answer["pid"] for answer in said}) == 1
    assert sorted(answer["status"] for answer in said) == ["already_running"] * 3 + ["started"]


def test_a_started_service_outlives_a_hangup_of_its_starter(home):
    with cli_on_a_terminal(home, "service", "start") as terminal:
        terminal.until("The Foundry service runs at")
        assert terminal.ended() == 0
    pid = json.loads((home / "daemon.json").read_bytes())["pid"]
    assert os.getsid(pid) != os.getsid(0)
    assert alive(pid)


def test_a_service_that_cannot_start_says_why(home):
    (home / "config.json").write_text('{"foundry_service": {"prot": 1}}')
    outcome = cli_in_a_pipe(home, "service", "start")
    assert outcome.code == 2
    assert "foundry_service.prot" in outcome.err

    (home / "config.json").unlink()
    (home / "logs").mkdir()
    (home / "logs" / "foundry-service.log").mkdir()
    outcome = cli_in_a_pipe(home, "service", "start")
    assert outcome.code == 3
    assert "did not start" in outcome.err
    assert "Traceback" not in outcome.err


def test_stop_ends_a_service_that_a_gateway_supervises_only_by_asking(home):
    with gateway_process(home, arguments=["--port", "0"]) as gateway:
        eventually_sync(lambda: cli_in_a_pipe(home, "service", "status").code == 0, timeout_s=20)
        before = cli_in_a_pipe(home, "service", "status", "--json").json["pid"]
        assert cli_in_a_pipe(home, "service", "stop", "--json").json["pid"] == before
        assert gateway.popen.poll() is None
        # The gateway needs one, so it starts another.
        eventually_sync(lambda: cli_in_a_pipe(home, "service", "status").code == 0, timeout_s=20)


def test_run_stays_in_the_foreground_until_it_is_told_to_end(home):
    with cli_on_a_terminal(home, "service", "run") as terminal:
        terminal.until(r"runs at http://127\.0\.0\.1:\d+ \(process \d+\)")
        pid = json.loads((home / "daemon.json").read_bytes())["pid"]
        assert cli_in_a_pipe(home, "service", "run").out.startswith("The Foundry service is already running")
        terminal.type("\x03")
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.screen
    assert not alive(pid)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_run_leaves_no_service_behind(home, ending):
    command = [sys.executable, "-m", "fastapi_foundry", "service", "run", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=product_environment(home)) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        process.send_signal(ending)
        process.wait(20)
    eventually_sync(lambda: not alive(ready["pid"]), timeout_s=10)


def test_logs_show_the_last_lines_and_follow_new_ones(home):
    with service_process(home):
        plain = cli_in_a_pipe(home, "service", "logs", "-n", "3")
        assert plain.code == 0
        assert 1 <= len(plain.out.splitlines()) <= 3
        records = [json.loads(line) for line in cli_in_a_pipe(home, "service", "logs", "--json").out.splitlines()]
        assert any(record["message"] == "service started" for record in records)
        with cli_on_a_terminal(home, "service", "logs", "-f", "-n", "0") as terminal:
            cli_in_a_pipe(home, "model", "load", "foundry-demo")
            terminal.until("operation=load")
            terminal.type("\x03")
            assert terminal.ended() == 130
            assert "Traceback" not in terminal.screen


def test_logs_without_a_log_say_so(home):
    outcome = cli_in_a_pipe(home, "service", "logs")
    assert outcome.code == 2
    assert "no log yet" in outcome.err
