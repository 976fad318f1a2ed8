"""Locks between processes, on files beside the database; the system gives them back when their holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fastapi_foundry import errors

__all__ = ["exclusive_lock", "shared_lock"]

_RETRY_S: Final = 0.05


@contextmanager
def exclusive_lock(path: Path, *, timeout_s: float, message: str) -> Iterator[None]:
    """Hold the lock on ``path`` alone for the time of the block; blocks until it is free.

    Args:
        path: A file of no other use; it is made, and stays.
        timeout_s: How long to wait; 0 does not.
        message: What to say when somebody else holds it for longer.

    Raises:
        StorageUnavailableError: Somebody does, or the file cannot be opened.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = _opened(path)
    try:
        while not _try_lock(descriptor, exclusive=True):
            if time.monotonic() >= deadline:
                raise errors.StorageUnavailableError(message)
            time.sleep(_RETRY_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared_lock(path: Path) -> Iterator[bool]:
    """Hold the lock on ``path`` beside others who share it; yields whether it was to be had. Does not wait.

    On Windows there is nothing to hold: a file that is open cannot be replaced there.

    Raises:
        StorageUnavailableError: The file cannot be opened.
    """
    descriptor = _opened(path)
    try:
        yield sys.platform == "win32" or _try_lock(descriptor, exclusive=False)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.StorageUnavailableError(f"{path} cannot be opened: {error.strerror or error}") from error


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
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
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems know no locks; SQLite's own still keep writers apart.
        return True
    return True
