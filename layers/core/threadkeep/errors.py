"""The errors of the domain, and the one table of what each means to a caller.

An error is raised where it is known, with a code `type:surface`; `threadkeep.web` turns it into an
`application/problem+json` answer. Its texts are for a person to act on and never hold SQL, a stack trace
or what a provider said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong input: a JSON path such as `message.parts[0].text`, and what is wrong with it."""

    field: str
    message: str


STATUS_OF_TYPE: Final = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "precondition_failed": 412,
    "too_large": 413,
    "unsupported_media": 415,
    "invalid": 422,
    "rate_limit": 429,
    "internal": 500,
    "provider": 502,
    "timeout": 504,
    "unavailable": 503,
}

SENTENCES: Final = {
    "bad_request:api": "The request could not be read. Check that its body is valid JSON.",
    "unauthorized:auth": "Sign in, or send a valid token, and try again.",
    "unauthorized:hook": "The signature of this call is missing or wrong.",
    "forbidden:account": "This account is disabled or was deleted.",
    "forbidden:agent": "This agent is switched off.",
    "forbidden:auth": "This account may not do that.",
    "forbidden:upload": "This upload form is wrong or has expired. Ask for a new one.",
    "forbidden:download": "This address is wrong or has expired. Ask for a new one.",
    "forbidden:origin": "Calls with a cookie are taken from the allowed origins only.",
    "not_found:api": "There is nothing at this address.",
    "not_found:document": "There is no such document.",
    "not_found:version": "There is no such version of this document.",
    "not_found:repository": "There is no such repository in your list.",
    "not_found:suggestion": "There is no such suggestion for this document.",
    "not_found:session": "There is no such session.",
    "not_found:message": "There is no such message in this session.",
    "not_found:vote": "There is no vote on this message.",
    "not_found:error": "There is no such error.",
    "not_found:user": "There is no such user.",
    "not_found:statistics": "The extension pg_stat_statements is not installed.",
    "not_found:file": "There is no such file.",
    "not_found:model": "There is no such model, or it is not active.",
    "not_found:configuration": "There is no configuration under this key.",
    "not_found:history": "There is no such entry in the history of this configuration.",
    "method_not_allowed:api": "This address does not take that method.",
    "conflict:account": "Nobody can disable or enable their own account.",
    "conflict:chat": "This session is answering another message. Wait for it, or stop it first.",
    "conflict:document": "A document with this id and other content is already there.",
    "conflict:documents": "You have 10,000 documents. Delete some first.",
    "conflict:versions": (
        "The document has 10,000 versions. Delete its later ones (DELETE /api/documents/{id}/versions?after=), or go on"
        " in a new document."
    ),
    "conflict:configuration": "No seed of this configuration is known here. Put another one in its place instead.",
    "conflict:model": "A model with this id and other content is already there.",
    "conflict:suggestion": "The text that this suggestion changes is not in the document exactly once any more.",
    "conflict:suggestions": "The document has 200 open suggestions. Accept or reject some first.",
    "conflict:resolution": "This suggestion was accepted or rejected before.",
    "conflict:guest": "This guest was taken over by another account, or deleted.",
    "conflict:repositories": "The list has 100 repositories. Remove one first.",
    "conflict:message": "A message with this id and other content is already there.",
    "conflict:upload": "This file is not here yet. Upload it by its form first.",
    "conflict:file": "This file came with another message. Upload it once more.",
    "conflict:session": "A session with this id and other content is already there.",
    "precondition_failed:document": "The document was changed meanwhile. Read it again and repeat the change.",
    "precondition_failed:configuration": "This configuration was changed meanwhile. Read it again and repeat it.",
    "precondition_failed:model": "The model was changed meanwhile. Read it again and repeat the change.",
    "precondition_failed:api": "It was changed meanwhile. Read it again and repeat the change.",
    "too_large:api": "The request is too large.",
    "unsupported_media:api": "Send this request as application/json.",
    "invalid:api": "Some fields are wrong.",
    "rate_limit:chat": "The limit of this agent is used up for now.",
    "rate_limit:files": "Too many uploads were begun and not finished. Finish them, or try again later.",
    "rate_limit:budget": "The budget of this month is used up.",
    "rate_limit:guest": "Too many guests were made. Sign in, or try again later.",
    "too_large:document": "A document may have 1 MB of text (1048576 bytes in UTF-8).",
    "too_large:file": "The file is larger than a file of its kind may be.",
    "too_large:files": "Your files would take more room than you have. Delete some first.",
    "too_large:difference": "These versions differ in too much to show it. Read both instead.",
    "too_large:context": "The conversation is too long for the model. Start a new session, or shorten the message.",
    "too_large:export": "The session is too long to export at once. Read its messages page by page.",
    "too_large:account": (
        "This is more than one answer can carry here. Ask for parts of it (?part=profile&part=usage), and export"
        " sessions and documents one by one (GET /api/sessions/{id}/export, GET /api/documents/{id}/export)."
    ),
    "too_large:cost": "The answer reached what one turn may cost and was ended.",
    "too_large:turn": "The answer reached the bounds of one turn and was ended.",
    "invalid:file": "The file was refused.",
    "invalid:kind": "Files of this kind are not taken now.",
    "invalid:content": "The model's provider refused this content.",
    "unavailable:answer": "The answer could not be stored. What can be kept of it will appear in the session.",
    "unavailable:files": "Files cannot be reached now. Try again shortly.",
    "unavailable:model": "The model is overloaded. Try again shortly, or choose another one.",
    "timeout:chat": "The answer took too long and was ended.",
    "internal:api": "Something went wrong here. It was recorded; try again later.",
    "provider:chat": "The model's provider did not answer. Try again.",
    "unauthorized:tool": "The tool's server refused the token. Connect it again.",
    "unavailable:tool": "The tool's server cannot be reached now. Try again shortly.",
    "timeout:tool": "The tool's server took too long to answer.",
    "unavailable:auth": "Sign-in cannot be checked now. Try again shortly.",
    "provider:configuration": "The model's provider refused this installation's key or model.",
    "unavailable:database": "The database cannot take this request now. Try again shortly.",
    "unavailable:purge": "The purge cannot be started now. Try again shortly.",
    "unavailable:api": "This cannot be served now. Try again shortly.",
}


class ThreadkeepError(Exception):
    """An error that a caller is told about.

    `code` is `type:surface`; `detail` replaces the table's sentence; `retry_after` is in seconds;
    `extra` holds further members of the problem document, in camelCase.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        fields: Sequence[FieldError] = (),
        retry_after: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.code = code
        self.status: int = status_of(code)
        self.detail = detail or SENTENCES[code]
        self.fields = tuple(fields)
        self.retry_after = retry_after
        self.extra = extra or {}
        super().__init__(f"{code}: {self.detail}")


def status_of(code: str) -> int:
    """The HTTP status that a code `type:surface` means."""
    return STATUS_OF_TYPE[code.partition(":")[0]]


def invalid(field: str, message: str) -> ThreadkeepError:
    """A well-formed request with one wrong field (422)."""
    return ThreadkeepError("invalid:api", fields=[FieldError(field, message)])


def not_found(surface: str) -> ThreadkeepError:
    """A thing that is not there, or is somebody else's (404)."""
    return ThreadkeepError(f"not_found:{surface}")
