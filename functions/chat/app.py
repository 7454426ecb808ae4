"""`POST /api/chat`, following its stream, and stopping it.

The same folder serves twice: streaming under a web server (`create`), and whole answers as a Lambda handler.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from threadkeep import ids, turns
from threadkeep.chat_input import ChatBody
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.web import Caller, Moment, SignedIn, Visitor, create_app, lambda_handler, moment, raises
from threadkeep_agents.conversations import Conversations, replay
from threadkeep_agents.turn import Turn
from threadkeep_agents.ui_stream import HEADERS

router = APIRouter(prefix="/api/chat", tags=["chat"])

STREAM: Final[dict[str, Any]] = {
    "text/event-stream": {
        "itemSchema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]},
        "example": 'data: {"type":"start"}\n\ndata: [DONE]\n\n',
    }
}
WHOLE: Final[dict[str, Any]] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "sessionId": {"type": "string", "format": "uuid"},
                "message": {"type": "object"},
                "usage": {"type": ["object", "null"]},
            },
            "required": ["sessionId", "message", "usage"],
        }
    }
}
# Those after the answer began come in the stream, or as the answer to who accepts only JSON.
FAILURES: Final = (
    "bad_request:api",
    "forbidden:agent",
    "not_found:session",
    "not_found:message",
    "not_found:model",
    "not_found:file",
    "conflict:file",
    "conflict:upload",
    "invalid:file",
    "invalid:kind",
    "unavailable:files",
    "conflict:chat",
    "conflict:message",
    "too_large:context",
    "too_large:turn",
    "too_large:cost",
    "invalid:content",
    "rate_limit:chat",
    "rate_limit:budget",
    "internal:api",
    "provider:chat",
    "provider:configuration",
    "unavailable:answer",
    "unavailable:api",
    "unavailable:model",
    "timeout:chat",
)
GITHUB_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,4000}")


@router.post(
    "",
    summary="Say something and get the answer, as a stream or whole",
    response_class=Response,
    responses={200: {"content": STREAM | WHOLE}, **raises(*FAILURES)},
)
async def chat(
    body: ChatBody, request: Request, principal: Visitor, here: Annotated[Moment, Depends(moment)]
) -> Response:
    """Answers with the AI SDK's UI message stream, or with `{sessionId, message, usage}` to who accepts only JSON."""
    turn_request = body.turn_request(str(request.base_url))
    conversations = _conversations(request)
    begun = await conversations.begin(
        principal,
        turn_request,
        call=here.call,
        guest_address=here.guest_address,
        new_guest=here.new_guest,
        github_token=_github_token(request),
    )
    session = turn_request.session
    if _wants_json(request):
        return await _whole(conversations, principal, session, begun)
    if isinstance(begun, turns.Replay):
        return Response(replay(begun), headers=HEADERS | {"x-session-id": str(session)})
    if isinstance(begun, turns.Join):
        return AnswerStream(session, conversations.follow(principal, session, begun))
    return AnswerStream(session, begun.follow(), until=begun)


@router.get(
    "/{session}/stream",
    summary="Follow the answer that is being given",
    response_class=Response,
    responses={200: {"content": STREAM}, 204: {"description": "Nothing to follow."}},
)
async def stream(
    session: ids.PathId, request: Request, principal: Caller, here: Annotated[Moment, Depends(moment)]
) -> Response:
    """Replays the running answer from its start and goes on live.

    204 when there is nothing for this caller to follow: a client resumes before it knows whether the session exists.
    """
    session_id = ids.session_id(session)
    conversations = _conversations(request)
    join = await conversations.running(principal, session_id, call=here.call)
    if join is None:
        return Response(status_code=204)
    return AnswerStream(session_id, conversations.follow(principal, session_id, join))


@router.post(
    "/{session}/stop",
    summary="Stop the answer that is being given",
    status_code=202,
    response_class=Response,
    responses={204: {"description": "Nothing runs."}},
)
async def stop(
    session: ids.PathId, request: Request, principal: SignedIn, here: Annotated[Moment, Depends(moment)]
) -> Response:
    """Ends the running answer for good; what it said so far stays. 204 when nothing runs."""
    is_stopping = await _conversations(request).stop(principal, ids.session_id(session), call=here.call)
    return Response(status_code=202 if is_stopping else 204)


class AnswerStream(Response):
    """Server-sent events. A client that leaves ends neither the turn nor, on Lambda, the invocation before Finish."""

    def __init__(self, session: UUID, events: AsyncIterator[bytes], *, until: Turn | None = None) -> None:
        super().__init__(headers=HEADERS | {"x-session-id": str(session)})
        del self.headers["content-length"]
        self._events = events
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for batch in self._events:
                await send({"type": "http.response.body", "body": batch, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            # The client left.
            if self._until is None:
                return
        if self._until is not None:
            await self._until.wait()


async def _whole(
    conversations: Conversations, principal: Principal, session: UUID, begun: Turn | turns.Join | turns.Replay
) -> Response:
    if isinstance(begun, Turn):
        answer = await begun.wait()
        if begun.error is not None:
            begun.error.extra |= {"sessionId": str(session), "messageId": str(answer.answer)}
            raise begun.error
    elif isinstance(begun, turns.Join):
        answer = await conversations.answer(principal, session, begun)
    else:
        answer = begun
    return JSONResponse(
        {
            "sessionId": str(session),
            "message": {
                "id": str(answer.answer),
                "role": "assistant",
                "status": answer.status,
                "parts": answer.parts,
                "metadata": answer.metadata,
            },
            "usage": answer.metadata.get("usage"),
        },
        headers={"x-session-id": str(session)},
    )


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*")
    return "application/json" in accepted and "text/event-stream" not in accepted and "*/*" not in accepted


def _github_token(request: Request) -> str | None:
    """The person's own token for GitHub, for this turn alone."""
    token = request.headers.get("x-github-token", "").strip()
    if not token:
        return None
    if not GITHUB_TOKEN.fullmatch(token):
        raise ThreadkeepError("bad_request:api", "The header X-GitHub-Token holds no token.")
    return token


def _conversations(request: Request) -> Conversations:
    """The turns of this process; made at the first request, because the model library comes with it."""
    state: Any = request.app.state
    if not hasattr(state, "conversations"):
        state.conversations = Conversations(state.runtime.settings, state.runtime.database)
    conversations: Conversations = state.conversations
    return conversations


def create() -> FastAPI:
    """The application for a web server."""
    return create_app(router)


handler = lambda_handler(router)
