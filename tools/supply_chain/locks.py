"""The lock files of requirements/, read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Locked", "read_lock"]

ROOT: Final = Path(__file__).resolve().parents[2]

_PIN: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>.+?))?(?: \\)?")
_HASH: Final = re.compile(r"    --hash=sha256:(?P<hash>[0-9a-f]{64})(?: \\)?")
_VIA: Final = re.compile(r"    #(?: via)?(?: +(?P<by>\S.*))?")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package in one version.

    Attributes:
        name: As in the index, normalised.
        version: The exact version.
        marker: For which systems it is; empty for all.
        hashes: SHA-256 of each of its files, hexadecimal.
        wanted_by: Names of the packages that need it; a requirements file or the project itself among them.
    """

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]


def read_lock(path: Path) -> list[Locked]:
    """Every entry of a lock file, in its order.

    Raises:
        ValueError: A line is none that a lock of ours holds: an option, an address, a version that is not exact.
    """
    entries: list[Locked] = []
    hashes: list[str] = []
    wanted_by: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if pin := _PIN.fullmatch(line):
            hashes, wanted_by = [], []
            entries.append(Locked(pin["name"], pin["version"], pin["marker"] or "", (), ()))
        elif entries and (found := _HASH.fullmatch(line)):
            hashes.append(found["hash"])
        elif entries and (via := _VIA.fullmatch(line)):
            wanted_by += [via["by"]] if via["by"] else []
        else:
            raise ValueError(f"{path.name}, line {number}: this belongs into no lock: {line!r}")
        last = entries[-1]
        entries[-1] = Locked(last.name, last.version, last.marker, tuple(hashes), tuple(wanted_by))
    return entries
