"""Sessions, their messages and votes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import Field, StringConstraints

from threadkeep import ids, messages, session_export, sessions, votes
from threadkeep.pages import MAXIMUM_CURSOR_CHARACTERS
from threadkeep.web import (
    ApiModel,
    Caller,
    Moment,
    Page,
    RequestModel,
    SignedIn,
    Visitor,
    lambda_handler,
    moment,
    raises,
)

router = APIRouter(prefix="/api/sessions", tags=["sessions"])

Surroundings = Annotated[Moment, Depends(moment)]
Title = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=sessions.MAXIMUM_TITLE_CHARACTERS)
]
Limit = Annotated[int, Query(ge=1, le=100, description="How many items a page has at most.")]
Cursor = Annotated[
    str | None, Query(max_length=MAXIMUM_CURSOR_CHARACTERS, description="The `nextCursor` of the page before.")
]
Words = Annotated[
    str | None,
    Query(max_length=200, pattern=r"^[^\x00]*$", description="Words in the title or in one message."),
]


class NewSession(RequestModel):
    """A session to make; with an id, the same call again finds it."""

    id: ids.ClientId | None = None
    title: Title = sessions.DEFAULT_TITLE
    visibility: sessions.Visibility = "private"


class SessionChange(RequestModel):
    """What a person may change of a session; what is not sent stays."""

    title: Title = sessions.DEFAULT_TITLE
    visibility: sessions.Visibility = "private"
    status: sessions.Status = "active"


class VoteChange(RequestModel):
    """Up, or down."""

    is_upvoted: Annotated[bool, Field(strict=True)]


class SessionView(ApiModel):
    """A session as every reader sees it."""

    id: UUID
    title: str
    visibility: sessions.Visibility
    status: sessions.Status
    created_at: datetime
    last_active: datetime
    message_count: int


class OwnSessionView(SessionView):
    """A session as its owner sees it: also what all its answers used, in tokens and USD."""

    total_input_tokens: int
    total_output_tokens: int
    total_cost: float
    last_context: dict[str, Any] | None


class UsageView(ApiModel):
    """What an answer used, in tokens and USD."""

    input_tokens: int
    output_tokens: int
    cost: float


class AttachmentView(ApiModel):
    """A file that came with a message, without its data; the size is in bytes, the URL a stored file's path."""

    filename: str | None
    media_type: str | None
    size: int | None
    url: str | None


class MessageView(ApiModel):
    """A message with its AI SDK UI message parts; `usage` is for the owner."""

    id: UUID
    role: messages.Role
    parts: list[dict[str, Any]]
    metadata: dict[str, Any]
    status: messages.Status
    created_at: datetime
    model: str | None
    usage: UsageView | None
    attachments: list[AttachmentView]


class ConversationView(ApiModel):
    """A session with all of its messages, oldest first."""

    session: OwnSessionView | SessionView
    messages: list[MessageView]


class VoteView(ApiModel):
    """The owner's vote on a message."""

    message_id: UUID
    is_upvoted: bool


@router.post(
    "",
    status_code=201,
    summary="Make a session",
    responses={200: {"model": OwnSessionView}, **raises("not_found:session", "conflict:session")},
)
async def create_session(
    new: Annotated[NewSession, Body(default_factory=NewSession)],
    user: Visitor,
    here: Surroundings,
    response: Response,
) -> OwnSessionView:
    """201 for a new one, 200 for the caller's own that has this id already."""
    session, is_new = await sessions.create(
        here.database,
        user,
        uuid4() if new.id is None else ids.session_id(new.id),
        title=new.title,
        visibility=new.visibility,
        guest_address=here.guest_address,
        new_guest=here.new_guest,
    )
    response.status_code = 201 if is_new else 200
    return OwnSessionView.model_validate(session)


