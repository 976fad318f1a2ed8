"""Nothing leaves the machine: every connection attempt of the service and its runners, watched by strace."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.processes import children_of, product_environment
from tests.support.service_http import ask, chat_body

CHAT = "/v1/chat/completions"
TRACED = "trace=connect,socket,sendto,sendmsg,sendmmsg,io_uring_setup"
_PEER = re.compile(r"sa_family=(AF_INET6?)\b.*?(?:inet_addr\(\"([^\"]+)\"\)|inet_pton\(AF_INET6, \"([^\"]+)\")")

pytestmark = [
    pytest.mark.strace,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("strace") is None, reason="needs strace"),
]


@contextmanager
def traced_service(home: Path, trace: Path, env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """The service under strace, children included; its url and pid."""
    home.mkdir(parents=True, exist_ok=True)
    command = ["strace", "-f", "-e", TRACED, "-o", str(trace)]
    command += [sys.executable, "-m", "fastapi_foundry.daemon", "--port", "0"]
    popen = subprocess.Popen(
        command, env=product_environment(home, env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        yield ready["url"], ready["pid"]
        service = psutil.Process(ready["pid"])
        service.send_signal(signal.SIGTERM)
        popen.wait(15)
    finally:
        for child in children_of(popen.pid):
            child.kill()
        popen.kill()
        popen.wait(5)
        if popen.stdout is not None:
            popen.stdout.close()


def foreign_peers(trace: Path) -> list[str]:
    """Every line in which an internet address outside loopback is dialled or sent to, whatever came of it."""
    lines = []
    for line in trace.read_text(errors="replace").splitlines():
        for _, four, six in _PEER.findall(line):
            if not (four.startswith("127.") or six == "::1"):
                lines.append(line)
    return lines


def runner_sockets(trace: Path, service_pid: int) -> list[str]:
    """Every internet socket that was asked for outside the service's own thread."""
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if "socket(AF_INET" in line and line.split()[0] != str(service_pid)]


def test_offline_the_service_and_its_runners_dial_nothing_but_loopback(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    with traced_service(tmp_path / "home", trace, {"FOUNDRY_OFFLINE": "1"}) as (url, pid):
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
    assert foreign_peers(trace) == []
    # The guard tries what it forbids, so there is something to see; the engine's own attempts follow.
    asked = runner_sockets(trace, pid)
    assert asked
    assert [line for line in asked if "EACCES" not in line] == []


def test_online_too_a_runner_that_generates_cannot_dial(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    with traced_service(tmp_path / "home", trace, {"FOUNDRY_OFFLINE": "0"}) as (url, pid):
        assert ask(url, CHAT, chat_body(max_tokens=5), timeout_s=60).status == 200
        (runner,) = ask(url, "/status").json["runners"]
        assert runner["network"] == "denied"
    assert foreign_peers(trace) == []
    assert [line for line in runner_sockets(trace, pid) if "EACCES" not in line] == []
