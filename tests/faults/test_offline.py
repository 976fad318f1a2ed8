"""With FOUNDRY_OFFLINE=1 no process of the product tries to reach anything beyond the machine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.http import call
from tests.support.processes import children_of, product_environment
from tests.support.tools import require_tool
from tests.support.waiting import eventually_sync

_INET = re.compile(r"sin_addr=inet_addr\(\"([0-9.]+)\"\)|inet_pton\(AF_INET6, \"([0-9a-f:.]+)\"")
_LOOPBACK = re.compile(r"^(127\.|::1$|::ffff:127\.|0\.0\.0\.0$|::$)")


def _foreign_addresses(trace: str) -> set[str]:
    """Every internet address in ``trace`` that some process connected or sent to, loopback aside."""
    found = set()
    for line in trace.splitlines():
        if not re.search(r"\b(connect|sendto|sendmsg|sendmmsg)\(", line):
            continue
        for match in _INET.finditer(line):
            address = match.group(1) or match.group(2)
            if not _LOOPBACK.match(address):
                found.add(address)
    return found


def test_the_trace_reader_sees_a_foreign_address() -> None:
    trace = '12 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.7")}, 16) = -1\n'
    assert _foreign_addresses(trace) == {"192.0.2.7"}
    assert _foreign_addresses(trace.replace("192.0.2.7", "127.0.0.1")) == set()


@pytest.mark.strace
def test_gateway_service_and_runner_dial_nobody_when_offline(tmp_path: Path) -> None:
    require_tool("strace")
    home = tmp_path / "home"
    home.mkdir()
    trace_file = tmp_path / "trace.txt"
    command = ["strace", "-f", "-qq", "-s", "200", "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve"]
    command += ["-o", str(trace_file), sys.executable, "-m", "fastapi_foundry", "serve", "--json"]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        traced = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=product_environment(home))
    try:
        assert traced.stdout is not None
        ready = traced.stdout.readline()
        url = re.search(rb'"url": ?"([^"]+)"', ready)
        assert url is not None, ready
        base = url.group(1).decode()
        body = {"model": "foundry-demo:1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        assert call("POST", f"{base}/v1/chat/completions", body).status == 200
        assert call("POST", f"{base}/v1/chat/completions", body | {"model": "phi-4-mini"}).status == 404
        assert call("GET", f"{base}/v1/models").status == 200
        time.sleep(2.0)  # the engine's own background work gets time to dial, were it able to
        gateway = next(iter(children_of(traced.pid)))
        gateway.send_signal(signal.SIGTERM)
        traced.wait(20)
    finally:
        for child in children_of(traced.pid):
            child.kill()
        traced.kill()
        traced.wait(5)
        if traced.stdout is not None:
            traced.stdout.close()
    eventually_sync(lambda: trace_file.stat().st_size > 0)
    trace = trace_file.read_text(errors="replace")
    # The watch is worth something only if all three processes were under it and loopback was seen.
    assert "fastapi_foundry.daemon.runner" in trace
    assert trace.count("fastapi_foundry.daemon") > trace.count("fastapi_foundry.daemon.runner")
    assert 'inet_addr("127.0.0.1")' in trace
    assert _foreign_addresses(trace) == set()