@router.get("", summary="The caller's sessions, most recently active first")
async def list_sessions(
    user: SignedIn,
    here: Surroundings,
    q: Words = None,
    status: sessions.Status | None = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[SessionView]:
    words = (q or "").strip() or None
    found = await sessions.own_page(here.database, user, words=words, status=status, limit=limit, cursor=cursor)
    return Page[SessionView].model_validate(found)


@router.delete("", status_code=204, summary="Delete all sessions of the caller")
async def delete_all_sessions(user: SignedIn, here: Surroundings) -> Response:
    await sessions.delete_all(here.database, user)
    return Response(status_code=204)


@router.get("/{session}", summary="A session of the caller, or a public one")
async def read_session(session: ids.PathId, caller: Caller, here: Surroundings) -> OwnSessionView | SessionView:
    return _view(await sessions.read(here.database, caller, ids.session_id(session)))


@router.patch("/{session}", summary="Rename, publish or archive a session")
async def change_session(
    session: ids.PathId, change: SessionChange, user: SignedIn, here: Surroundings
) -> OwnSessionView:
    changes = change.model_dump(exclude_unset=True)
    return OwnSessionView.model_validate(await sessions.change(here.database, user, ids.session_id(session), changes))


@router.delete("/{session}", status_code=204, summary="Delete a session with everything in it")
async def delete_session(session: ids.PathId, user: SignedIn, here: Surroundings) -> Response:
    await sessions.delete(here.database, user, ids.session_id(session))
    return Response(status_code=204)


@router.get("/{session}/messages", summary="The messages of a session, the newest page first")
async def list_messages(
    session: ids.PathId, caller: Caller, here: Surroundings, limit: Limit = 50, cursor: Cursor = None
) -> Page[MessageView]:
    """Ascending within a page; `nextCursor` leads to older ones."""
    found = await messages.page(here.database, caller, ids.session_id(session), limit=limit, cursor=cursor)
    return Page[MessageView].model_validate(found)


@router.delete("/{session}/messages/{message}", status_code=204, summary="Delete a message and all after it")
async def delete_messages(session: ids.PathId, message: ids.PathId, user: SignedIn, here: Surroundings) -> Response:
    session_id, message_id = _ids(session, message)
    await messages.delete_from(here.database, user, session_id, message_id)
    return Response(status_code=204)


@router.get("/{session}/votes", summary="The caller's votes in a session")
async def list_votes(
    session: ids.PathId, user: SignedIn, here: Surroundings, limit: Limit = 100, cursor: Cursor = None
) -> Page[VoteView]:
    found = await votes.page(here.database, user, ids.session_id(session), limit=limit, cursor=cursor)
    return Page[VoteView].model_validate(found)


@router.put("/{session}/messages/{message}/vote", summary="Vote on a message")
async def put_vote(
    session: ids.PathId, message: ids.PathId, change: VoteChange, user: SignedIn, here: Surroundings
) -> VoteView:
    session_id, message_id = _ids(session, message)
    vote = votes.Vote(message_id, change.is_upvoted)
    await votes.put(here.database, user, session_id, vote)
    return VoteView.model_validate(vote)


@router.delete(
    "/{session}/messages/{message}/vote",
    status_code=204,
    summary="Take a vote back",
    responses=raises("not_found:vote"),
)
async def delete_vote(session: ids.PathId, message: ids.PathId, user: SignedIn, here: Surroundings) -> Response:
    session_id, message_id = _ids(session, message)
    await votes.take_back(here.database, user, session_id, message_id)
    return Response(status_code=204)


@router.get(
    "/{session}/export",
    summary="A whole session as a file",
    response_class=Response,
    responses={
        200: {"model": ConversationView, "content": {"text/markdown": {"schema": {"type": "string"}}}},
        **raises("too_large:export"),
    },
)
async def export_session(
    session: ids.PathId,
    caller: Caller,
    here: Surroundings,
    file_format: Annotated[Literal["markdown", "json"], Query(alias="format")] = "markdown",
) -> Response:
    session_id = ids.session_id(session)
    conversation = await session_export.read(here.database, caller, session_id)
    if file_format == "markdown":
        return _file(session_export.markdown(conversation), "text/markdown", f"{session_id}.md")
    view = ConversationView(
        session=_view(conversation.session),
        messages=[MessageView.model_validate(message) for message in conversation.messages],
    )
    return _file(view.model_dump_json(by_alias=True), "application/json", f"{session_id}.json")


def _view(session: sessions.Session) -> OwnSessionView | SessionView:
    if isinstance(session, sessions.OwnSession):
        return OwnSessionView.model_validate(session)
    return SessionView.model_validate(session)


def _ids(session: ids.PathId, message: ids.PathId) -> tuple[UUID, UUID]:
    session_id = ids.session_id(session)
    return session_id, ids.message_id(session_id, message, "messageId")


def _file(content: str, media_type: str, name: str) -> Response:
    return Response(content, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})


handler = lambda_handler(router)
