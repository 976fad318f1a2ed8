from __future__ import annotations

import subprocess
import sys

import pytest

from fastapi_foundry.daemon.offline_guard import network_is_denied

SCRIPT = """
import errno, os, socket, subprocess, sys, threading
from fastapi_foundry.daemon.offline_guard import deny_network
print(deny_network())
def refused(family):
    try:
        socket.socket(family).close()
    except PermissionError as error:
        return error.errno == errno.EACCES
    return False
print(all(refused(family) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)))
seen = []
thread = threading.Thread(target=lambda: seen.append(refused(socket.AF_INET)))
thread.start(); thread.join()
print(seen == [True])
child = "import socket\\ntry: socket.socket()\\nexcept PermissionError: print(True)"
subprocess.run([sys.executable, "-c", child], check=True)
left, right = os.pipe()
os.write(right, b"x")
print(os.read(left, 1) == b"x")
print(os.environ["HTTPS_PROXY"] == os.environ["https_proxy"] == "http://127.0.0.1:9")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_no_socket_can_be_made_by_the_process_its_threads_or_its_children():
    done = subprocess.run([sys.executable, "-u", "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.split() == ["denied", *["True"] * 5]


def test_this_process_may_still_make_sockets():
    assert not network_is_denied()
