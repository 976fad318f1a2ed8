"""Programs to compare with that are no part of ours: found, or installed into virtual environments of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.proxies.processes import environment

PACKAGES = {"vllm-router": ["vllm-router==0.1.17"], "litellm": ["litellm[proxy]==1.106.2"]}
"""What is installed for each; the versions that the last figures are of."""


class UnavailableError(Exception):
    """A program cannot be had on this machine; the message says why, and what would help."""


def default_directory() -> Path:
    """Where the environments are kept from run to run: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi-foundry-benchmarks"


def program(name: str, directory: Path) -> Path:
    """The program to run; takes minutes where it is installed first.

    Raises:
        UnavailableError: It is not here and cannot be installed.
    """
    if name == "gateway":
        return Path(sys.executable)
    return _nginx() if name == "nginx" else _installed(name, directory)


def _nginx() -> Path:
    found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if found is None:
        raise UnavailableError("there is no nginx here; on Debian: apt-get install nginx-light")
    return Path(found)


def _installed(name: str, directory: Path) -> Path:
    wanted = "\n".join(PACKAGES[name])
    venv = directory / name
    installed, note = venv / "bin" / name, venv / "installed.txt"
    if installed.exists() and note.exists() and note.read_text() == wanted:
        return installed
    print(f"Installing {', '.join(PACKAGES[name])} into {venv} ...", file=sys.stderr, flush=True)
    try:
        commands: tuple[list[str | Path], ...] = (
            [sys.executable, "-m", "venv", "--clear", venv],
            [venv / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES[name]],
        )
        for command in commands:
            subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in str(error.stderr).splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise UnavailableError(f"pip could not install it: {lines[-1]}") from None
    note.write_text(wanted)
    return installed
