"""What run.py does with its arguments, once the environment is there."""

# ruff: noqa: S603, S606 - starting programs is what this is for

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from environment import Environment, SetupError
from system_tools import ensure_system_tools

__all__ = ["launch"]

_USAGE: Final = """\
usage: python3 run.py                 set up what is missing, start everything, print the address to open
       python3 run.py COMMAND ...     the same as fastapi-foundry COMMAND ... (model list, chat, status, ...)
       python3 run.py test [ARG ...]  install what the tests need and run them (ARG: for pytest)
       python3 run.py check           lint, types, layers, documentation, weaknesses, known vulnerabilities
       python3 run.py sbom            write dist/sbom.cdx.json: every package, licence and file of the product
Nothing is set up yet; the first start makes .venv next to run.py, which takes about a minute.
"""
_COVERAGE_PERCENT: Final = 90
# Most tests wait for processes. A file's tests stay together, since they share the processes of its fixtures.
_TWO_AT_A_TIME: Final = ("-n", "2", "--dist", "loadfile")
_SUPPLY_CHAIN: Final = Path("tools", "supply_chain")
_INTERRUPTED: Final = 130


def launch(root: str, arguments: Sequence[str]) -> int:
    """Do what ``arguments`` say; the result is the exit status, unless this process becomes the CLI."""
    directory = Path(root)
    environment = Environment(directory, _say)
    try:
        match list(arguments):
            case ["test", *rest]:
                return _test(directory, environment, rest)
            case ["check"]:
                return _check(directory, environment)
            case ["sbom", *rest]:
                environment.ensure("dev")
                return _run(directory, [str(environment.python), str(directory / _SUPPLY_CHAIN / "sbom.py"), *rest])
            case ["-h" | "--help"] if not environment.is_ready("runtime"):
                sys.stdout.write(_USAGE)
                return 0
            case rest:
                environment.ensure("runtime")
                return _become(environment.python, ["-P", "-m", "fastapi_foundry", *(rest or ["serve"])], directory)
    except SetupError as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nrun.py: interrupted; the next run goes on from here\n")
        return _INTERRUPTED


def _say(line: str) -> None:
    """Standard error, because the CLI's standard output belongs to the CLI."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _become(python: Path, arguments: Sequence[str], root: Path) -> int:
    """Replace this process by ``python``; on Windows, where that is not possible, wait for it."""
    environment = dict(os.environ)
    configuration = root / "config.json"
    if not environment.get("FASTAPI_FOUNDRY_CONFIG") and configuration.is_file():
        environment["FASTAPI_FOUNDRY_CONFIG"] = str(configuration)
    command = [str(python), *arguments]
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(python, command, environment)
    # Ctrl-C reaches the child too, which ends in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.run(command, env=environment, check=False).returncode


def _test(root: Path, environment: Environment, arguments: Sequence[str]) -> int:
    environment.ensure("dev")
    ensure_system_tools(_say)
    python = str(environment.python)
    if arguments:
        return _pytest(root, python, arguments)
    variables = {"COVERAGE_FILE": str(root / ".coverage")}
    _run(root, [python, "-m", "coverage", "erase"], variables)
    status = _run(root, [python, "-m", "coverage", "run", "-m", "pytest", *_TWO_AT_A_TIME], variables)
    if status == 0:
        _run(root, [python, "-m", "coverage", "combine", "-q"], variables)
        status = _run(root, [python, "-m", "coverage", "report", f"--fail-under={_COVERAGE_PERCENT}"], variables)
    return status


def _pytest(root: Path, python: str, arguments: Sequence[str]) -> int:
    """Paths among the arguments keep their meaning; without any, all tests are meant."""
    names_a_path = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    options = ["-c", str(root / "pyproject.toml"), "--rootdir", str(root)]
    return _run(None if names_a_path else root, [python, "-m", "pytest", *options, *arguments])


def _check(root: Path, environment: Environment) -> int:
    environment.ensure("dev")
    tools = environment.python.parent
    documentation = sorted(str(path.relative_to(root)) for path in root.glob("tests/**/test_*documentation*.py"))
    steps = {
        "lint": [str(tools / "ruff"), "check", "."],
        "format": [str(tools / "ruff"), "format", "--check", "."],
        "types": [str(tools / "mypy")],
        "layers": [str(tools / "lint-imports")],
        "documentation": [str(environment.python), "-m", "pytest", "-q", *documentation],
        "weaknesses": [str(environment.python), str(root / _SUPPLY_CHAIN / "scan.py")],
        "known vulnerabilities": [str(environment.python), str(root / _SUPPLY_CHAIN / "audit.py")],
    }
    failed = []
    for name, command in steps.items():
        _say(f"== {name}")
        if _run(root, command):
            failed.append(name)
    _say(f"== failed: {', '.join(failed)}" if failed else "== all checks passed")
    return 1 if failed else 0


def _run(directory: Path | None, command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    return subprocess.run(list(command), cwd=directory, env=os.environ | dict(variables or {}), check=False).returncode
