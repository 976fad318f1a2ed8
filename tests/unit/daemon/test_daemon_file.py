from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_foundry.daemon.daemon_file import DaemonFile


def written(home: Path, **owner: object) -> bool:
    if owner:
        (home / "daemon.json").write_text(json.dumps(owner))
    return DaemonFile(home, "mine").write(url="http://127.0.0.1:1", pid=os.getpid(), version="1")


def test_a_new_file_says_where_the_service_is(tmp_path: Path):
    assert written(tmp_path)
    content = json.loads((tmp_path / "daemon.json").read_text())
    assert content["web_urls"] == ["http://127.0.0.1:1"]
    assert content["pid"] == os.getpid()
    assert content["product"] == "fastapi-foundry"
    assert content["instance_id"] == "mine"


def test_a_dead_or_nonsensical_owner_is_replaced(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, "x", True, -1, None, os.getpid()):
        assert written(tmp_path, pid=pid)
    (tmp_path / "daemon.json").write_text("{")
    assert written(tmp_path)


def test_a_zombie_is_dead(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    while child.poll() is None:
        pass
    assert written(tmp_path, pid=child.pid)
    child.stdout.close()


@pytest.mark.parametrize("started_at", [None, "2999-01-01T00:00:00Z"])
def test_a_living_owner_keeps_its_file(tmp_path: Path, started_at: str | None):
    assert not written(tmp_path, pid=os.getppid(), started_at=started_at)


def test_a_process_that_only_inherited_the_number_is_no_owner(tmp_path: Path):
    assert written(tmp_path, pid=os.getppid(), started_at="2001-01-01T00:00:00Z")


def test_an_owner_with_an_unreadable_time_counts_as_gone(tmp_path: Path):
    assert written(tmp_path, pid=os.getppid(), started_at="yesterday")


def test_only_its_own_file_is_removed(tmp_path: Path):
    own, other = DaemonFile(tmp_path, "mine"), DaemonFile(tmp_path, "other")
    written(tmp_path)
    other.remove()
    assert (tmp_path / "daemon.json").exists()
    own.remove()
    assert not (tmp_path / "daemon.json").exists()
    own.remove()
