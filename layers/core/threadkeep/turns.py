"""A turn's transactions: Begin and Finish around the model, the chunks between, and how others follow it.

What each does stands in `sql/0002_functions_turn.sql` and `sql/0010_functions_money.sql`; this is the way there and
back. Begin runs in the caller's own rights. Chunks and Finish run as the service, because a turn can outlive the
token that began it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep import activity, redaction
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE, Principal

LEASE: Final = timedelta(seconds=30)
HISTORY_MESSAGES: Final = 400
HISTORY_BYTES: Final = 8 * 1024 * 1024

Trigger = Literal["submit", "edit", "regenerate"]
Status = Literal["complete", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What a person says: AI SDK parts, and the files apart from them.

    An inline file is `{mediaType, filename, size, data}`, a stored one `{file, mediaType, filename}`.
    """

    id: UUID
    parts: list[dict[str, Any]]
    attachments: list[dict[str, Any]]
    title: str

    @property
    def files(self) -> list[UUID]:
        """The stored files."""
        return [UUID(attachment["file"]) for attachment in self.attachments if "file" in attachment]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One call of chat. `message` may only be missing when an answer is made again; `target` names what is replaced."""

    session: UUID
    message: UserMessage | None
    trigger: Trigger
    target: UUID | None = None
    model: str | None = None
    visibility: Literal["public", "private"] | None = None
    context: dict[str, Any] | None = None
    thinking: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A turn that is to run: what it answers, with which model, under which configuration.

    `model` and `title_model` are rows of `model_config`, None for the offline model. `configuration` is None unless
    it is newer than the caller's. `history` ends with the message to answer; `omitted` earlier messages are not in it.
    `fallback` are the models that may stand in, in their order. `cost_bound` is what is left of the budget for this
    turn, in USD, None without one. `exhausted` has the agents and own tools, the chat agent aside, that the caller
    cannot call now, each with the seconds until its limits have room.
    """

    session: UUID
    answer: UUID
    stream: UUID
    correlation_id: UUID
    title: str
    configuration_of: str
    model: dict[str, Any] | None
    title_model: dict[str, Any] | None
    configuration: dict[str, Any] | None
    history: list[dict[str, Any]]
    omitted: int = 0
    fallback: list[dict[str, Any]] = field(default_factory=list)
    cost_bound: Decimal | None = None
    exhausted: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Join:
    """The message is being answered already; its stream can be followed."""

    stream: UUID
    answer: UUID


@dataclass(frozen=True, slots=True)
class Replay:
    """The message was answered already."""

    answer: UUID
    status: Status
    parts: list[dict[str, Any]]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A turn's last word. `usage`, `activity` and `error` have the members that the SQL functions read."""

    status: Status
    parts: list[dict[str, Any]]
    model_messages: list[dict[str, Any]] | None
    metadata: dict[str, Any]
    model: str
    usage: list[dict[str, Any]]
    activity: list[dict[str, Any]]
    error: dict[str, Any] | None
    title: str | None
    chunk: str | None
    chunk_seq: int


_BEGIN: Final = """
    select private.begin_turn(
        p_session => %(session)s,
        p_message => %(message)s,
        p_parts => %(parts)s,
        p_attachments => %(attachments)s,
        p_title => %(title)s,
        p_trigger => %(trigger)s,
        p_target => %(target)s,
        p_answer => %(answer)s,
        p_stream => %(stream)s,
        p_correlation => %(correlation)s,
        p_model => %(model)s,
        p_providers => %(providers)s,
        p_visibility => %(visibility)s,
        p_context => %(context)s,
        p_configuration_version => %(configuration_version)s,
        p_lease => %(lease)s,
        p_guest_address => %(guest_address)s,
        p_new_guest => %(new_guest)s,
        p_email => %(email)s,
        p_name => %(name)s,
        p_history => %(history)s,
        p_history_bytes => %(history_bytes)s
    ) as begun
"""


