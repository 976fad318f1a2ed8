"""Profiles that were probed before, in a file of the home directory, so that a start need not probe again."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.profile import EngineProfile
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["ProfileCache"]

_FORMAT: Final = 1
_MOST_ENTRIES: Final = 64
_MAX_FILE_BYTES: Final = 1024 * 1024


class ProfileCache:
    """Profiles by address, kind and version of an engine. What cannot be read counts as absent.

    Each call reads or writes one small file and blocks for as long; keep it out of the path of requests.

    Args:
        path: The file; its directory is made when something is first stored.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def get(self, url: str, kind: str, version: str) -> EngineProfile | None:
        """The profile that was stored for this engine; None when there is none."""
        entry = self._entries().get(_key(url, kind, version))
        if not isinstance(entry, dict) or not isinstance(entry.get("profile"), dict):
            return None
        try:
            return EngineProfile.from_dict(entry["profile"])
        except ValueError:
            return None  # an older or a newer program wrote it

    def put(self, url: str, kind: str, version: str, profile: EngineProfile) -> None:
        """Store a profile; the oldest leave when there are more than 64.

        Raises:
            OSError: The file cannot be written.
        """
        entries = self._entries()
        entries[_key(url, kind, version)] = {"profile": profile.to_dict(), "probed_at": self._clock()}
        newest = sorted(entries.items(), key=lambda item: _age_key(item[1]), reverse=True)[:_MOST_ENTRIES]
        self._write({"format": _FORMAT, "profiles": dict(newest)})

    def _entries(self) -> dict[str, Any]:
        try:
            if self._path.stat().st_size > _MAX_FILE_BYTES:
                return {}
            document = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            return {}
        profiles = document.get("profiles")
        return profiles if isinstance(profiles, dict) else {}

    def _write(self, document: dict[str, Any]) -> None:
        make_private_directory(self._path.parent)
        # Whole or not at all, and each writer with a file of its own.
        temporary = self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}.tmp")
        try:
            temporary.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
            os.replace(temporary, self._path)  # noqa: PTH105 - atomic on every system, and says so
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _key(url: str, kind: str, version: str) -> str:
    return f"{kind} {version} {url}"


def _age_key(entry: Any) -> float:
    at = entry.get("probed_at") if isinstance(entry, dict) else None
    return float(at) if isinstance(at, int | float) else 0.0
