"""OpenAI's files: the input of batches, and their results. Uploads go to the disk as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from fastapi_foundry.api.access import principal_of, services_of
from fastapi_foundry.api.documentation import openai_errors
from fastapi_foundry.api.interruption import ClientGoneError
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.storage.stored_files import StoredFile
from fastapi_foundry.wire.files import DeletedFile, FileList, FileObject, file_object, page_of
from fastapi_foundry.wire.multipart import Data, MultipartParser, PartBegin, PartEnd, boundary_of

__all__ = ["UPLOAD_PATH", "router"]

UPLOAD_PATH: Final = "/v1/files"
"""Bodies sent here are never held in memory, and may be larger than others."""

router = APIRouter(prefix="/v1/files", tags=["OpenAI"])

_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                }
            }
        },
    }
}
_MOST_FILES: Final = 10_000


@router.post(
    "", response_model=FileObject, responses=openai_errors(400, 413, 503, 507), openapi_extra=_FORM, name="upload_file"
)
async def upload_file(request: Request) -> Response:
    """Upload a file of requests for a batch: lines of JSON."""
    parser = MultipartParser(boundary_of(request.headers.get("content-type", "")))
    file = await services_of(request).files.upload(principal_of(request), _parts(request, parser))
    return _json(_shown(file))


@router.get("", response_model=FileList, responses=openai_errors(400, 404, 503), name="list_files")
async def list_files(
    request: Request,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_FILES)] = _MOST_FILES,
    after: Annotated[str | None, Query(max_length=128)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Your files, the newest first; behind `after` where that is given."""
    found, has_more = await services_of(request).files.page(
        principal_of(request), limit=limit, after=after, purpose=purpose, oldest_first=order == "asc"
    )
    return _json(page_of([_shown(file) for file in found], has_more=has_more))


@router.get("/{file_id}", response_model=FileObject, responses=openai_errors(404, 503), name="get_file")
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of a file."""
    return _json(_shown(await services_of(request).files.get(principal_of(request), file_id)))


@router.get(
    "/{file_id}/content",
    responses={
        200: {"description": "The bytes of the file.", "content": {"application/octet-stream": {}}},
        **openai_errors(404, 503),
    },
    name="get_file_content",
)
async def get_file_content(request: Request, file_id: str) -> Response:
    """What is in a file."""
    file, path = await services_of(request).files.path(principal_of(request), file_id)
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete("/{file_id}", response_model=DeletedFile, responses=openai_errors(400, 404, 503), name="delete_file")
async def delete_file(request: Request, file_id: str) -> Response:
    """Delete a file, unless a batch that has not ended reads from it."""
    await services_of(request).files.delete(principal_of(request), file_id)
    return _json({"id": file_id, "object": "file", "deleted": True})


async def _parts(request: Request, parser: MultipartParser) -> AsyncIterator[PartBegin | Data | PartEnd]:
    """The form as it arrives.

    Raises:
        ClientGoneError: The client left before its end, or was too slow.
        InvalidInputError: It is no valid form.
    """
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        for part in parser.feed(message.get("body", b"")):
            yield part
        more = message.get("more_body", False)
    parser.finish()


def _shown(file: StoredFile) -> dict[str, Any]:
    return file_object(
        file_id=file.id,
        size_bytes=file.bytes,
        created_us=file.created_at,
        expires_us=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )


def _json(body: Any) -> Response:
    return JSONBytes(orjson.dumps(body))
