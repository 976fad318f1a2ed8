"""A ``foundry`` command for tests: it says about a double what the CLI of its generation says about its service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.support.doubles.service import STATE_FILE

__all__ = ["write_foundry_cli"]

_SCRIPT: Final = """#!{python} -SE
import json, os, sys, time
generation, state_file, hang_s, log = {generation!r}, {state_file!r}, {hang_s!r}, {log!r}
with open(log, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
time.sleep(hang_s)
try:
    with open(state_file) as file:
        state = json.load(file)
    os.kill(state["pid"], 0)
except (OSError, ValueError, KeyError):
    state = None
sys.stdout.reconfigure(encoding="utf-8")
words = sys.argv[1:]
if generation == "gen1" and words[:1] == ["service"]:
    if words[1:] in (["status"], ["start"], ["ps"]) and state:
        verb = "is running on {{}}/openai/status" if words[1] != "start" else "is already running on {{}}/."
        print("\\U0001F7E2", "Model management service" if words[1] != "start" else "Service", verb.format(state["url"]))
        print("EP autoregistration status: Successfully downloaded and registered the following EPs: .")
        print("Valid EPs: CPUExecutionProvider")
        sys.exit(0)
    print("\\U0001F534 Model management service is not running!")
    print("To start the service, run the following command: foundry service start")
    sys.exit(0)
if generation == "gen2" and words[:1] == ["server"]:
    if words[1:] == ["status", "--output", "json"]:
        running = {{"running": True, "webUrls": [state["url"]], "pid": state["pid"]}} if state else {{"running": False}}
        print(json.dumps(running))
    else:
        print("Server is running on " + state["url"] if state else "Server is not running.")
    sys.exit(0)
print("Unrecognized command or argument '%s'." % (words[0] if words else ""), file=sys.stderr)
sys.exit(1)
"""


def write_foundry_cli(directory: Path, generation: str, home: Path, *, hang_s: float = 0.0) -> Path:
    """Write an executable ``foundry`` into ``directory``, for the double whose home is ``home``, running or not.

    Args:
        directory: To put on ``PATH``; made if need be.
        generation: ``gen1`` (``foundry service status``) or ``gen2`` (``foundry server status --output json``); each
            exits with 1 for the other's commands.
        home: The home of the double; the command reads where it is from there, each time.
        hang_s: How long each command takes, in seconds.

    Returns:
        The file to which each call appends its arguments, a line each.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "foundry-calls.txt"
    log.touch()
    script = directory / "foundry"
    script.write_text(
        _SCRIPT.format(
            python=sys.executable,
            generation=generation,
            state_file=str(home.resolve() / STATE_FILE),
            hang_s=hang_s,
            log=str(log),
        ),
        encoding="utf-8",
    )
    script.chmod(0o755)
    return log
