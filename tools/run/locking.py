"""One set-up at a time: a lock on a file, which the system gives back when its holder dies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["exclusive"]

_RETRY_S = 0.2


@contextlib.contextmanager
def exclusive(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on ``path`` for the time of the block; waits, and says so, while another holds it."""
    with path.open("a+b") as file:
        if not _try_lock(file.fileno()):
            say("Another run.py is setting up; waiting for it")
            while not _try_lock(file.fileno()):
                time.sleep(_RETRY_S)
        yield


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - Windows alone has it

        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl  # noqa: PLC0415 - Windows does not have it

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems know no locks; two first starts at once are rare there.
        return True
    return True
