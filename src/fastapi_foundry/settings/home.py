"""The directory of everything that is kept, and directories in it: their owner's alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["make_private_directory"]

_PRIVATE: Final = 0o700


def make_private_directory(path: Path) -> None:
    """Make a directory, and what is missing above it, for its owner alone; what is there is left as it is.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_private_directory(path.parent)
    path.mkdir(mode=_PRIVATE, exist_ok=True)
