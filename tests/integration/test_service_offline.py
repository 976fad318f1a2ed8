"""Nothing leaves the machine: every connection attempt of the service and its runners, watched by strace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.http import ask, chat_body
from tests.support.trace import foreign_dials, traced_process

CHAT = "/v1/chat/completions"
SERVICE = ["fastapi_foundry.daemon", "--port", "0"]

pytestmark = pytest.mark.strace


def runner_sockets(trace: Path, service_pid: int) -> list[str]:
    """Every internet socket that was asked for outside the service's own thread."""
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if "socket(AF_INET" in line and line.split()[0] != str(service_pid)]


def test_offline_the_service_and_its_runners_dial_nothing_but_loopback(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    with traced_process(SERVICE, tmp_path / "home", trace, {"FOUNDRY_OFFLINE": "1"}) as (url, pid):
        assert ask(url, CHAT, chat_body(max_tokens=5), timeout_s=60).status == 200
        assert ask(url, "/models/catalog?refresh=1").json["status"] == "offline"
        assert ask(url, "/models/download", {"model": "phi-4-mini"}).status == 503
        assert ask(url, CHAT, chat_body() | {"model": "unknown"}).status == 404
        (runner,) = ask(url, "/status").json["runners"]
        assert runner["network"] == "denied"
        # The engine's own attempt comes about a second after its start; two sockets are the guard's trial.
        deadline = time.monotonic() + 3
        while len(runner_sockets(trace, pid)) <= 2 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert foreign_dials(trace.read_text(errors="replace")) == []
    # The guard tries what it forbids, so there is something to see; the engine's own attempts follow.
    asked = runner_sockets(trace, pid)
    assert asked
    assert [line for line in asked if "EACCES" not in line] == []


def test_online_too_a_runner_that_generates_cannot_dial(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    with traced_process(SERVICE, tmp_path / "home", trace, {"FOUNDRY_OFFLINE": "0"}) as (url, pid):
        assert ask(url, CHAT, chat_body(max_tokens=5), timeout_s=60).status == 200
        (runner,) = ask(url, "/status").json["runners"]
        assert runner["network"] == "denied"
    assert foreign_dials(trace.read_text(errors="replace")) == []
    assert [line for line in runner_sockets(trace, pid) if "EACCES" not in line] == []
