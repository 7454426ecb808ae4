"""What S3 does on AWS: takes uploads by signed forms, and gives files out at signed addresses."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile

from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import MAXIMUM_BYTES
from threadkeep.storage import CONTENT_PATH, UPLOADS_PATH, DiskStorage

# The form's fields, their names and the lines between them.
FORM_BYTES: Final = 16 * 1024

router = APIRouter(include_in_schema=False)


@router.post(UPLOADS_PATH, status_code=204)
async def receive(request: Request) -> Response:
    storage = _storage(request)
    # Refused by its length before it is read: a form's parts are kept on the disk until it is whole.
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise ThreadkeepError("bad_request:api", "Send the form with its Content-Length.")
    if int(length) > max(MAXIMUM_BYTES.values()) + FORM_BYTES:
        raise ThreadkeepError("too_large:file")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ThreadkeepError("unsupported_media:api", "Send this form as multipart/form-data.")
    async with request.form(max_files=1, max_fields=10, max_part_size=FORM_BYTES) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ThreadkeepError("bad_request:api", "The form has no file.")
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        await storage.receive(fields, await file.read())
    return Response(status_code=204)


@router.get(CONTENT_PATH + "/{token}")
async def content(token: str, request: Request) -> FileResponse:
    path, headers = _storage(request).granted_file(token)
    # Whatever is in the file, a browser does not guess what it is, and runs nothing of it on this address.
    safe = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'"}
    return FileResponse(path, headers=headers | safe | {"cache-control": "private, max-age=300"})


def _storage(request: Request) -> DiskStorage:
    storage = request.app.state.runtime.storage
    if not isinstance(storage, DiskStorage):
        raise ThreadkeepError("not_found:api")
    return storage
