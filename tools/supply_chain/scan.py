"""Look for weaknesses in our own code with bandit: ``python tools/supply_chain/scan.py``.

Each finding is either mended or explained: in the code, where ruff has the same rule under the same number (``noqa:
S603 - why``, or a comment line above), or in exceptions.toml. The exit status is 1 while one is not.
"""

# ruff: noqa: S603 - starting bandit is what this is for

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from licences import read_exceptions
from locks import ROOT

_SCANNED: Final = ("src", "tools", "run.py")
_LIMIT_S: Final = 300
_NOQA: Final = re.compile(r"#\s*(?:ruff:\s*)?noqa:\s*(?P<codes>[A-Z0-9]+(?:,\s*[A-Z0-9]+)*)(?:\s*-\s*(?P<why>\S.*))?")


def main(root: Path = ROOT) -> int:
    """Scan and report; the result is the exit status."""
    report = _bandit(root)
    exceptions = read_exceptions(root / "tools" / "supply_chain" / "exceptions.toml").get("finding", [])
    used: set[int] = set()
    wrong = [f"{error['filename']}: not read: {error['reason']}" for error in report["errors"]]
    for finding in report["results"]:
        path, line = Path(finding["filename"]).as_posix(), finding["line_number"]
        matching = [index for index, entry in enumerate(exceptions) if _covers(entry, finding["test_id"], path)]
        used.update(matching)
        if not matching and not _is_explained(root / path, finding):
            wrong.append(f"{path}:{line}: {finding['test_id']} {finding['issue_text']}")
    wrong += [
        f"exceptions.toml: {entry['test']} in {', '.join(entry['paths'])} matches nothing any more"
        for index, entry in enumerate(exceptions)
        if index not in used
    ]
    for row in wrong:
        print(row)
    if wrong:
        print("Mend it, or say behind `noqa: S...` or in tools/supply_chain/exceptions.toml why it is harmless.")
    else:
        print(f"{len(report['results'])} findings, all explained.")
    return 1 if wrong else 0


def _bandit(root: Path) -> dict[str, Any]:
    # Its own `nosec` counts for nothing here, so that there is one way to explain a finding.
    command = [
        sys.executable,
        "-m",
        "bandit",
        "--recursive",
        *_SCANNED,
        "--ignore-nosec",
        "--quiet",
        "--format",
        "json",
    ]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    try:
        report: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        raise SystemExit(f"bandit did not work:\n{result.stderr.strip()}") from None
    return report


def _covers(entry: dict[str, Any], test: str, path: str) -> bool:
    return entry["test"] == test and any(fnmatchcase(path, pattern) for pattern in entry["paths"])


def _is_explained(path: Path, finding: dict[str, Any]) -> bool:
    """Whether the code says why: ruff's rule S603 is bandit's B603."""
    code = "S" + finding["test_id"].removeprefix("B")
    lines = path.read_text("utf-8").splitlines()
    first, last = min(finding["line_range"]), max(finding["line_range"])
    above = lines[first - 2].strip() if first > 1 else ""
    for line in lines[first - 1 : last]:
        if (found := _NOQA.search(line)) and _names(found, code) and (found["why"] or above.startswith("#")):
            return True
    whole_file = (_NOQA.match(line) for line in lines if line.startswith("# ruff:"))
    return any(found and _names(found, code) and found["why"] for found in whole_file)


def _names(noqa: re.Match[str], code: str) -> bool:
    return code in re.split(r",\s*", noqa["codes"])


if __name__ == "__main__":
    sys.exit(main())
