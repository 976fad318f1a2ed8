"""The programs beside Python that some tests use."""

# ruff: noqa: S603 - starting programs is what this is for

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["ensure_system_tools"]

# Debian's package for each, and the names that the program goes by.
_TOOLS: Final = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "curl": ("curl",),
    "jq": ("jq",),
    "redis-server": ("redis-server",),
    "strace": ("strace",),
}


def missing_tools() -> list[str]:
    """Packages of which no program is on the path; strace exists on Linux alone."""
    wanted = {name: programs for name, programs in _TOOLS.items() if name != "strace" or sys.platform == "linux"}
    return [name for name, programs in wanted.items() if not any(shutil.which(program) for program in programs)]


def ensure_system_tools(say: Callable[[str], None]) -> None:
    """Install what is missing where that is ours to do (root, apt-get); otherwise name it and go on."""
    missing = missing_tools()
    if not missing:
        return
    apt_get = shutil.which("apt-get")
    if apt_get and getattr(os, "geteuid", lambda: -1)() == 0:
        say(f"Installing for the tests: {', '.join(missing)} (apt-get)")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([apt_get, "update", "-q"], env=environment, check=False)
        command = [apt_get, "install", "-y", "-q", "--no-install-recommends", *missing]
        subprocess.run(command, env=environment, check=False)
        missing = missing_tools()
    if missing:
        say(f"Not on this machine: {', '.join(missing)}; the tests that use them are skipped (with CI=true they fail)")
