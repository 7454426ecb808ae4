"""Documents, their versions, differences and suggestions."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from typing import Annotated, Any, Final, Self
from urllib.parse import quote
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as PathParameter
from pydantic import Field, StringConstraints

from threadkeep import differences, documents, ids, sheets, suggestions
from threadkeep.errors import ThreadkeepError
from threadkeep.pages import MAXIMUM_CURSOR_CHARACTERS
from threadkeep.web import (
    ApiModel,
    Moment,
    Page,
    RequestModel,
    SignedIn,
    entity_tag,
    lambda_handler,
    moment,
    raises,
)
from threadkeep.web import IfMatch as WantedTags

router = APIRouter(prefix="/api/documents", tags=["documents"])

Surroundings = Annotated[Moment, Depends(moment)]
Title = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=documents.MAXIMUM_TITLE_CHARACTERS)
]
# Documents are measured in bytes, and what is too large has an error of its own.
Content = Annotated[str, Field(json_schema_extra={"maxLength": documents.MAXIMUM_CONTENT_BYTES})]
Text = Annotated[str, StringConstraints(max_length=suggestions.MAXIMUM_TEXT_CHARACTERS)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many items a page has at most.")]
Cursor = Annotated[
    str | None, Query(max_length=MAXIMUM_CURSOR_CHARACTERS, description="The `nextCursor` of the page before.")
]
Number = Annotated[int, Field(strict=True, ge=1, le=documents.LARGEST_VERSION)]

# The natural file of each kind: how its name ends, and its media type.
FILES: Final[dict[documents.Kind, tuple[str, str]]] = {
    "text": ("md", "text/markdown"),
    "python code": ("py", "text/x-python"),
    "mermaid code": ("mmd", "text/vnd.mermaid"),
    "sheet": ("csv", "text/csv"),
}

# An answer of AWS Lambda has 6 MB, headers included, and its body is a string of JSON in it. A difference holds twice
# what has changed, and many small changes are longer in JSON than their texts are.
MAXIMUM_DIFFERENCE_BYTES: Final = 6_000_000

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_IN_A_FILE_NAME: Final = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]+')


def condition(tags: WantedTags) -> list[UUID] | None:
    """The versions one of which must be the newest; None for any. A tag that is none of ours matches nothing."""
    if tags is None or tags == ["*"]:
        return None
    return [UUID(tag) for tag in tags if _UUID.fullmatch(tag)]


IfMatch = Annotated[list[UUID] | None, Depends(condition)]


class NewDocument(RequestModel):
    """A document to make; with an id, the same call again finds it."""

    id: ids.ClientId | None = None
    title: Title
    kind: documents.Kind = "text"
    content: Content = ""
    session_id: ids.ClientId | None = None


class DocumentChange(RequestModel):
    """The next version; without a title it keeps the one it has."""

    content: Content
    title: Title | None = None


class Revert(RequestModel):
    """The version to go back to."""

    version: Number


class NewSuggestion(RequestModel):
    """An edit of a version, by default of the newest, in which the original text stands exactly once."""

    original_text: Annotated[Text, StringConstraints(min_length=1)]
    suggested_text: Text
    description: Annotated[str, StringConstraints(max_length=suggestions.MAXIMUM_DESCRIPTION_CHARACTERS)] | None = None
    version: Number | None = None


class VersionView(ApiModel):
    """A version without its content; `size` in bytes, `metadata.origin` is person, agent, suggestion or revert."""

    id: UUID
    version: int
    version_id: UUID
    parent_version_id: UUID | None
    title: str
    kind: documents.Kind
    session_id: UUID | None
    created_at: datetime
    size: int
    metadata: dict[str, Any]


class ProblemView(ApiModel):
    """What is wrong at a place of a sheet; line and column begin with 1."""

    line: int
    column: int
    message: str


class DocumentView(VersionView):
    """A version with its content; of a sheet also what is wrong with it."""

    content: str
    problems: list[ProblemView] | None = None

    @classmethod
    async def of(cls, document: documents.Document) -> Self:
        view = cls.model_validate(document)
        if document.kind == "sheet":
            found = await asyncio.to_thread(sheets.find_problems, document.content)
            view.problems = [ProblemView.model_validate(problem) for problem in found]
        return view


class ChangeView(ApiModel):
    """Lines that stayed (context), went or came."""

    kind: differences.ChangeKind
    text: str


class HunkView(ApiModel):
    """Changes with the lines around them; line numbers begin with 1."""

    from_line: int
    from_count: int
    to_line: int
    to_count: int
    changes: list[ChangeView]


class DifferenceView(ApiModel):
    """The difference between two versions, as a unified diff and as hunks."""

    from_version: int
    to_version: int
    unified: str
    hunks: list[HunkView]


class SuggestionView(ApiModel):
    """A suggestion, and the version that it was made for."""

    id: UUID
    document_id: UUID
    version: int
    original_text: str
    suggested_text: str
    description: str | None
    state: suggestions.State
    made_by: str
    created_at: datetime
    resolved_at: datetime | None


class AcceptedView(ApiModel):
    """An accepted suggestion, and the newest version of its document."""

    suggestion: SuggestionView
    document: DocumentView


class UnappliedView(ApiModel):
    """A suggestion that stays open: its text is missing, or there more than once (ambiguous)."""

    id: UUID
    outcome: suggestions.Outcome


class AcceptedTogetherView(ApiModel):
    """The suggestions that were accepted, those that stay open, and the newest version."""

    accepted: list[UUID]
    unapplied: list[UnappliedView]
    document: DocumentView


@router.post(
    "",
    status_code=201,
    summary="Make a document",
    responses={
        200: {"model": DocumentView},
        **raises(
            "not_found:document", "not_found:session", "conflict:document", "conflict:documents", "too_large:document"
        ),
    },
)
async def create_document(new: NewDocument, user: SignedIn, here: Surroundings, response: Response) -> DocumentView:
    """201 for a new one, 200 for the caller's own that began as just this one."""
    document_id = uuid4() if new.id is None else ids.document_id(new.id)
    if new.kind == "sheet":
        await asyncio.to_thread(sheets.check, new.content)
    document, is_new = await documents.create(
        here.database,
        user,
        document_id,
        title=new.title,
        kind=new.kind,
        content=new.content,
        session=None if new.session_id is None else ids.session_id(new.session_id, "sessionId"),
    )
    response.status_code = 201 if is_new else 200
    return await _tagged(document, response)


