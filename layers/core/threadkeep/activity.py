"""What people do, on record as `logging_settings` says (docs/logs.md).

A unit of work logs itself, in its own transaction and round trip: what is rolled back leaves no row, and nothing waits
to be written. A `Database` that belongs to a call makes the parameter `%(activity)s`, and one of the unit's statements
hands it to `private.log_user_activity`:

    note = activity.note(database, "vote_message", ("message", message_id))
    await database.run(user, ('''
        insert …
        returning private.log_user_activity(%(activity)s)
    ''', {…, "activity": note}))

The function decides whether there is a row and what is in it, and its failure never fails the unit. In a select list it
is called once for each row that was really read or changed. Without a call (the schedule, an agent's own work) the
parameter is None, for which the function is not even called. An action of a user whom the service acts for names him as
`user_id`.

A new activity is a new name below; how it begins decides its category and toggle (`private.activity_category`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from threadkeep.database import Database, Statement

ActivityType = Literal[
    "auth_login",
    "auth_logout",
    "auth_register",
    "auth_password_reset",
    "auth_guest",
    "auth_claim",
    "account_update",
    "account_export",
    "account_repository_add",
    "account_repository_remove",
    "chat_create",
    "chat_view",
    "chat_update",
    "chat_archive",
    "chat_delete",
    "chat_search",
    "chat_export",
    "chat_message_send",
    "chat_message_delete",
    "chat_resume",
    "chat_stop",
    "document_create",
    "document_view",
    "document_update",
    "document_revert",
    "document_delete",
    "document_version_delete",
    "document_export",
    "suggestion_view",
    "suggestion_create",
    "suggestion_accept",
    "suggestion_reject",
    "vote_message",
    "vote_remove",
    "file_upload",
    "file_download",
    "file_delete",
    "artifact_create",
    "artifact_update",
    "artifact_execute",
    "admin_config_update",
    "admin_config_delete",
    "admin_config_revert",
    "admin_model_create",
    "admin_model_update",
    "admin_model_delete",
    "admin_user_update",
    "admin_error_resolve",
    "admin_purge_start",
    "admin_dashboard_view",
    "admin_provider_view",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP call, as the logs know it; `address` is the client's, where it was seen by someone who is believed."""

    correlation_id: UUID
    method: str | None = None
    path: str | None = None
    address: str | None = None
    user_agent: str | None = None

    def row(self) -> dict[str, Any]:
        """Its members as columns of a log, without the correlation id."""
        return {
            "request_method": self.method,
            "request_path": self.path,
            "ip_address": self.address,
            "user_agent": self.user_agent,
        }


def note(
    database: Database,
    activity_type: ActivityType | None,
    resource: tuple[str, UUID | None] | None = None,
    *,
    session: UUID | None = None,
    user_id: UUID | None = None,
    metadata: dict[str, object] | None = None,
) -> Jsonb | None:
    """The parameter of `private.log_user_activity`; None if the database belongs to no call, or for no activity.

    `resource` is the kind and id of what was acted upon, `session` the chat in which. `metadata` is kept with it; it
    holds no text that a person wrote.
    """
    if database.call is None or activity_type is None:
        return None
    resource_type, resource_id = resource or (None, None)
    return Jsonb(
        database.call.row()
        | {
            "correlation_id": str(database.call.correlation_id),
            "activity_type": activity_type,
            "activity_metadata": metadata or {},
            "resource_type": resource_type,
            "resource_id": resource_id and str(resource_id),
            "session_id": session and str(session),
            "user_id": user_id and str(user_id),
        }
    )


def noting(note: Jsonb | None) -> Statement:
    """A statement of its own, for a unit of work in which no other one has a place for the parameter."""
    return "select private.log_user_activity(%(activity)s)", {"activity": note}


def dashboard_view(database: Database, view: str, cursor: str | None = None) -> Statement:
    """Notes that an administrator looks at a page of figures or a list; of a list, that he begins with it."""
    return noting(note(database, None if cursor else "admin_dashboard_view", metadata={"view": view}))
