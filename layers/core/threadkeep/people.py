"""The accounts and guests of an installation, for administrators: found, looked at, shut out and let in again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, LiteralString
from uuid import UUID

from threadkeep import activity, pages, profiles
from threadkeep.database import Database
from threadkeep.errors import not_found
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep.pages import Slice

Kind = Literal["account", "guest"]


@dataclass(frozen=True, slots=True)
class Person:
    """A user: costs in USD, of this month (UTC) and of all time; `last_seen` is the last thing that is known of him."""

    id: UUID
    email: str | None
    name: str | None
    is_guest: bool
    disabled_at: datetime | None
    created_at: datetime
    last_seen: datetime | None
    sessions: int
    month_cost: Decimal
    total_cost: Decimal
    total_tokens: int


_LISTED: Final = """
    select p.id, p.email, p.full_name as name, p.is_guest, p.disabled_at, p.created_at
    from public.user_profiles as p
    where (p.created_at, p.id) < (coalesce(%(at)s::timestamptz, 'infinity'), %(after)s::uuid)
        and (%(kind)s::text is null or p.is_guest = (%(kind)s = 'guest'))
        and (%(disabled)s::boolean is null or (p.disabled_at is not null) = %(disabled)s)
        and (
            %(words)s::text is null
            or position(lower(%(words)s) in lower(p.email)) > 0
            or position(lower(%(words)s) in lower(p.full_name)) > 0
            or starts_with(p.id::text, lower(%(words)s))
        )
    order by p.created_at desc, p.id desc
    limit %(limit)s::integer + 1
"""
_ONE: Final = """
    select p.id, p.email, p.full_name as name, p.is_guest, p.disabled_at, p.created_at
    from public.user_profiles as p
    where p.id = %(person)s
"""


async def page(
    database: Database,
    administrator: Principal,
    *,
    words: str | None,
    kind: Kind | None,
    disabled: bool | None,
    limit: int,
    cursor: str | None,
) -> Slice[Person]:
    """The users whose e-mail or name holds `words`, or whose id begins with them; the newest first."""
    belongs_to = json.dumps(["users", words, kind, disabled])
    at, after = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    values = {
        "words": words,
        "kind": kind,
        "disabled": disabled,
        "at": at,
        "after": after or UUID(int=2**128 - 1),
        "limit": limit,
    }
    rows, _ = await database.run(
        administrator, (_with_figures(_LISTED), values), activity.dashboard_view(database, "users", cursor)
    )
    items = [Person(**row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].created_at, items[-1].id))


async def set_disabled(database: Database, administrator: Principal, person: UUID, *, disabled: bool) -> Person:
    """The user, shut out or let in from now on, whatever valid tokens there are; running turns are stopped.

    Raises `not_found:user`, and `conflict:account` for the administrator himself.
    """
    change: Final = """
        select made.changed, case when made.changed then private.log_user_activity(%(activity)s) end
        from private.set_account_disabled(%(person)s, %(disabled)s) as made (changed)
    """
    note = activity.note(database, "admin_user_update", ("account", person), metadata={"disabled": disabled})
    values = {"person": person, "disabled": disabled, "activity": note}
    _, [changed], rows = await database.run(
        administrator, profiles.ensured(administrator), (change, values), (_with_figures(_ONE), values)
    )
    if not rows:
        raise not_found("user")
    if changed["changed"]:
        logger.info(
            "account disabled" if disabled else "account enabled",
            extra={"user_id": str(person), "by": str(administrator.user_id)},
        )
    return Person(**rows[0])


def _with_figures(listed: LiteralString) -> LiteralString:
    # Of literals of this module. The figures are looked up for the users of the page alone.
    return f"""
        with page as materialized ({listed}),
        recent as (
            select
                s.user_id,
                sum(s.total_cost) as cost,
                sum(s.total_cost) filter (
                    where s.day >= date_trunc('month', now() at time zone 'UTC')::date
                ) as month_cost,
                sum(s.input_tokens + s.output_tokens) as tokens
            from private.usage_since_roll_up() as s
            group by s.user_id
        )
        select
            p.*,
            (
                select max(seen.at)
                from (
                    (
                        select c.last_active as at
                        from public."Chat" as c
                        where c.user_id = p.id
                        order by c.last_active desc
                        limit 1
                    )
                    union all
                    (
                        select u.request_timestamp
                        from public.usage_logs as u
                        where u.user_id = p.id
                        order by u.request_timestamp desc
                        limit 1
                    )
                    union all
                    (
                        select l.created_at
                        from public.user_activity_logs as l
                        where l.user_id = p.id
                        order by l.created_at desc
                        limit 1
                    )
                ) as seen
            ) as last_seen,
            (select count(*) from public."Chat" as c where c.user_id = p.id) as sessions,
            coalesce(rolled.month_cost, 0) + coalesce(r.month_cost, 0) as month_cost,
            coalesce(rolled.cost, 0) + coalesce(r.cost, 0) as total_cost,
            (coalesce(rolled.tokens, 0) + coalesce(r.tokens, 0))::bigint as total_tokens
        from page as p
        left join recent as r on r.user_id = p.id
        left join lateral (
            select
                sum(m.total_cost) as cost,
                sum(m.total_cost) filter (
                    where m.month >= date_trunc('month', now() at time zone 'UTC')::date
                ) as month_cost,
                sum(m.input_tokens + m.output_tokens) as tokens
            from public.usage_user_monthly as m
            where m.user_id = p.id
        ) as rolled on true
        order by p.created_at desc, p.id desc
    """  # noqa: S608
