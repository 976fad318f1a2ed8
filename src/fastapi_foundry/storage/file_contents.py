"""What is in the files of the API: one file of the system for each, named by its id and never by what a client calls it.

Everything in here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from fastapi_foundry import errors
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["FileContents", "NewContent"]

_PRIVATE_FILE: Final = 0o600
_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_UNFINISHED: Final = ".part"


class NewContent:
    """A file while it is written: it has its name, whole and on the disk, after ``keep``, and is gone otherwise.

    Attributes:
        size_bytes: Written so far.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
        with _as_facts():
            make_private_directory(path.parent)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        self._file: FileIO | None = FileIO(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            StorageFullError: There is no space left.
            StorageUnavailableError: It cannot be written.
        """
        with _as_facts():
            rest = memoryview(data)
            while rest:
                rest = rest[self._opened.write(rest) or 0 :]
        self.size_bytes += len(data)

    def keep(self) -> None:
        """Put it in its place; when this returns it survives a power cut.

        Raises:
            StorageError: As ``write``.
        """
        with _as_facts():
            os.fsync(self._opened.fileno())
            self._opened.close()
            os.replace(self._temporary, self._path)  # noqa: PTH105 - atomic on every system, and says so
            self._file = None
            _sync_directory(self._path.parent)

    def drop(self) -> None:
        """Leave nothing behind, unless it has been kept; may be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    @property
    def _opened(self) -> FileIO:
        if self._file is None:
            raise errors.StorageUnavailableError("The file is closed.")
        return self._file


class FileContents:
    """The directory of all of them.

    Args:
        directory: Made when the first file is.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, file_id: str) -> Path:
        """Where the content of that file is.

        Raises:
            ValueError: It is no id of ours, so that nothing from outside ever names a path.
        """
        if _ID.fullmatch(file_id) is None:
            raise ValueError("no id of a file")
        return self._directory / file_id

    def new(self, file_id: str) -> NewContent:
        """A file to be written; ``drop`` it in any case.

        Raises:
            StorageError: It cannot be made.
        """
        return NewContent(self.path(file_id))

    def exists(self, file_id: str) -> bool:
        """Whether there is something under that id."""
        return self.path(file_id).is_file()

    def delete(self, file_id: str) -> None:
        """Remove the content; one that is not there is fine."""
        with contextlib.suppress(OSError):
            self.path(file_id).unlink()

    def stray(self, *, older_than_s: float) -> list[str]:
        """Ids of content that has lain there for a while, and unfinished files, which are removed at once."""
        found: list[str] = []
        before = time.time() - older_than_s
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                file_id = entry.name.partition(".")[0]
                if _ID.fullmatch(file_id) is None or entry.stat().st_mtime >= before:
                    continue
                if entry.name == file_id:
                    found.append(file_id)
                elif entry.name.endswith(_UNFINISHED):
                    Path(entry.path).unlink(missing_ok=True)
        return found

    def delete_all(self, file_ids: Collection[str]) -> None:
        """Remove several."""
        for file_id in file_ids:
            self.delete(file_id)


@contextmanager
def _as_facts() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.StorageFullError("There is no space left for files.") from error
        raise errors.StorageUnavailableError("Files cannot be written at the moment.") from error


def _sync_directory(path: Path) -> None:
    if os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
