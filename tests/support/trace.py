"""The product's processes under strace: which addresses they dial, whatever comes of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.processes import children_of, product_environment
from tests.support.tools import require_tool

__all__ = ["foreign_dials", "traced_process"]

_CALLS = "trace=connect,socket,sendto,sendmsg,sendmmsg,io_uring_setup,execve"
_PEER = re.compile(r"sa_family=AF_INET6?\b.*?(?:inet_addr\(\"([^\"]+)\"\)|inet_pton\(AF_INET6, \"([^\"]+)\")")
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")


@contextmanager
def traced_process(
    arguments: Sequence[str], home: Path, trace_file: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """``python -m`` with ``arguments`` under strace, children included; its url and pid by its ready line.

    Leaving the block ends the process in order, after which ``trace_file`` is complete.
    """
    strace = require_tool("strace")
    home.mkdir(parents=True, exist_ok=True)
    command = [strace, "-f", "-qq", "-s", "200", "-e", _CALLS, "-o", str(trace_file), sys.executable, "-m", *arguments]
    with trace_file.with_suffix(".stderr").open("wb") as stderr:
        popen = subprocess.Popen(command, env=product_environment(home, env), stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        yield ready["url"], ready["pid"]
        psutil.Process(ready["pid"]).send_signal(signal.SIGTERM)
        popen.wait(20)
    finally:
        for child in children_of(popen.pid):
            child.kill()
        popen.kill()
        popen.wait(5)
        if popen.stdout is not None:
            popen.stdout.close()


def foreign_dials(trace: str) -> list[str]:
    """Every line in which an internet address outside loopback is dialled or sent to."""
    lines = []
    for line in trace.splitlines():
        peers = [four or six for four, six in _PEER.findall(line)]
        if not all(_LOOPBACK.match(peer) for peer in peers):
            lines.append(line)
    return lines