async def begin(
    database: Database,
    principal: Principal,
    request: TurnRequest,
    *,
    answer: UUID,
    stream: UUID,
    correlation_id: UUID,
    providers: list[str],
    configuration_version: int | None,
    guest_address: str | None,
    new_guest: bool,
) -> Run | Join | Replay:
    """All that comes before the model, in one round trip.

    `providers` are those with a key here. Raises `forbidden:account`, `forbidden:agent`, `not_found:session`,
    `not_found:message`, `not_found:model`, `not_found:file`, `conflict:chat`, `conflict:message`, `conflict:upload`,
    `conflict:file`, `invalid:file`, `rate_limit:chat`, `rate_limit:guest` and `rate_limit:budget`; then nothing has
    happened and nothing was consumed.
    """
    message = request.message
    note = activity.note(
        database,
        "chat_message_send",
        ("chat", request.session),
        session=request.session,
        metadata={
            "trigger": request.trigger,
            "messageId": message and str(message.id),
            "files": len(message.attachments) if message else 0,
        },
    )
    [row], _ = await database.run(
        principal,
        (
            _BEGIN,
            {
                "session": request.session,
                "message": message.id if message else None,
                "parts": Jsonb(message.parts) if message else None,
                "attachments": Jsonb(message.attachments) if message else None,
                "title": message.title if message else None,
                "trigger": request.trigger,
                "target": request.target,
                "answer": answer,
                "stream": stream,
                "correlation": correlation_id,
                "model": request.model,
                "providers": providers,
                "visibility": request.visibility,
                "context": Jsonb(request.context) if request.context is not None else None,
                "configuration_version": configuration_version,
                "lease": LEASE,
                "guest_address": guest_address,
                "new_guest": new_guest,
                "email": principal.email,
                "name": principal.name,
                "history": HISTORY_MESSAGES,
                "history_bytes": HISTORY_BYTES,
            },
        ),
        (
            "select private.log_turn_begun(%(activity)s, %(session)s, %(answer)s, %(new_guest)s)",
            {"activity": note, "session": request.session, "answer": answer, "new_guest": new_guest},
        ),
        require_active=False,
    )
    begun = row["begun"]
    match begun["outcome"]:
        case "join":
            return Join(UUID(begun["stream"]), UUID(begun["answer"]))
        case "replay":
            return Replay(UUID(begun["answer"]), begun["status"], begun["parts"], begun["metadata"])
    choice = begun["choice"]
    return Run(
        session=request.session,
        answer=answer,
        stream=stream,
        correlation_id=correlation_id,
        title=begun["title"],
        configuration_of=choice["configuration"],
        model=choice["model"],
        title_model=choice["titleModel"],
        configuration=begun["configuration"],
        history=begun["history"],
        omitted=begun["omitted"],
        fallback=choice["fallback"] or [],
        cost_bound=None if begun["costBound"] is None else Decimal(str(begun["costBound"])),
        exhausted=begun["exhausted"],
    )


async def write_chunk(
    database: Database, stream: UUID, seq: int, payload: str | None, usage: list[dict[str, Any]] | None
) -> Literal["run", "stop", "lost", "gone"]:
    """Keeps a running turn's events (JSON lines; None only renews the lease) and tells how the stream stands.

    It need not outlive a crash of the server, so it does not wait for the disk.
    """
    _, [row] = await database.run(
        SERVICE,
        ("select set_config('synchronous_commit', 'off', true)", {}),
        (
            "select private.write_chunk(%(stream)s, %(seq)s, %(payload)s, %(usage)s, %(lease)s) as verdict",
            {
                "stream": stream,
                "seq": seq,
                "payload": payload,
                "usage": Jsonb(usage) if usage is not None else None,
                "lease": LEASE,
            },
        ),
    )
    verdict: Literal["run", "stop", "lost", "gone"] = row["verdict"]
    return verdict


_FINISH: Final = """
    select private.finish_turn(
        p_user => %(user)s,
        p_session => %(session)s,
        p_answer => %(answer)s,
        p_stream => %(stream)s,
        p_correlation => %(correlation)s,
        p_status => %(status)s,
        p_parts => %(parts)s,
        p_model_messages => %(model_messages)s,
        p_metadata => %(metadata)s,
        p_model => %(model)s,
        p_usage => %(usage)s,
        p_activity => %(activity)s,
        p_error => %(error)s,
        p_title_from => %(title_from)s,
        p_title_to => %(title_to)s,
        p_chunk_seq => %(chunk_seq)s,
        p_chunk => %(chunk)s
    ) as verdict
"""


