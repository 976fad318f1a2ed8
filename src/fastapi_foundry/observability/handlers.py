"""Where records end up: files that rotate by size, and the console on standard error.

The files are written in batches by one thread. The standard library's ``RotatingFileHandler`` seeks,
formats and flushes for each record and each file, which costs several times as much as the record's
making; and it rotates a file away under another process that still writes to it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.observability.records import Event, as_text_line
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["Console", "RotatingFile"]

_RETRY_ROTATION_BYTES: Final = 1_048_576
_LINE_S: Final = 0.01  # far longer than the writing of a line


class RotatingFile:
    """A log file that becomes ``name.1`` when it would outgrow ``max_bytes``, and ``name.1`` ``name.2``, and so on.

    Several processes may append to one: lines are written whole, and a file that another process rotated
    away is noticed before the next batch. Not for use from several threads.

    Args:
        path: Opened at once, so that a wrong directory is an ``OSError`` here and not later.
        max_bytes: Largest size in bytes; only a single line that is longer makes a larger file.
        backup_count: Old files kept; with 0 the file is begun again when it is full.
    """

    def __init__(self, path: Path, *, max_bytes: int, backup_count: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backup_count = backup_count
        self._fd = -1
        self._identity = (0, 0)
        self._size = 0
        self._open()
        # What a crash cut off must not run into the first line of ours. Looked at once more, because
        # another process may be in the middle of a line.
        self._broken_line = self._ends_within_line()
        if self._broken_line:
            time.sleep(_LINE_S)
            self._broken_line = self._ends_within_line()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append whole lines; raises ``OSError`` when the disk is full or the directory is gone."""
        self._follow()
        data = b"".join(lines)
        if self._size + len(data) <= self._max_bytes:
            self._append(data)
            return
        pending: list[bytes] = []
        pending_size = 0
        for line in lines:
            if self._size + pending_size + len(line) > self._max_bytes and self._size + pending_size > 0:
                self._append(b"".join(pending))
                self._rotate()
                pending, pending_size = [], 0
            pending.append(line)
            pending_size += len(line)
        self._append(b"".join(pending))

    def close(self) -> None:
        """Close the file; writing again opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._fd = os.open(self.path, flags, 0o640)
        found = os.fstat(self._fd)
        self._identity, self._size = (found.st_dev, found.st_ino), found.st_size

    def _ends_within_line(self) -> bool:
        size = os.fstat(self._fd).st_size
        if not size:
            return False
        os.lseek(self._fd, size - 1, os.SEEK_SET)
        return os.read(self._fd, 1) != b"\n"

    def _follow(self) -> None:
        if self._fd < 0:
            self._open()
            return
        try:
            # Every call into the system gives the interpreter's lock away, so this is the only one before the writing.
            found = os.stat(self.path)  # noqa: PTH116 - once per batch, and twice as fast as Path.stat
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self.close()
            make_private_directory(self.path.parent)
            self._open()
        else:
            self._size = found.st_size

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._broken_line:
            data = b"\n" + data
        self._broken_line = True
        while data:
            written = os.write(self._fd, data)
            self._size += written
            data = data[written:]
        self._broken_line = False

    def _rotate(self) -> None:
        # The lock is on the file itself: whoever waited for it finds another file under the name, or none.
        _lock(self._fd)
        before = self._fd
        self._follow()
        if self._fd != before or self._size == 0:
            return  # another process was quicker
        try:
            self._shift()
        except OSError:
            # Windows refuses while another process has the file open; it grows on and is tried again later.
            self._size = max(0, self._max_bytes - _RETRY_ROTATION_BYTES)
            return
        self.close()
        self._open()

    def _shift(self) -> None:
        if os.name == "nt":
            self.close()
        try:
            if self._backup_count == 0:
                self.path.unlink(missing_ok=True)
                return
            for number in range(self._backup_count - 1, 0, -1):
                older = self._backup(number)
                if older.exists():
                    older.replace(self._backup(number + 1))
            self.path.replace(self._backup(1))
        except OSError:
            if self._fd < 0:
                self._open()
            raise

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _lock(descriptor: int) -> None:
    """Wait for the lock on an open file; closing the file gives it back."""
    if sys.platform == "win32":
        return
    import fcntl  # noqa: PLC0415 - Windows does not have it

    # File systems without locks are left to chance.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


class Console:
    """Standard error: plain lines, or coloured ones with file and line number in dev mode.

    Args:
        verbose: Dev mode.
        colour: Whether escape codes are welcome there; see :meth:`wants_colour`.
    """

    def __init__(self, *, verbose: bool, colour: bool) -> None:
        self._verbose = verbose
        self._colour = colour
        self._render: Callable[[Any, str, Event], str] | None = None

    @staticmethod
    def wants_colour() -> bool:
        """On a terminal, unless ``NO_COLOR`` is set; ``FORCE_COLOR`` wants it everywhere."""
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR"):
            return True
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def write(self, events: Iterable[Event]) -> None:
        """Write and flush; raises ``OSError`` or ``ValueError`` when standard error is gone."""
        text = "".join(
            self._coloured(event) if self._verbose and self._colour else as_text_line(event) for event in events
        )
        if text and sys.stderr is not None:
            sys.stderr.write(text.encode("utf-8", "backslashreplace").decode())
            sys.stderr.flush()

    def _coloured(self, event: Event) -> str:
        if self._render is None:
            # Imported here because it brings Rich along: 6 MB and 80 ms that only this console needs.
            from structlog.dev import ConsoleRenderer, plain_traceback  # noqa: PLC0415

            self._render = ConsoleRenderer(colors=True, exception_formatter=plain_traceback, sort_keys=False)
        shown = {key: _printable(value) for key, value in event.items() if key not in {"ms", "process", "pid"}}
        shown["timestamp"] = f"{event['timestamp'][11:-1]}.{event['ms']:03d}"
        shown["event"] = shown.pop("message")
        if "exception" in event:
            shown["exception"] = "\n".join(f"    {_printable(row)}" for row in event["exception"].splitlines())
        return self._render(None, event["level"], shown) + "\n"


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not value.isprintable():
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in value)
    return value