@router.get(
    "",
    summary="The newest version of each document of the caller, last changed first",
    responses=raises("not_found:session"),
)
async def list_documents(
    user: SignedIn,
    here: Surroundings,
    session: Annotated[ids.PathId | None, Query(alias="sessionId")] = None,
    kind: documents.Kind | None = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[VersionView]:
    session_id = None if session is None else ids.session_id(session, "sessionId")
    found = await documents.own_page(here.database, user, session=session_id, kind=kind, limit=limit, cursor=cursor)
    return Page[VersionView].model_validate(found)


@router.get("/{document}", summary="The newest version of a document")
async def read_document(document: ids.PathId, user: SignedIn, here: Surroundings, response: Response) -> DocumentView:
    found = await documents.read(here.database, user, ids.document_id(document), noted_as="document_view")
    return await _tagged(found, response)


@router.put(
    "/{document}",
    summary="Save a document as a new version",
    responses=raises("conflict:versions", "too_large:document"),
)
async def save_document(
    document: ids.PathId,
    change: DocumentChange,
    user: SignedIn,
    here: Surroundings,
    if_match: IfMatch,
    response: Response,
) -> DocumentView:
    document_id = ids.document_id(document)
    if (await documents.kind_of(here.database, user, document_id)) == "sheet":
        await asyncio.to_thread(sheets.check, change.content)
    saved = await documents.save(
        here.database, user, document_id, content=change.content, title=change.title, if_match=if_match
    )
    return await _tagged(saved, response)


@router.delete("/{document}", status_code=204, summary="Delete a document with its versions and suggestions")
async def delete_document(document: ids.PathId, user: SignedIn, here: Surroundings, if_match: IfMatch) -> Response:
    await documents.delete(here.database, user, ids.document_id(document), if_match=if_match)
    return Response(status_code=204)


@router.get("/{document}/versions", summary="The versions of a document, newest first")
async def list_versions(
    document: ids.PathId, user: SignedIn, here: Surroundings, limit: Limit = 50, cursor: Cursor = None
) -> Page[VersionView]:
    found = await documents.versions(here.database, user, ids.document_id(document), limit=limit, cursor=cursor)
    return Page[VersionView].model_validate(found)


@router.get("/{document}/versions/{version}", summary="A version of a document")
async def read_version(
    document: ids.PathId,
    version: Annotated[int, PathParameter(ge=1, le=documents.LARGEST_VERSION)],
    user: SignedIn,
    here: Surroundings,
    response: Response,
) -> DocumentView:
    found = await documents.read(here.database, user, ids.document_id(document), version, noted_as="document_view")
    return await _tagged(found, response)


@router.delete(
    "/{document}/versions",
    status_code=204,
    summary="Delete all versions after one",
    responses=raises("not_found:version"),
)
async def delete_versions(
    document: ids.PathId,
    after: Annotated[int, Query(ge=1, le=documents.LARGEST_VERSION)],
    user: SignedIn,
    here: Surroundings,
    if_match: IfMatch,
) -> Response:
    await documents.delete_later(here.database, user, ids.document_id(document), after, if_match=if_match)
    return Response(status_code=204)


@router.get(
    "/{document}/diff",
    summary="The difference between two versions",
    response_model=DifferenceView,
    responses=raises("not_found:version", "too_large:difference"),
)
async def compare_versions(
    document: ids.PathId,
    user: SignedIn,
    here: Surroundings,
    from_version: Annotated[int, Query(alias="from", ge=1, le=documents.LARGEST_VERSION)],
    to_version: Annotated[int, Query(alias="to", ge=1, le=documents.LARGEST_VERSION)],
) -> Response:
    document_id = ids.document_id(document)
    old = await documents.read(here.database, user, document_id, from_version)
    new = await documents.read(here.database, user, document_id, to_version, noted_as="document_view")
    # In a thread: a megabyte takes a while, and others are being answered.
    return Response(await asyncio.to_thread(_difference, old, new), media_type="application/json")


@router.post(
    "/{document}/revert",
    summary="Make a new version out of an earlier one",
    responses=raises("not_found:version", "conflict:versions"),
)
async def revert_document(
    document: ids.PathId, revert: Revert, user: SignedIn, here: Surroundings, if_match: IfMatch, response: Response
) -> DocumentView:
    document_id = ids.document_id(document)
    made = await documents.revert(here.database, user, document_id, revert.version, if_match=if_match)
    return await _tagged(made, response)


@router.get(
    "/{document}/export",
    summary="The newest version as its natural file",
    response_class=Response,
    responses={200: {"content": {media_type: {"schema": {"type": "string"}} for _, media_type in FILES.values()}}},
)
async def export_document(document: ids.PathId, user: SignedIn, here: Surroundings) -> Response:
    found = await documents.read(here.database, user, ids.document_id(document), noted_as="document_export")
    ending, media_type = FILES[found.kind]
    headers = {"content-disposition": _disposition(found, ending), "etag": entity_tag(str(found.version_id))}
    return Response(found.content, media_type=media_type, headers=headers)


@router.get("/{document}/suggestions", summary="The suggestions for a document, oldest first")
async def list_suggestions(
    document: ids.PathId,
    user: SignedIn,
    here: Surroundings,
    state: suggestions.State | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[SuggestionView]:
    document_id = ids.document_id(document)
    found = await suggestions.page(here.database, user, document_id, state=state, limit=limit, cursor=cursor)
    return Page[SuggestionView].model_validate(found)


@router.post(
    "/{document}/suggestions",
    status_code=201,
    summary="Suggest an edit of a version",
    responses=raises("not_found:version", "conflict:suggestions"),
)
async def create_suggestion(
    document: ids.PathId, new: NewSuggestion, user: SignedIn, here: Surroundings
) -> SuggestionView:
    made = await suggestions.add(
        here.database,
        user,
        ids.document_id(document),
        original_text=new.original_text,
        suggested_text=new.suggested_text,
        description=new.description,
        version=new.version,
    )
    return SuggestionView.model_validate(made)


@router.post(
    "/{document}/suggestions/accept",
    summary="Accept all open suggestions that still fit, as one version",
    responses=raises("conflict:versions", "too_large:document"),
)
async def accept_suggestions(
    document: ids.PathId, user: SignedIn, here: Surroundings, response: Response
) -> AcceptedTogetherView:
    done = await suggestions.accept_all(here.database, user, ids.document_id(document))
    return AcceptedTogetherView(
        accepted=done.accepted,
        unapplied=[UnappliedView.model_validate(one) for one in done.unapplied],
        document=await _tagged(done.document, response),
    )


@router.post(
    "/{document}/suggestions/{suggestion}/accept",
    summary="Apply a suggestion to the newest version",
    responses=raises("conflict:suggestion", "conflict:resolution", "conflict:versions", "too_large:document"),
)
async def accept_suggestion(
    document: ids.PathId, suggestion: UUID, user: SignedIn, here: Surroundings, response: Response
) -> AcceptedView:
    accepted, newest = await suggestions.accept(here.database, user, ids.document_id(document), suggestion)
    return AcceptedView(suggestion=SuggestionView.model_validate(accepted), document=await _tagged(newest, response))


@router.post(
    "/{document}/suggestions/{suggestion}/reject",
    summary="Reject a suggestion",
    responses=raises("conflict:resolution"),
)
async def reject_suggestion(
    document: ids.PathId, suggestion: UUID, user: SignedIn, here: Surroundings
) -> SuggestionView:
    rejected = await suggestions.reject(here.database, user, ids.document_id(document), suggestion)
    return SuggestionView.model_validate(rejected)


async def _tagged(document: documents.Document, response: Response) -> DocumentView:
    response.headers["etag"] = entity_tag(str(document.version_id))
    return await DocumentView.of(document)


def _difference(old: documents.Document, new: documents.Document) -> str:
    found = differences.between(old.content, new.content, f"version {old.version}", f"version {new.version}")
    view = DifferenceView(
        from_version=old.version,
        to_version=new.version,
        unified=found.unified,
        hunks=[HunkView.model_validate(hunk) for hunk in found.hunks],
    )
    body = view.model_dump_json(by_alias=True)
    if len(json.dumps(body, ensure_ascii=False).encode()) > MAXIMUM_DIFFERENCE_BYTES:
        raise ThreadkeepError("too_large:difference")
    return body


def _disposition(document: documents.Document, ending: str) -> str:
    """The title as a file's name: in UTF-8 for whoever reads that, and without what is not ASCII for the others."""
    name = " ".join(_NOT_IN_A_FILE_NAME.sub(" ", document.title).split()).strip(" .") or "document"
    plain = " ".join(name.encode("ascii", "ignore").decode().split()) or "document"
    return f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{quote(f'{name}.{ending}', safe='')}"


handler = lambda_handler(router)
