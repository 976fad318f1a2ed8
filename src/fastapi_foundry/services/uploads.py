"""A file while it arrives: the parts of its form, written to the disk piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi_foundry.errors import BodyTooLargeError, InvalidInputError
from fastapi_foundry.storage.file_contents import NewContent
from fastapi_foundry.wire.files import check_purpose, expires_after_s
from fastapi_foundry.wire.multipart import Data, PartBegin, PartEnd

__all__ = ["Upload", "UploadForm"]

_WRITTEN_AT_ONCE: Final = 262_144
_LONGEST_FIELD_BYTES: Final = 1024
_LONGEST_NAME: Final = 255
_NAMELESS: Final = "file"


@dataclass(frozen=True, slots=True)
class UploadForm:
    """What the form said of the file.

    Attributes:
        filename: As the client calls it, without directories; for people alone.
        keep_s: Seconds that it shall be kept for; None for as long as any.
    """

    filename: str
    purpose: str
    keep_s: int | None


class Upload:
    """One form with one file; used by one request.

    Args:
        content: Where the file goes.
        max_bytes: Its largest size.
        count: Told of every piece before it is written; raises when there is no room for it.
    """

    def __init__(self, content: NewContent, *, max_bytes: int, count: Callable[[int], None]) -> None:
        self._content = content
        self._max_bytes = max_bytes
        self._count = count
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._field: str | None = None  # the name of the plain field that is being read
        self._pending = bytearray()
        self._size = 0

    async def take(self, event: PartBegin | Data | PartEnd) -> None:
        """Go on with the next event of the form; waits for the disk.

        Raises:
            InvalidInputError: The form is not what it should be.
            BodyTooLargeError: The file is too large.
            StorageError: It cannot be written.
        """
        if isinstance(event, PartBegin):
            self._begin(event)
        elif isinstance(event, PartEnd):
            await self._end()
        elif self._field is None:
            await self._write(event.content)
        else:
            self._pending += event.content
            if len(self._pending) > _LONGEST_FIELD_BYTES:
                raise InvalidInputError(
                    f"'{self._field[:80]}': A field may hold {_LONGEST_FIELD_BYTES} bytes.", param=self._field[:80]
                )

    def form(self) -> UploadForm:
        """What the form said, once all of it is there.

        Raises:
            InvalidInputError: Something is missing or wrong.
        """
        if self._filename is None:
            raise InvalidInputError(
                "'file': This field is required, with a file name.", param="file", code="missing_required_parameter"
            )
        purpose = check_purpose(self._fields.get("purpose"))
        anchor, seconds = (self._fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
        if not self._size:
            raise InvalidInputError("'file': The file is empty.", param="file", code="invalid_value")
        return UploadForm(self._filename, purpose, expires_after_s(anchor, seconds))

    def _begin(self, part: PartBegin) -> None:
        self._pending.clear()
        if part.name == "file" and part.filename is not None:
            if self._filename is not None:
                raise InvalidInputError("'file': One file at a time.", param="file", code="invalid_value")
            self._filename = _shown_name(part.filename)
            self._field = None
            return
        if part.filename is not None:
            raise InvalidInputError("The file must be in the field 'file'.", param="file", code="invalid_value")
        self._field = part.name

    async def _end(self) -> None:
        if self._field is None:
            await self._flush()
            return
        try:
            self._fields[self._field] = self._pending.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"'{self._field[:80]}': This is not UTF-8.", param=self._field[:80]) from error
        self._pending.clear()
        self._field = None

    async def _write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise BodyTooLargeError(self._max_bytes)
        self._count(len(data))
        self._pending += data
        if len(self._pending) >= _WRITTEN_AT_ONCE:
            await self._flush()

    async def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        await asyncio.to_thread(self._content.write, data)


def _shown_name(name: str) -> str:
    """The last part of what may be a path of the client's machine, without what no name should hold."""
    last = name.replace("\\", "/").rpartition("/")[2]
    clean = "".join(letter for letter in last if letter.isprintable()).strip()
    return clean[:_LONGEST_NAME] or _NAMELESS
