"""The first start where a key is needed: shown once to a person, refused where nobody would see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.processes import gateway_process, product_environment
from tests.support.waiting import eventually_sync

pty = pytest.importorskip("pty")

ALWAYS = {"FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY": "always", "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never"}
QUIET = ALWAYS | {"FASTAPI_FOUNDRY__FOUNDRY_AI__DISCOVERY": "false"}


class Screen:
    """What a person at the terminal sees."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, pattern: str) -> str:
        """Wait until it shows ``pattern``; what of it the first group is."""

        def found() -> str | None:
            with suppress(OSError, BlockingIOError):
                self.text += os.read(self._descriptor, 65536).decode("utf-8", "replace")
            match = re.search(pattern, self.text)
            return match[1] if match else None

        return eventually_sync(found, timeout_s=20)


@contextmanager
def at_a_terminal(home: Path, env: dict[str, str]) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    command = [sys.executable, "-m", "fastapi_foundry", "serve", "--port", "0"]
    popen = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=product_environment(home, env))
    os.close(theirs)
    try:
        yield Screen(ours)
    finally:
        popen.terminate()
        popen.wait(20)
        os.close(ours)


def test_the_first_key_is_shown_once_at_a_terminal_and_opens_everything(tmp_path: Path) -> None:
    with at_a_terminal(tmp_path, QUIET) as screen:
        key = screen.until(r"(ffk_\w{38})")
        url = screen.until(r"Open\s+(http://\S+)")
        assert "never shown again" in screen.text
        assert ask(url, "/api/v1/keys").status == 401
        keys = ask(url, "/api/v1/keys", headers={"Authorization": f"Bearer {key}"}).json["keys"]
        assert [(each["name"], each["scopes"], each["created_by"]) for each in keys] == [
            ("first admin key", ["admin"], "start")
        ]
    with at_a_terminal(tmp_path, QUIET) as screen:
        url = screen.until(r"Open\s+(http://\S+)")
        assert "ffk_" not in screen.text
        assert ask(url, "/v1/nothing", headers={"x-api-key": key}).status == 404
    logged = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "log" in file.name)
    assert b"key created" in logged
    assert key.encode() not in logged
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]


def test_without_a_terminal_the_start_is_refused_until_somebody_has_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastapi_foundry", "serve", "--port", "0"]
    env = product_environment(tmp_path, QUIET)
    refused = subprocess.run(command, capture_output=True, env=env, timeout=60, text=True, check=False)
    assert refused.returncode == 2
    assert "keys create" in refused.stderr
    assert "ffk_" not in refused.stdout + refused.stderr
    make = [sys.executable, "-m", "fastapi_foundry", "keys", "create", "boss", "--admin"]
    key = subprocess.run(make, capture_output=True, env=env, timeout=60, text=True, check=True).stdout.strip()
    with gateway_process(tmp_path, arguments=["--port", "0"], env=QUIET) as gateway:
        assert ask(gateway.url, "/v1/nothing", headers={"x-api-key": key}).status == 404
        assert ask(gateway.url, "/v1/nothing").status == 401


def test_a_key_from_a_file_is_enough(tmp_path: Path) -> None:
    own = "made by whoever set this machine up"
    (tmp_path / "secret").write_text(own + "\n")
    env = QUIET | {"FOUNDRY_ADMIN_KEY_FILE": str(tmp_path / "secret")}
    with gateway_process(tmp_path / "home", arguments=["--port", "0"], env=env) as gateway:
        assert ask(gateway.url, "/api/v1/keys", headers={"Authorization": f"Bearer {own}"}).status == 200
        assert ask(gateway.url, "/api/v1/keys", headers={"Authorization": f"Bearer {own}x"}).status == 401