async def finish(
    database: Database, user_id: UUID, run: Run, ending: Ending
) -> Literal["stored", "superseded", "session_gone", "gone"]:
    """A turn's end, whatever it was, in one round trip; repeating it changes nothing."""
    [row] = await database.rows(
        SERVICE,
        _FINISH,
        {
            "user": user_id,
            "session": run.session,
            "answer": run.answer,
            "stream": run.stream,
            "correlation": run.correlation_id,
            "status": ending.status,
            "parts": Jsonb(ending.parts),
            "model_messages": Jsonb(ending.model_messages) if ending.model_messages is not None else None,
            "metadata": Jsonb(ending.metadata),
            "model": ending.model,
            "usage": Jsonb(ending.usage),
            "activity": Jsonb(ending.activity),
            "error": Jsonb(redaction.redacted(ending.error)) if ending.error else None,
            "title_from": run.title,
            "title_to": ending.title,
            "chunk_seq": ending.chunk_seq,
            "chunk": ending.chunk,
        },
    )
    verdict: Literal["stored", "superseded", "session_gone", "gone"] = row["verdict"]
    return verdict


async def request_stop(database: Database, principal: Principal, session: UUID) -> bool:
    """Asks the session's running turn to end for good; False if nothing runs."""
    stop = """
        select asked.stopping, case when asked.stopping then private.log_user_activity(%(activity)s) end
        from private.request_stop(%(session)s) as asked (stopping)
    """
    note = activity.note(database, "chat_stop", ("chat", session), session=session)
    [row] = await database.rows(principal, stop, {"session": session, "activity": note})
    return bool(row["stopping"])


async def running_stream(database: Database, principal: Principal, session: UUID) -> Join | None:
    """The stream of the caller's session's running turn, if there is one; a dead one is recovered on the way."""
    if principal.user_id is None:
        return None
    _, rows = await database.run(
        principal,
        (
            """
            select private.end_running_turn(c.id, 'lease')
            from public."Chat" as c
            where c.id = %(session)s
                and c.user_id = auth.uid()
            """,
            {"session": session},
        ),
        (
            """
            select s.id, s.message_id, private.log_user_activity(%(activity)s)
            from public."Stream" as s
            where s."chatId" = %(session)s
                and s.status = 'running'
            """,
            {
                "session": session,
                "activity": activity.note(database, "chat_resume", ("chat", session), session=session),
            },
        ),
    )
    return Join(rows[0]["id"], rows[0]["message_id"]) if rows else None


@dataclass(frozen=True, slots=True)
class Chunks:
    """What a stream has new: events as JSON lines, up to `seq`, and whether more can come."""

    lines: list[str]
    seq: int
    is_over: bool


async def chunks_after(database: Database, principal: Principal, session: UUID, stream: UUID, seq: int) -> Chunks:
    """The events of a stream after `seq` (-1: all), as its follower; a turn that died is recovered on the way.

    The state is read before the chunks: what closes a stream writes its last chunk in the same transaction.
    """
    parameters = {"session": session, "stream": stream, "seq": seq}
    _, states, rows = await database.run(
        principal,
        ("select private.end_running_turn(%(session)s, 'lease')", parameters),
        ("""select s.status from public."Stream" as s where s.id = %(stream)s""", parameters),
        (
            """
            select c.seq, c.payload
            from public.stream_chunks as c
            where c.stream_id = %(stream)s
                and c.seq > %(seq)s
            order by c.seq
            """,
            parameters,
        ),
    )
    lines = [line for row in rows for line in row["payload"].split("\n") if line]
    is_over = not states or states[0]["status"] != "running"
    return Chunks(lines, rows[-1]["seq"] if rows else seq, is_over)


async def stored_answer(database: Database, principal: Principal, session: UUID, answer: UUID) -> Replay:
    """An answer as it is stored; `not_found:message` if it was deleted or replaced meanwhile."""
    row = await database.row(
        principal,
        """
        select m.id, m.status, m.parts, m.metadata
        from public."Message_v2" as m
        where m."chatId" = %(session)s
            and m.id = %(answer)s
        """,
        {"session": session, "answer": answer},
    )
    if row is None:
        raise ThreadkeepError("not_found:message")
    return Replay(row["id"], row["status"], row["parts"], row["metadata"])


def as_lines(events: list[dict[str, Any]]) -> str:
    """Events in the form in which chunks are kept."""
    return "\n".join(json.dumps(event, separators=(",", ":"), ensure_ascii=False) for event in events)
