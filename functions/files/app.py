"""Attached files: the form to upload one, what is known of it and where its bytes are, deleting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urljoin
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import Field, StringConstraints

from threadkeep import files
from threadkeep.file_kinds import MAXIMUM_BYTES, Kind
from threadkeep.storage import DOWNLOAD_SECONDS, Storage
from threadkeep.web import ApiModel, Caller, Moment, RequestModel, SignedIn, lambda_handler, moment, raises

router = APIRouter(prefix=files.PATH, tags=["files"])

Surroundings = Annotated[Moment, Depends(moment)]
# A browser may show the image it was redirected to a while longer, as long as the address is surely good.
REDIRECT_SECONDS: Final = DOWNLOAD_SECONDS // 2


def store(request: Request) -> Storage | None:
    """Where the files of this process are."""
    storage: Storage | None = request.app.state.runtime.storage
    return storage


Store = Annotated[Storage | None, Depends(store)]


class NewFile(RequestModel):
    """A file that is to be uploaded; the size is in bytes, the media type may be empty as browsers give it."""

    name: Annotated[str, StringConstraints(max_length=files.MAXIMUM_NAME_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f/\\]+$")]
    media_type: Annotated[str, StringConstraints(max_length=200)]
    size: Annotated[int, Field(strict=True, ge=1, json_schema_extra={"maximum": max(MAXIMUM_BYTES.values())})]


class UploadView(ApiModel):
    """The form to post as `multipart/form-data`: these fields, then the file as the field `file`."""

    url: str
    fields: dict[str, str]
    method: str


class DownloadView(ApiModel):
    """A signed address of the bytes, for whoever has it, until it expires (UTC)."""

    url: str
    expires_at: datetime


class FileView(ApiModel):
    """A file; `url` is how a message names it, `download` is there once it is ready."""

    id: UUID
    url: str
    name: str
    media_type: str
    kind: Kind
    size: int
    state: files.State
    problem: str | None
    created_at: datetime
    session_id: UUID | None
    message_id: UUID | None
    download: DownloadView | None = None


class NewFileView(FileView):
    """A file that is to be uploaded, and the form for it, which is good for 15 minutes."""

    upload: UploadView


@router.post(
    "",
    status_code=201,
    summary="Announce a file and get the form to upload it",
    responses=raises("too_large:file", "too_large:files", "rate_limit:files", "unavailable:files"),
)
async def create_file(
    new: NewFile, user: SignedIn, here: Surroundings, storage: Store, request: Request
) -> NewFileView:
    """Size and media type are bound in the form's signature; the upload is checked before a message may name it."""
    file, form = await files.create(
        here.database, storage, user, name=new.name, media_type=new.media_type, size=new.size
    )
    upload = UploadView(url=_absolute(request, form.url), fields=form.fields, method=form.method)
    return NewFileView(**FileView.model_validate(file).model_dump(), upload=upload)


@router.get(
    "/{file}",
    summary="A file of the caller, or of a public session",
    response_model=FileView,
    responses={
        302: {"description": "To the bytes, for `?redirect=true` and for images and links of a page."},
        **raises("conflict:upload", "invalid:file", "unavailable:files"),
    },
)
async def read_file(
    file: UUID,
    caller: Caller,
    here: Surroundings,
    storage: Store,
    request: Request,
    redirect: Annotated[
        bool | None, Query(description="Whether to lead to the bytes; by `Accept` if not said.")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
) -> FileView | Response:
    """An upload that waits is checked by this call.

    Without `redirect`, a caller that names `image/` or `text/html` in its `Accept` and not `application/json`, as a
    browser does for an image or a link, is led to the bytes; any other gets JSON.
    """
    found = await files.read(here.database, storage, caller, file)
    if redirect if redirect is not None else _is_of_a_page(accept):
        url = _absolute(request, await files.download_url(storage, found))
        return RedirectResponse(url, 302, {"cache-control": f"private, max-age={REDIRECT_SECONDS}", "vary": "accept"})
    view = FileView.model_validate(found)
    if found.state == "ready":
        expires_at = datetime.now(UTC) + timedelta(seconds=DOWNLOAD_SECONDS)
        url = _absolute(request, await files.download_url(storage, found))
        view.download = DownloadView(url=url, expires_at=expires_at)
    return view


@router.delete("/{file}", status_code=204, summary="Delete a file, whatever names it")
async def delete_file(file: UUID, user: SignedIn, here: Surroundings) -> Response:
    await files.delete(here.database, user, file)
    return Response(status_code=204)


def _is_of_a_page(accept: str) -> bool:
    return ("image/" in accept or "text/html" in accept) and "application/json" not in accept


def _absolute(request: Request, url: str) -> str:
    """The local store's addresses are paths of this API."""
    return urljoin(str(request.base_url), url)


handler = lambda_handler(router)
