"""Repositories: those on GitHub that a person works with, and that the GitHub agent is told of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from threadkeep import activity, pages
from threadkeep.database import Database
from threadkeep.errors import invalid, not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

MAXIMUM_REPOSITORIES: Final = 100
MAXIMUM_OWNER_CHARACTERS: Final = 39
MAXIMUM_NAME_CHARACTERS: Final = 100
MAXIMUM_BRANCH_CHARACTERS: Final = 100

# A managed user's name has an underscore before the short code of the enterprise.
_OWNER: Final = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
# What `git check-ref-format` refuses anywhere in a name.
_NOT_IN_A_BRANCH: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|\.$|/$|^[/.-]|^@$")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on GitHub; `created_at` is when it was added here (UTC)."""

    id: UUID
    owner: str
    name: str
    url: str
    default_branch: str
    created_at: datetime


_READ: Final = """
    select
        r.id, r.repo_owner as owner, r.repo_name as name, r.repo_url as url, r.default_branch, r.created_at
    from public.github_repositories as r
    where r.user_id = %(user)s
        and r.is_active
"""


async def add(
    database: Database, user: Principal, owner: str, name: str, default_branch: str | None
) -> tuple[Repository, bool]:
    """The user's repository of this name, and whether this call added it; its branch is `main` if none is given.

    GitHub's names are the same in capitals and small letters. One that is there takes a branch that is given. Raises
    `invalid:api` for names that GitHub or Git would not take, and `conflict:repositories` when there are 100.
    """
    _check(owner, name, default_branch)
    add: Final = """
        select a.id, a.is_new, case when a.is_new then private.log_user_activity(%(activity)s) end
        from private.add_repository(
            p_owner => %(owner)s,
            p_name => %(name)s,
            p_url => %(url)s,
            p_branch => %(branch)s,
            p_maximum => %(maximum)s,
            p_email => %(email)s,
            p_name_of_user => %(name_of_user)s
        ) as a
    """
    named: Final = (
        _READ
        + """
        and lower(r.repo_owner) = lower(%(owner)s)
        and lower(r.repo_name) = lower(%(name)s)
        order by r.created_at, r.id
        limit 1
    """
    )
    values = {
        "user": user.user_id,
        "owner": owner,
        "name": name,
        "url": f"https://github.com/{owner}/{name}",
        "branch": default_branch,
        "maximum": MAXIMUM_REPOSITORIES,
        "email": user.email,
        "name_of_user": user.name,
        "activity": activity.note(database, "account_repository_add", metadata={"repository": f"{owner}/{name}"}),
    }
    # The function refuses a disabled caller itself.
    [added], [row] = await database.run(user, (add, values), (named, values), require_active=False)
    return _repository(row), added["is_new"]


async def own_page(database: Database, user: Principal, *, limit: int, cursor: str | None) -> Slice[Repository]:
    """The user's repositories, last added first."""
    page: Final = (
        _READ
        + """
        and (r.created_at, r.id) < (coalesce(%(created)s::timestamptz, 'infinity'), %(id)s::uuid)
        order by r.created_at desc, r.id desc
        limit %(limit)s + 1
    """
    )
    created, last = pages.place(cursor, "repositories", datetime.fromisoformat, UUID)
    values = {"user": user.user_id, "created": created, "id": last, "limit": limit}
    rows = await database.rows(user, page, values)
    items = [_repository(row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor("repositories", items[-1].created_at, items[-1].id))


async def active(database: Database, principal: Principal) -> list[Repository]:
    """The caller's repositories, last added first, 100 at most: what an agent may be told of."""
    return (await own_page(database, principal, limit=MAXIMUM_REPOSITORIES, cursor=None)).items


async def remove(database: Database, user: Principal, repository: UUID) -> None:
    """Takes one off the user's list, nothing happens on GitHub; raises `not_found:repository`."""
    delete: Final = """
        delete from public.github_repositories as r
        where r.id = %(repository)s
            and r.user_id = %(user)s
        returning r.id, private.log_user_activity(%(activity)s)
    """
    note = activity.note(database, "account_repository_remove", ("repository", repository))
    values = {"repository": repository, "user": user.user_id, "activity": note}
    if await database.row(user, delete, values) is None:
        raise not_found("repository")


def _check(owner: str, name: str, branch: str | None) -> None:
    if len(owner) > MAXIMUM_OWNER_CHARACTERS or not _OWNER.fullmatch(owner):
        raise invalid("owner", "A name on GitHub has 1 to 39 letters and digits, with single hyphens between.")
    is_reserved = name in {".", ".."} or name.lower().endswith((".git", ".wiki"))
    if len(name) > MAXIMUM_NAME_CHARACTERS or not _NAME.fullmatch(name) or is_reserved:
        raise invalid("name", "A repository's name has 1 to 100 of A-Z, a-z, 0-9, ., _ and -, without .git at its end.")
    if branch is not None and (
        not 0 < len(branch) <= MAXIMUM_BRANCH_CHARACTERS or not branch.isprintable() or _NOT_IN_A_BRANCH.search(branch)
    ):
        raise invalid("defaultBranch", "Git takes no branch of this name.")


def _repository(row: dict[str, Any]) -> Repository:
    # A row from before the address was kept with it.
    return Repository(**row | {"url": row["url"] or f"https://github.com/{row['owner']}/{row['name']}"})
