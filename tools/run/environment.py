"""The virtual environment ``.venv``: made from the lock file, completed when interrupted, rebuilt when broken.

Marker files in it say which lock is installed; they are written last, so what they say is true. A file
``setup-in-progress`` says the opposite, and how far a set-up came that did not finish.
"""

# ruff: noqa: S603 - starting programs is what this is for

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NoReturn

from installer import SetupError, run_pip
from locking import exclusive

__all__ = ["Environment", "SetupError"]

Level = Literal["runtime", "dev"]

_PREFIX: Final = ".fastapi-foundry-"
_IN_PROGRESS: Final = _PREFIX + "setup-in-progress"
_CREATING: Final = "creating"
_INSTALLING: Final = "installing"
# Measured on Linux: 316 MB installed at run time and 603 MB with what tests need; pip needs room for
# its downloads while it unpacks them.
_NEEDED_BYTES: Final = {"runtime": 600 * 1024**2, "dev": 1200 * 1024**2}


class Environment:
    """The environment that belongs to the checkout at ``root``.

    Args:
        root: The directory of run.py.
        say: Takes a line for the person who waits.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root = root
        self._say = say
        self.directory: Final = root / ".venv"
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python: Final = self.directory / scripts / ("python.exe" if os.name == "nt" else "python")

    def is_ready(self, level: Level) -> bool:
        """Whether the lock of ``level`` is installed; reads a few small files and starts nothing."""
        if not self.python.exists() or (self.directory / _IN_PROGRESS).exists():
            return False
        # The lock for tests holds everything that the one for run time does, in the same versions.
        return any(self._marker_fits(candidate) for candidate in (level, "dev"))

    def ensure(self, level: Level) -> None:
        """Make ``is_ready(level)`` true; the first time this takes about a minute and needs a package index.

        Raises:
            SetupError: Something is missing; the message says what, and what to do.
        """
        if self.is_ready(level):
            return
        self._check_machine(level)
        with exclusive(self._root / ".venv.lock", self._say):
            if self.is_ready(level):  # by another run.py, while this one waited
                return
            try:
                self._set_up(level)
            except OSError as error:
                _explain(error)

    def _set_up(self, level: Level) -> None:
        if not self._is_usable():
            self._create()
        for known in ("runtime", "dev"):
            self._marker(known).unlink(missing_ok=True)
        progress = self.directory / _IN_PROGRESS
        progress.write_text(_INSTALLING)
        lock = self._lock(level)
        self._say(f"Installing the packages of requirements/{lock.name} (needs the package index, about a minute)")
        run_pip(self.python, ["install", "--require-hashes", "-r", str(lock)], lock, self.directory, self._say)
        self._say("Installing fastapi-foundry itself")
        editable = ["install", "--no-deps", "--no-build-isolation", "-e", str(self._root)]
        run_pip(self.python, editable, None, self.directory, self._say)
        for known in ("runtime", "dev") if level == "dev" else ("runtime",):
            _write_atomically(self._marker(known), json.dumps(self._facts(known), indent=1))
        progress.unlink()
        self._say("Ready.")

    def _is_usable(self) -> bool:
        """Whether ``.venv`` can be installed into: ours or anybody's, with a Python that works and has pip."""
        if not self.directory.exists():
            return False
        if (self.directory / _IN_PROGRESS).exists():
            self._say("An earlier set-up did not finish; completing it")
            if (self.directory / _IN_PROGRESS).read_text() != _INSTALLING:
                return False
            self._remove_halves()
        if self._was_elsewhere():
            self._say(".venv was made in another place or for another Python; making it again")
            return False
        probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            result = subprocess.run([self.python, "-c", probe], capture_output=True, check=False, timeout=60)
            if result.returncode == 0:
                return True
        self._say(".venv does not work; making it again")
        return False

    def _remove_halves(self) -> None:
        """Remove what pip was in the middle of.

        It writes a package's ``RECORD`` last, and renames what it replaces to ``~...`` first; without this it
        would take a package with half of its files for an installed one.
        """
        for packages in (*self.directory.glob("lib/python*/site-packages"), self.directory / "Lib" / "site-packages"):
            for half in packages.glob("*.dist-info"):
                if not (half / "RECORD").exists():
                    shutil.rmtree(half)
            for old in packages.glob("~*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _was_elsewhere(self) -> bool:
        """Scripts and links in an environment hold absolute paths, so it cannot move."""
        for known in ("runtime", "dev"):
            facts = _read_json(self._marker(known))
            here = self._facts(known)
            if facts and any(facts.get(key) != here[key] for key in ("root", "python")):
                return True
        return False

    def _create(self) -> None:
        self._say(f"Making .venv with Python {sys.version.split()[0]}")
        if self.directory.is_symlink() or self.directory.is_file():
            self.directory.unlink()
        elif self.directory.exists():
            shutil.rmtree(self.directory)
        self.directory.mkdir()
        (self.directory / _IN_PROGRESS).write_text(_CREATING)
        base = getattr(sys, "_base_executable", None) or sys.executable
        result = subprocess.run([base, "-m", "venv", str(self.directory)], capture_output=True, text=True, check=False)
        if result.returncode:
            text = result.stdout + result.stderr
            if "ensurepip" in text:
                raise SetupError(_no_venv_module())
            raise SetupError(f"The virtual environment could not be made:\n{text.strip()}")

    def _check_machine(self, level: Level) -> None:
        if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
            raise SetupError(_no_venv_module())
        if not os.access(self._root, os.W_OK):
            raise SetupError(
                f"{self._root} is not writable, and .venv is to be made there. Copy the directory to a place of yours."
            )
        self._facts(level)  # names what is missing of the checkout
        free = shutil.disk_usage(self._root).free
        needed = _NEEDED_BYTES[level]
        if free < needed and not self.directory.exists():
            raise SetupError(
                f"Not enough disk space in {self._root}: {free // 1024**2} MB are free, and the set-up needs "
                f"{needed // 1024**2} MB."
            )

    def _lock(self, level: str) -> Path:
        return self._root / "requirements" / f"{level}.txt"

    def _marker(self, level: str) -> Path:
        return self.directory / f"{_PREFIX}{level}"

    def _marker_fits(self, level: str) -> bool:
        return _read_json(self._marker(level)) == self._facts(level)

    def _facts(self, level: str) -> dict[str, str]:
        """What the installed state depends on."""
        locks = ("runtime",) if level == "runtime" else ("runtime", "dev")
        return {
            "root": str(self._root),
            # A system's upgrade from Python 3.11 to 3.12 turns the link and leaves the packages behind.
            "python": os.path.realpath(self.python),
            "lock": " ".join(_digest(self._lock(name)) for name in locks),
            "pyproject": _digest(self._root / "pyproject.toml"),
        }


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except FileNotFoundError:
        raise SetupError(f"{path} is missing; get a complete copy of the project.") from None


def _read_json(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _no_venv_module() -> str:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return (
        f"Python's venv module is not complete on this machine (venv and ensurepip are needed).\n"
        f"On Debian and Ubuntu: apt install python{version}-venv; elsewhere install Python from python.org."
    )


def _explain(error: OSError) -> NoReturn:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        raise SetupError("The disk is full. Make room and run this again; the set-up goes on then.") from error
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        raise SetupError(f"{error.filename} cannot be written: {error.strerror}.") from error
    raise SetupError(f"The set-up failed: {error}") from error
