"""pip, run so that a person sees what happens, and explained when it fails."""

# ruff: noqa: S603 - starting programs is what this is for

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["SetupError", "run_pip"]

_STEPS: Final = 4  # progress lines for one lock
_KEPT_LINES: Final = 25
_NO_NETWORK: Final = re.compile(
    r"NewConnectionError|name resolution|ConnectTimeout|Connection refused|ProxyError|timed out|SSLError|"
    r"CERTIFICATE_VERIFY|Network is unreachable|No matching distribution|Could not find a version",
    re.IGNORECASE,
)


class SetupError(Exception):
    """The set-up cannot go on; the message is for the person at the terminal."""


def run_pip(
    python: Path, arguments: Sequence[str], lock: Path | None, log_directory: Path, say: Callable[[str], None]
) -> None:
    """Run pip of the environment and wait for it; ``setup.log`` in ``log_directory`` keeps what it says.

    Raises:
        SetupError: pip failed; the message says why in words.
    """
    total = len(re.findall(r"^[a-z0-9]", lock.read_text("utf-8"), re.MULTILINE)) if lock is not None else 0
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    seen = 0
    with (
        (log_directory / "setup.log").open("a", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
        ) as pip,
    ):
        for line in pip.stdout or ():
            log.write(line)
            tail.append(line.rstrip())
            if line.startswith("Collecting "):
                seen += 1
                if seen % max(1, total // _STEPS) == 0:
                    say(f"  {seen} of about {total} packages found")
            elif line.startswith("Installing collected packages"):
                say("  unpacking them")
    if pip.returncode:
        raise SetupError(_explained("\n".join(tail), log_directory / "setup.log"))


def _environment() -> dict[str, str]:
    """The caller's environment without what would make pip look at, or install to, other places."""
    dropped = {
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_QUIET",
    }
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PIP_PROGRESS_BAR": "off", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def _explained(output: str, log: Path) -> str:
    if "No space left on device" in output or "Errno 28" in output:
        why = "The disk is full. Make room and run this again; the set-up goes on then."
    elif "DO NOT MATCH THE HASHES" in output:
        why = (
            "A package differs from what the lock file expects, so it was not installed. Is the package index that pip "
            "is set up with a faithful one?"
        )
    elif "Permission denied" in output:
        why = "A file could not be written (permission denied)."
    elif _NO_NETWORK.search(output):
        why = (
            "The package index could not be reached, or does not hold a package for this platform. The first set-up needs "
            "the network, or a directory with the wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels python3 run.py.\n"
            "Behind a proxy set HTTPS_PROXY. Afterwards nothing is ever fetched again."
        )
    else:
        why = "pip failed."
    return f"{why}\nThe last lines of {log}:\n" + "\n".join(f"  {line}" for line in output.splitlines()[-8:])
