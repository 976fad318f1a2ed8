from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
import time

import psutil
import pytest

from fastapi_foundry.engines.process import ChildStartError, bind_first_free, start_child
from fastapi_foundry.errors import PortUnavailableError
from tests.support.waiting import eventually

READY = 'print(\'{"event": "ready", "url": "http://x"}\', flush=True)\n'
UNTIL_EOF = "import sys; sys.stdin.read()\n"


async def child_of(program: str, *, timeout_s: float = 10.0, on_stderr=None):
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    return await start_child(argv, env=dict(os.environ), timeout_s=timeout_s, on_stderr=on_stderr)


def free_ports(count: int) -> list[int]:
    """A run of free neighbours, as far as can be known without keeping them."""
    for base in range(21000, 30000, 50):
        sockets = []
        try:
            sockets.extend(socket.create_server(("127.0.0.1", port)) for port in range(base, base + count))
        except OSError:
            continue
        else:
            return list(range(base, base + count))
        finally:
            for sock in sockets:
                sock.close()
    raise AssertionError("no run of free ports")


def test_wanted_port_is_taken_when_it_is_free():
    wanted, first, last = free_ports(3)
    with bind_first_free("127.0.0.1", wanted, first, last) as sock:
        assert sock.getsockname() == ("127.0.0.1", wanted)
        with socket.create_connection(sock.getsockname(), 1):
            pass


def test_next_free_port_of_the_range_is_taken():
    wanted, taken, free = free_ports(3)
    with (
        bind_first_free("127.0.0.1", wanted, taken, free),
        bind_first_free("127.0.0.1", taken, 1, 0),
        bind_first_free("127.0.0.1", wanted, taken, free) as third,
    ):
        assert third.getsockname()[1] == free


def test_two_who_want_the_same_port_never_share_it():
    (port,) = free_ports(1)
    with bind_first_free("127.0.0.1", port, 1, 0), pytest.raises(PortUnavailableError, match="is not free"):
        bind_first_free("127.0.0.1", port, 1, 0)


def test_full_range_is_named():
    first, last = free_ports(2)
    with bind_first_free("127.0.0.1", first, 1, 0), bind_first_free("127.0.0.1", last, 1, 0):
        with pytest.raises(PortUnavailableError) as caught:
            bind_first_free("127.0.0.1", first, first, last)
        assert f"from {first} to {last}" in caught.value.message


def test_port_zero_is_left_to_the_system():
    with bind_first_free("127.0.0.1", 0, 1, 0) as sock:
        assert sock.getsockname()[1] > 0


def test_host_that_is_not_of_this_machine_is_said_at_once():
    with pytest.raises(PortUnavailableError, match=r"192\.0\.2\.1"):
        bind_first_free("192.0.2.1", 21000, 21000, 29000)


def test_port_with_connections_in_time_wait_can_be_taken_again():
    (port,) = free_ports(1)
    with bind_first_free("127.0.0.1", port, 1, 0) as sock:
        sock.setblocking(True)
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = sock.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            client.recv(1)
    bind_first_free("127.0.0.1", port, 1, 0).close()


async def test_ready_child_has_said_so_and_ends_with_its_lifeline():
    child = await child_of(READY + UNTIL_EOF)
    assert child.ready["url"] == "http://x"
    assert child.returncode is None
    began = time.monotonic()
    assert await child.stop() == 0
    assert time.monotonic() - began < 2


async def test_chatter_before_the_ready_line_is_passed_over():
    child = await child_of("print('loading native things', flush=True)\nprint('[1]', flush=True)\n" + READY + UNTIL_EOF)
    assert child.ready["event"] == "ready"
    await child.stop()


async def test_child_that_talks_on_is_not_blocked():
    child = await child_of(
        READY
        + "import sys\nfor _ in range(1000): print('x' * 1000)\nfor _ in range(100): print('y' * 9000, file=sys.stderr)\n"
    )
    async with asyncio.timeout(10):
        assert await child.wait() == 0
    await child.stop()
    assert child.last_words.startswith("y")


async def test_failure_that_the_child_reports_is_the_reason():
    with pytest.raises(ChildStartError, match=r"^no port is free$"):
        await child_of('print(\'{"event": "failed", "error": "no port is free"}\', flush=True)\n' + UNTIL_EOF)


async def test_child_that_ends_early_leaves_its_last_words():
    with pytest.raises(ChildStartError, match=r"status 1 before it was ready: ImportError: no such thing"):
        await child_of("raise ImportError('no such thing')")


async def test_child_that_is_never_ready_is_killed():
    lines: list[str] = []
    program = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    with pytest.raises(ChildStartError, match=r"not ready within 0\.5 s"):
        await child_of(program, timeout_s=0.5, on_stderr=lines.append)
    assert lines
    assert not psutil.pid_exists(int(lines[0]))


@pytest.mark.parametrize(
    "program", ["while True: print('x' * 1000)", "print('x' * 1000000)\nimport time; time.sleep(60)"]
)
async def test_child_that_only_chatters_is_killed(program):
    with pytest.raises(ChildStartError, match="something else than a ready line"):
        await child_of(program)


async def test_program_that_does_not_exist_is_a_failed_start():
    with pytest.raises(ChildStartError, match="cannot be started"):
        await start_child(["/no/such/program"], env={}, timeout_s=1)


async def test_cancelled_start_leaves_no_process():
    lines: list[str] = []
    program = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    task = asyncio.create_task(child_of(program, on_stderr=lines.append))
    await eventually(lambda: lines)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(int(lines[0]))


async def test_child_that_ignores_its_lifeline_gets_a_signal():
    child = await child_of(READY + "import time; time.sleep(60)")
    assert await child.stop(polite_s=0.4) == -signal.SIGTERM


async def test_child_that_ignores_everything_is_killed():
    child = await child_of(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "import time; time.sleep(60)"
    )
    assert await child.stop(polite_s=0.4) == -signal.SIGKILL
    assert await child.stop(polite_s=0.4) == -signal.SIGKILL


async def test_stop_of_a_child_that_has_ended_returns_its_status():
    child = await child_of(READY + "raise SystemExit(7)")
    assert await child.wait() == 7
    assert await child.stop() == 7


async def test_stop_is_not_held_up_by_a_grandchild_with_the_same_pipes():
    child = await child_of(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'])\n" + READY + UNTIL_EOF
    )
    async with asyncio.timeout(2.5):
        await child.stop()


async def test_child_dies_with_its_parent_even_by_kill_9(tmp_path):
    inner = READY.replace("print(", "import os; print(os.getpid(), file=__import__('sys').stderr, flush=True); print(")
    parent = f"""
        import asyncio, os, sys
        from fastapi_foundry.engines.process import start_child
        async def main():
            child = await start_child([sys.executable, "-c", {inner + UNTIL_EOF!r}], env=dict(os.environ), timeout_s=10)
            print('{{"event": "ready", "child": %d}}' % child.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    process = await child_of(parent)
    grandchild = psutil.Process(process.ready["child"])
    assert grandchild.is_running()
    await process.kill()
    await eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_last_words_tell_no_paths():
    with pytest.raises(ChildStartError, match=r": OSError: 'config.json' of x.so at http://h:1/a: 1/2 broken$"):
        await child_of("""raise OSError("'/home/me/config.json' of C:\\\\lib\\\\x.so at http://h:1/a: 1/2 broken")""")
