"""OpenAI's files as types. Source: OpenAI's published API specification."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

from fastapi_foundry.errors import InvalidInputError

__all__ = [
    "PURPOSES",
    "DeletedFile",
    "FileForm",
    "FileList",
    "FileObject",
    "check_purpose",
    "expires_after_s",
    "file_object",
    "page_of",
]

PURPOSES: Final = ("batch",)
"""What files can be uploaded for."""
SHORTEST_S: Final = 3600
LONGEST_S: Final = 30 * 86_400
_SECOND_US: Final = 1_000_000


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """The answer to ``DELETE /v1/files/{file_id}``."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileForm(BaseModel):
    """The form of ``POST /v1/files``, for the description alone; it is parsed as it arrives."""

    file: str
    purpose: Literal["batch"]


def check_purpose(purpose: str | None) -> str:
    """What a file is for.

    Raises:
        InvalidInputError: Nothing is said about it, or something that this server has no use for.
    """
    if purpose is None:
        raise InvalidInputError(
            "'purpose': This field is required.", param="purpose", code="missing_required_parameter"
        )
    if purpose not in PURPOSES:
        allowed = ", ".join(f"'{name}'" for name in PURPOSES)
        raise InvalidInputError(
            f"'purpose': This server takes files for {allowed}.", param="purpose", code="invalid_value"
        )
    return purpose


def expires_after_s(anchor: str | None, seconds: str | int | None, *, param: str = "expires_after") -> int | None:
    """The time that a file shall be kept for; None when nothing is said about it.

    Raises:
        InvalidInputError: It is not counted from ``created_at``, or is no whole number from an hour to 30 days.
    """
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInputError(
            f"'{param}.anchor': Input should be 'created_at'.", param=f"{param}.anchor", code="invalid_value"
        )
    text = str(seconds)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LONGEST_S))) or not (
        SHORTEST_S <= int(text) <= LONGEST_S
    ):
        raise InvalidInputError(
            f"'{param}.seconds': Input should be a whole number from {SHORTEST_S} to {LONGEST_S}.",
            param=f"{param}.seconds",
            code="invalid_value",
        )
    return int(text)


def file_object(
    *, file_id: str, size_bytes: int, created_us: int, expires_us: int | None, filename: str, purpose: str
) -> dict[str, Any]:
    """A file as the API shows it."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": size_bytes,
        "created_at": created_us // _SECOND_US,
        "expires_at": None if expires_us is None else expires_us // _SECOND_US,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


def page_of(objects: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list as the API shows it."""
    return {
        "object": "list",
        "data": objects,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }
