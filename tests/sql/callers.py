"""Who may call the database, what each of them owns there, and how one tries something as one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
Values = dict[str, Any]

BECOME: Final = "select set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true)"


@dataclass(frozen=True, slots=True)
class Caller:
    """A role with claims, as the functions give them to a transaction; `rows_of` says whose rows it goes for.

    Without a role it is the login role by itself.
    """

    name: str
    rows_of: str
    role: str | None = None
    user: UUID | None = None
    is_guest: bool = False
    is_admin: bool = False

    @property
    def claims(self) -> str:
        return json.dumps(
            {
                "sub": str(self.user) if self.user else None,
                "role": self.role,
                "app_metadata": {"role": "admin" if self.is_admin else "user"},
                "is_anonymous": self.is_guest,
            }
        )


@dataclass(frozen=True, slots=True)
class World:
    """A migrated database with rows in every table, the callers, and what each of the four owners has.

    `things` names the ids of an owner's rows, and `fresh` ids that nothing has.
    """

    callers: dict[str, Caller]
    things: dict[str, Values]


class Ground(NamedTuple):
    """A database with its world: the connections of its owner and of the functions' login role."""

    owner: Connection
    login: Connection
    world: World

    def caller(self, name: str) -> Caller:
        return self.world.callers[name]

    def values(self, caller: Caller) -> Values:
        return self.world.things[caller.rows_of]


@contextmanager
def ground_on(owner_dsn: str, login_dsn: str) -> Iterator[Ground]:
    """Rows in every table of a freshly migrated database, and its connections."""
    with (
        psycopg.connect(owner_dsn, autocommit=True) as owner,
        psycopg.connect(login_dsn, autocommit=True) as login,
    ):
        yield Ground(owner, login, build_world(owner))


OWNERS: Final = ("owner", "guest", "disabled", "other")


def build_world(connection: Connection) -> World:
    """Fill a freshly migrated database, as its owner."""
    shared = _shared_rows(connection)
    things = {owner: rows_of(connection, _profile(connection, is_guest=owner == "guest")) | shared for owner in OWNERS}
    admin, disabled_admin = (_profile(connection, is_guest=False) for _ in range(2))
    for user in (things["disabled"]["user"], disabled_admin):
        connection.execute("update public.user_profiles set disabled_at = now() where id = %s", [user])
    users = {name: things[name]["user"] for name in OWNERS}
    callers = [
        Caller("anonymous", "owner", "anon"),
        Caller("guest", "owner", "authenticated", users["guest"], is_guest=True),
        Caller("other", "owner", "authenticated", users["other"]),
        Caller("owner", "owner", "authenticated", users["owner"]),
        Caller("guest-owner", "guest", "authenticated", users["guest"], is_guest=True),
        Caller("disabled", "disabled", "authenticated", users["disabled"]),
        Caller("admin", "owner", "authenticated", admin, is_admin=True),
        Caller("disabled-admin", "owner", "authenticated", disabled_admin, is_admin=True),
        Caller("service", "owner", "service_role"),
        Caller("login", "owner"),
    ]
    return World({caller.name: caller for caller in callers}, things)


@contextmanager
def acting_as(connection: Connection, caller: Caller) -> Iterator[None]:
    """A transaction of the caller, as the functions make one; it is rolled back."""
    with connection.transaction(force_rollback=True):
        if caller.role:
            connection.execute(BECOME, {"role": caller.role, "claims": caller.claims})
        yield


def outcome(connection: Connection, caller: Caller, statement: str, values: Mapping[str, Any]) -> str:
    """What comes of a statement of the caller: `refused`, `nothing` (no row was touched) or `done`; then undone.

    Any other error than that of a missing right is raised.
    """
    try:
        with acting_as(connection, caller):
            touched = connection.execute(statement.encode(), values).rowcount
            connection.execute("set constraints all immediate")
    except psycopg.errors.InsufficientPrivilege:
        return "refused"
    return "done" if touched else "nothing"


def refusal(connection: Connection, caller: Caller, statement: str, values: Mapping[str, Any]) -> str:
    """The SQLSTATE with which a statement of the caller fails, or an empty string."""
    try:
        with acting_as(connection, caller):
            connection.execute(statement.encode(), values)
            connection.execute("set constraints all immediate")
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


@contextmanager
def refused_with(sqlstate: str) -> Iterator[None]:
    """Within it the database has to refuse something with this SQLSTATE."""
    with pytest.raises(psycopg.Error) as error:
        yield
    assert error.value.sqlstate == sqlstate


def _insert(connection: Connection, table: str, **values: Any) -> Any:
    columns = ", ".join(f'"{name}"' for name in values)
    marks = ", ".join(f"%({name})s" for name in values)
    statement = f"insert into {table} ({columns}) values ({marks}) returning *"
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None
    return row[0]


def _profile(connection: Connection, *, is_guest: bool) -> UUID:
    user = uuid4()
    _insert(connection, "public.user_profiles", id=user, is_guest=is_guest)
    return user


def rows_of(connection: Connection, user: UUID) -> Values:
    """Give a user a row in every table that has users; the ids, and the user as `user`."""
    of_user, correlated = {"user_id": user}, {"correlation_id": uuid4()}
    parts = Jsonb([{"type": "text", "text": "Hello"}])
    chat = _insert(connection, 'public."Chat"', title="A session", **of_user)
    question = _insert(connection, 'public."Message_v2"', chatId=chat, role="user", parts=parts)
    answer = _insert(connection, 'public."Message_v2"', chatId=chat, role="assistant", status="streaming", parts=parts)
    _insert(connection, 'public."Vote_v2"', chatId=chat, messageId=answer, isUpvoted=True)
    document = _insert(connection, 'public."Document"', title="A document", chat_id=chat, **of_user)
    version = {"documentId": document, "documentCreatedAt": _created_at(connection, document)}
    texts = {"originalText": "a", "suggestedText": "b"}
    lease = {"lease_until": "2100-01-01"}
    stream = _insert(connection, 'public."Stream"', chatId=chat, message_id=answer, **lease, **correlated)
    _insert(connection, "public.stream_chunks", stream_id=stream, seq=1, payload="")
    file = {"storage_key": str(uuid4()), "filename": "a", "kind": "text", "media_type": "text/plain", "size_bytes": 1}
    agent = {"agent_type": "chat_model_agent"}
    window = {"period_start": "2020-01-01", "period_end": "2020-01-02", "limit_type": "daily", "limit_value": 1}
    spent = {"day": "2020-01-01", "provider": "p", "model_used": "m"}
    budget = {"scope": "user", "month": "2020-01-01", "amount": 1, "stream_id": stream, **lease}
    activity = {"activity_type": "chat_create", "activity_category": "chat", **correlated}
    operation = {"operation_type": "search", "operation_category": "search", **agent, **correlated}
    error = {"error_type": "api", "error_category": "api", "error_message": "An error"}
    return {
        "user": user,
        "chat": chat,
        "question": question,
        "answer": answer,
        "document": document,
        "created_at": version["documentCreatedAt"],
        "suggestion": _insert(connection, 'public."Suggestion"', **version, **texts, **of_user),
        "stream": stream,
        "file": _insert(connection, "public.files", **file, **of_user),
        "usage": _insert(connection, "public.usage_logs", request_id=uuid4(), **agent, **of_user),
        "spent": _insert(connection, "public.usage_user_daily", **spent, **agent, **of_user),
        "window": _insert(connection, "public.rate_limit_tracking", **agent, **window, **of_user),
        "reservation": _insert(connection, "public.budget_reservations", **budget, **of_user),
        "spend": _insert(connection, "private.user_spend", month="2020-01-01", **of_user),
        "repository": _insert(connection, "public.github_repositories", repo_owner="a", repo_name="b", **of_user),
        "error": _insert(connection, "public.error_logs", **error, **of_user),
        "activity": _insert(connection, "public.user_activity_logs", **activity, **of_user),
        "operation": _insert(connection, "public.agent_activity_logs", **operation, **of_user),
        "fresh": uuid4(),
        "parts": parts,
    }


def _created_at(connection: Connection, document: UUID) -> Any:
    row = connection.execute('select "createdAt" from public."Document" where id = %s', [document]).fetchone()
    assert row is not None
    return row[0]


def _shared_rows(connection: Connection) -> Values:
    """Rows that are nobody's; one seeded configuration is taken away, so that somebody can add it."""
    taken = connection.execute(
        """
        delete from public.admin_config
        where config_key = 'git_mcp_agent_anthropic'
        returning config_data
        """
    ).fetchone()
    assert taken is not None
    prices = {"input_pricing_per_million_tokens": 1, "output_pricing_per_million_tokens": 1}
    daily = {"day": "2020-01-01", "agent_type": "a", "provider": "google", "model_used": "m"}
    return {
        "configuration": Jsonb(taken[0]),
        "model": _insert(connection, "public.model_config", model_id="m", name="M", provider="google", **prices),
        "daily": _insert(connection, "public.usage_daily", user_kind="guest", shard=0, **daily),
        "spend_of_guests": _insert(connection, "private.guest_spend", month="2020-01-01", shard=0),
        "revoked": _insert(
            connection, "private.revoked_principals", user_id=uuid4(), reason="deleted", until="2100-01-01"
        ),
        "leaving": _insert(
            connection, "private.identity_deletions", user_id=uuid4(), issuer="issuer", subject="subject"
        ),
        "address": _insert(
            connection,
            "private.guest_windows",
            address_hash="a",
            purpose="guest",
            limit_type="daily",
            period_start="2020-01-01",
        ),
        "report": _insert(
            connection,
            "private.upkeep_reports",
            started_at="2020-01-01",
            finished_at="2020-01-01",
            seconds=0,
            kinds=Jsonb([]),
        ),
        "request": _insert(connection, "private.upkeep_requests", requested_at="2020-01-01"),
        "size": _insert(
            connection, "private.table_sizes", measured_on="2020-01-01", name="t", bytes=0, estimated_rows=0
        ),
        "object": _insert(connection, "private.file_deletions", storage_key="files/a"),
        "orphan": _insert(connection, "private.quarantine", source_table="t", reason="r", original=Jsonb({})),
    }
