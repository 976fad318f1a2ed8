"""run.py makes the environment, completes it, repairs it, and says what is missing."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.support.waiting import eventually_sync


def change_lock(project) -> None:
    (project.root / "requirements" / "runtime.txt").write_text(f"# {time.monotonic_ns()}\n")


def test_the_first_run_sets_up_and_starts_everything(first_run, report):
    project, result = first_run
    assert report(result)["argv"] == ["serve"]
    assert Path(report(result)["prefix"]) == project.root / ".venv"
    assert "Making .venv" in result.stderr
    assert "Ready." in result.stderr


def test_a_later_run_only_starts(ready, report, tmp_path):
    result = ready.run("model", "list", "--json", cwd=tmp_path)
    assert report(result)["argv"] == ["model", "list", "--json"]
    assert result.stderr == ""


def test_an_interrupted_set_up_is_completed_by_the_next_run(ready, report):
    change_lock(ready)
    (ready.root / "wait").touch()
    process = ready.start("x")
    eventually_sync((ready.root / "waiting").exists, timeout_s=60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (ready.root / "wait").unlink()
    (ready.root / "waiting").unlink()
    # The signal can hit pip between any two files; this is what it leaves behind then.
    (packages,) = (ready.root / ".venv").glob("lib/python*/site-packages")
    record = packages / "fastapi_foundry-0.0.dist-info" / "RECORD"
    record.unlink(missing_ok=True)
    (packages / "~astapi_foundry-0.0.dist-info").mkdir()
    (packages / "stub.pth").unlink(missing_ok=True)
    result = ready.run("x")
    assert "did not finish" in result.stderr
    assert "Making .venv" not in result.stderr
    assert record.exists()
    assert not list(packages.glob("~*"))
    assert report(result)["argv"] == ["x"]
    assert ready.run("x").stderr == ""


def test_an_environment_whose_making_was_interrupted_is_made_again(ready, modules):
    said = []
    environment = modules("environment").Environment(ready.root, said.append)
    progress = ready.root / ".venv" / ".fastapi-foundry-setup-in-progress"
    for state, usable in (("creating", False), ("", False), ("installing", True)):
        progress.write_text(state)
        assert not environment.is_ready("runtime")
        assert environment._is_usable() == usable
    progress.unlink()


def test_ctrl_c_during_the_set_up_ends_it_with_one_line(ready):
    change_lock(ready)
    (ready.root / "wait").touch()
    process = ready.start("x")
    eventually_sync((ready.root / "waiting").exists, timeout_s=60)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    (ready.root / "wait").unlink()
    (ready.root / "waiting").unlink()
    assert process.returncode == 130
    assert "the next run goes on from here" in said
    assert "Traceback" not in said


def test_two_starts_at_once_set_up_once(ready):
    change_lock(ready)
    (ready.root / "wait").touch()
    first = ready.start("one")
    eventually_sync((ready.root / "waiting").exists, timeout_s=60)
    second = ready.start("two")
    line = second.stderr.readline()
    (ready.root / "wait").unlink()
    outputs = [process.communicate(timeout=100) for process in (first, second)]
    (ready.root / "waiting").unlink()
    assert "waiting" in line
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert ['"one"' in outputs[0][0], '"two"' in outputs[1][0]] == [True, True]
    assert "Installing" not in outputs[1][1]


def test_an_environment_that_was_moved_is_emptied_and_made_again(ready, modules, monkeypatch, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(ready.root, moved, symlinks=True, ignore=shutil.ignore_patterns("site-packages"))
    said, made = [], []
    module = modules("environment")
    environment = module.Environment(moved, said.append)
    assert not environment.is_ready("runtime")
    assert not environment._is_usable()
    assert "another place" in said[0]

    def make(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        made.append((command[1:], sorted(path.name for path in environment.directory.iterdir())))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", make)
    environment._create()
    assert made == [(["-m", "venv", str(moved / ".venv")], [".fastapi-foundry-setup-in-progress"])]


@pytest.mark.parametrize("target", ["/nonexistent/python3", "/bin/sh"])
def test_an_environment_whose_python_is_gone_or_another_is_made_again(ready, modules, target):
    said = []
    environment = modules("environment").Environment(ready.root, said.append)
    link = environment.python.readlink()
    environment.python.unlink()
    environment.python.symlink_to(target)
    try:
        assert not environment.is_ready("runtime")
        assert not environment._is_usable()
    finally:
        environment.python.unlink()
        environment.python.symlink_to(link)
    assert "making it again" in said[0]


def test_an_environment_without_pip_is_not_installed_into(project, modules):
    said = []
    environment = modules("environment").Environment(project.root, said.append)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text("#!/bin/sh\nexit 1\n")
    environment.python.chmod(0o755)
    assert not environment._is_usable()
    assert said == [".venv does not work; making it again"]


def test_a_changed_lock_is_installed_without_making_the_environment_again(ready, report):
    change_lock(ready)
    result = ready.run("x")
    assert "Installing" in result.stderr
    assert "Making .venv" not in result.stderr
    assert report(result)["argv"] == ["x"]
    assert ready.run("x").stderr == ""


def test_the_lock_for_tests_serves_at_run_time_too(ready, modules):
    environment = modules("environment").Environment(ready.root, lambda _: None)
    assert environment.is_ready("runtime")
    environment.ensure("dev")
    (ready.root / ".venv" / ".fastapi-foundry-runtime").unlink()
    assert environment.is_ready("runtime")
    environment.ensure("runtime")


def wheel(directory: Path) -> str:
    """A package of one module; returns its hash."""
    directory.mkdir()
    path = directory / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": "",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(text)}")
        archive.writestr("tiny-1.0.dist-info/RECORD", "\n".join([*rows, "tiny-1.0.dist-info/RECORD,,"]))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_the_lock_names_is_installed_from_a_directory_of_wheels_if_the_hash_is_right(ready, tmp_path):
    digest = wheel(tmp_path / "wheels")
    lock = ready.root / "requirements" / "runtime.txt"
    lock.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    refused = ready.run("x", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert refused.returncode == 1
    assert "differs from what the lock file expects" in refused.stderr
    assert "Traceback" not in refused.stderr
    lock.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    accepted = ready.run("x", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert accepted.returncode == 0, accepted.stderr
    assert list((ready.root / ".venv").glob("lib/python*/site-packages/tiny.py"))


def test_without_a_package_index_the_message_says_what_is_needed(ready):
    (ready.root / "requirements" / "runtime.txt").write_text(f"missing==1.0 --hash=sha256:{'0' * 64}\n")
    result = ready.run("x")
    assert result.returncode == 1
    assert "package index could not be reached" in result.stderr
    assert "PIP_FIND_LINKS" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_help_before_the_first_set_up_sets_nothing_up(project):
    result = project.run("--help")
    assert result.returncode == 0
    assert "usage: python3 run.py" in result.stdout
    assert not (project.root / ".venv").exists()


def test_an_incomplete_checkout_is_named(project):
    (project.root / "requirements" / "runtime.txt").unlink()
    result = project.run("x")
    assert result.returncode == 1
    assert "runtime.txt is missing" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_what_to_install(project, modules, monkeypatch, module):
    environment = modules("environment")
    real = environment.importlib.util.find_spec
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(environment.SetupError, match=r"apt install python3\.\d+-venv"):
        environment.Environment(project.root, lambda _: None).ensure("runtime")
    assert not (project.root / ".venv").exists()


def test_a_disk_without_room_is_named_before_anything_is_made(project, modules, monkeypatch):
    environment = modules("environment")
    usage = shutil.disk_usage("/")._replace(free=100 * 1024**2)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(environment.SetupError, match="100 MB are free, and the set-up needs 600 MB"):
        environment.Environment(project.root, lambda _: None).ensure("runtime")
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError('Failed to establish a new connection: name resolution')", "package index"),
        ("ERROR: Could not find a version that satisfies the requirement x", "package index"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "lock file"),
        ("[Errno 13] Permission denied: '/x'", "permission denied"),
        ("something else", "pip failed"),
    ],
)
def test_what_pip_says_is_explained(modules, output, words):
    text = modules("installer")._explained(output, Path("setup.log"))
    assert words in text
    assert output in text


def test_a_second_start_adds_less_than_300_ms(ready):
    result = ready.run("x")
    assert result.returncode == 0, result.stderr
    python = str(ready.root / ".venv" / "bin" / "python")

    def fastest(command: list[str]) -> float:
        durations = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            durations.append(time.perf_counter() - begin)
        return min(durations)

    added = fastest(ready.command("x")) - fastest([python, "-P", "-m", "fastapi_foundry", "x"])
    assert added < 0.3
