"""``$FOUNDRY_HOME/daemon.json``: how other programs on this machine find the service. Blocks on the disk."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from fastapi_foundry.daemon.store import write_json_atomically
from fastapi_foundry.observability.logging import get_logger

__all__ = ["DaemonFile"]

logger = get_logger(__name__)


class DaemonFile:
    """The daemon file, written and removed by one service.

    Args:
        home: ``FOUNDRY_HOME``.
        instance_id: What makes this service's file its own.
    """

    def __init__(self, home: Path, instance_id: str) -> None:
        self._path = home / "daemon.json"
        self._instance_id = instance_id

    def write(self, *, url: str, pid: int, version: str) -> bool:
        """Write it unless another living process has one there.

        Returns:
            Whether it was written.
        """
        owner = self._read()
        if owner is not None and _is_alive(owner, pid):
            logger.warning("daemon file left alone: its service is alive", owner_pid=owner.get("pid"))
            return False
        write_json_atomically(
            self._path,
            {
                "web_urls": [url],
                "pid": pid,
                "product": "fastapi-foundry",
                "version": version,
                "started_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "instance_id": self._instance_id,
            },
        )
        return True

    def remove(self) -> None:
        """Remove it if it is this service's own."""
        owner = self._read()
        if owner is not None and owner.get("instance_id") == self._instance_id:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            value = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return value if isinstance(value, dict) else None


def _is_alive(owner: dict[str, Any], own_pid: int) -> bool:
    pid = owner.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or pid == own_pid:
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        started = owner.get("started_at")
        # A process that is younger than the file has only inherited the number.
        return not isinstance(started, str) or process.create_time() <= _unix(started) + 1.0
    except (psutil.Error, ValueError):
        return False


def _unix(timestamp: str) -> float:
    return datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
