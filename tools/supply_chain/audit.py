"""Ask whether vulnerabilities of the locked packages are known: ``python tools/supply_chain/audit.py``.

pip-audit asks PyPI, or OSV where that does not work; nothing but names and versions of packages leaves the machine.
Where neither can be asked the result says so and is no failure: users' machines may be offline. It takes 10 s at most
to find that out, and a minute in all.
"""

# ruff: noqa: S603 - starting pip-audit is what this is for

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from licences import EXCEPTIONS, read_exceptions
from locks import ROOT, Locked, read_lock

_PROBE_S: Final = 4.5  # for each service
_LIMIT_S: Final = 60.0
_SOCKET_S: Final = 10
_LONGEST_REASON: Final = 300  # characters
_LONGEST_EXCEPTION: Final = dt.timedelta(days=90)
# Packages that every service knows, asked for first: an answer that does not know them comes from something else.
_PROBES: Final = ("fastapi", "pydantic", "uvicorn")


class UnansweredError(Exception):
    """The service cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Service:
    """Somebody who knows vulnerabilities; ``options`` are pip-audit's."""

    name: str
    options: tuple[str, ...]


@dataclass(slots=True)
class Answer:
    """What is known: one row for each vulnerability, and the packages that the service does not know."""

    findings: list[dict[str, Any]]
    unknown: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and report; the result is the exit status: 1 with findings, or unasked with ``--require``."""
    options = _options(arguments)
    end = time.monotonic() + _LIMIT_S
    locked = read_lock(options.lock)
    exceptions = read_exceptions(options.exceptions).get("vulnerability", [])
    for service in _services(options.osv_url):
        try:
            _ask(service, [entry for entry in locked if entry.name in _PROBES] or locked[:1], _PROBE_S, strict=True)
            answer = _ask(service, locked, end - time.monotonic())
        except UnansweredError as error:
            print(f"{service.name} could not be asked: {error}")
            continue
        return _report(answer, len(locked), service.name, exceptions)
    print("NOT CHECKED: whether vulnerabilities of the packages are known could not be found out (see above).")
    return 1 if options.require else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "dev.txt", help="lock file to look at")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS, help="page of exceptions")
    parser.add_argument("--osv-url", help="ask this service alone, which answers as OSV does")
    parser.add_argument("--require", action="store_true", help="fail when nobody can be asked")
    return parser.parse_args(arguments)


def _services(osv_url: str | None) -> tuple[Service, ...]:
    if osv_url:
        return (Service("The given service", ("--vulnerability-service", "osv", "--osv-url", osv_url)),)
    return (
        Service("PyPI", ("--vulnerability-service", "pypi")),
        Service("OSV", ("--vulnerability-service", "osv")),
    )


def _ask(service: Service, packages: Sequence[Locked], limit_s: float, *, strict: bool = False) -> Answer:
    """What the service knows of ``packages``.

    Raises:
        UnansweredError: It does not answer, or not in time; with ``strict``, also when it does not know one.
    """
    end = time.monotonic() + limit_s
    answer = Answer([], [])
    # Two versions of a package, for different Pythons, have to be asked for apart.
    rounds: list[dict[str, str]] = []
    for package in packages:
        place = next((r for r in rounds if package.name not in r), None)
        if place is None:
            rounds.append(place := {})
        place[package.name] = package.version
    for versions in rounds:
        for row in _pip_audit(service, versions, end - time.monotonic()):
            if "skip_reason" in row:
                answer.unknown.append(f"{row['name']} {versions[row['name']]}")
            answer.findings += [row | {"vuln": vuln} for vuln in row.get("vulns", ())]
    if strict and answer.unknown:
        raise UnansweredError(f"what answers in its name does not know {', '.join(answer.unknown)}")
    return answer


def _pip_audit(service: Service, versions: dict[str, str], limit_s: float) -> list[dict[str, Any]]:
    """The rows of pip-audit's report; empty where all is well."""
    with tempfile.TemporaryDirectory() as directory:
        # Without hashes, markers and comments: what is not in the file cannot be sent.
        wanted = Path(directory) / "packages.txt"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(wanted), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--desc", "off", "--aliases", "on", "--progress-spinner", "off"]
        command += ["--timeout", str(_SOCKET_S), "--output", str(report), *service.options]
        command += ["--cache-dir", str(Path(sys.prefix) / "pip-audit-cache")]
        # No password from a netrc file goes along.
        environment = os.environ | {"NETRC": os.devnull, "PYTHONWARNINGS": "ignore"}
        try:
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=max(limit_s, 0.1)
            )
        except subprocess.TimeoutExpired:
            raise UnansweredError(f"no answer within {limit_s:.0f} s") from None
        if not report.exists():
            if result.returncode == 0:
                return []
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnansweredError(textwrap.shorten(reason, _LONGEST_REASON))
        rows: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["dependencies"]
        return rows


def _report(answer: Answer, count: int, service: str, exceptions: Sequence[dict[str, Any]]) -> int:
    wrong: list[str] = []
    used: set[int] = set()
    for row in answer.findings:
        vuln = row["vuln"]
        names = {vuln["id"], *vuln.get("aliases", ())}
        matching = [i for i, e in enumerate(exceptions) if e["package"] == row["name"] and e["id"] in names]
        used.update(matching)
        if not matching:
            fixed = ", ".join(vuln.get("fix_versions") or ()) or "no version yet"
            wrong.append(f"{row['name']} {row['version']}: {', '.join(sorted(names))}; mended in {fixed}")
    today = dt.datetime.now(tz=dt.UTC).date()
    for index, entry in enumerate(exceptions):
        if index not in used:
            wrong.append(f"exceptions.toml: {entry['id']} of {entry['package']} matches nothing any more")
        elif not today <= entry["until"] <= today + _LONGEST_EXCEPTION:
            wrong.append(
                f"exceptions.toml: {entry['id']} of {entry['package']} must be looked at again: {entry['until']}"
            )
    for line in wrong:
        print(line)
    if answer.unknown:
        print(f"Not known to {service}, so not checked: {', '.join(answer.unknown)}")
    if not wrong:
        checked = count - len(answer.unknown)
        print(f"{checked} packages: {service} knows no vulnerability of them that matters ({len(used)} explained).")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
