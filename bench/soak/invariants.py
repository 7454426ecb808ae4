"""What has to hold in every database of Threadkeep, whatever was done to it: each query finds what breaks a promise."""

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg

BROKEN: Final[dict[str, LiteralString]] = {
    "a message without its session": """
        select m.id from public."Message_v2" as m
        left join public."Chat" as c on c.id = m."chatId"
        where c.id is null
    """,
    "a session without its profile": """
        select c.id from public."Chat" as c
        left join public.user_profiles as p on p.id = c.user_id
        where p.id is null
    """,
    "a session whose counter is not the number of its messages": """
        select c.id, c.message_count, count(m.id) from public."Chat" as c
        left join public."Message_v2" as m on m."chatId" = c.id
        group by c.id
        having c.message_count <> count(m.id) or c.last_seq < coalesce(max(m.seq), 0)
    """,
    "a session whose totals are not the sums of its usage": """
        select c.id, c.total_input_tokens, sum(u.input_tokens), c.total_cost, sum(u.total_cost) from public."Chat" as c
        left join public.usage_logs as u on u.chat_id = c.id
        group by c.id
        having c.total_input_tokens <> coalesce(sum(u.input_tokens), 0)
            or c.total_output_tokens <> coalesce(sum(u.output_tokens), 0)
            or c.total_cost <> coalesce(sum(u.total_cost), 0)
    """,
    "a message whose figures are not the sums of its usage": """
        select m.id, m.input_tokens, sum(u.input_tokens) from public."Message_v2" as m
        join public.usage_logs as u on u.message_id = m.id
        group by m.id
        having m.input_tokens is distinct from sum(u.input_tokens)
            or m.output_tokens is distinct from sum(u.output_tokens)
            or m.cost is distinct from sum(u.total_cost)
    """,
    "an answer that streams without a running turn": """
        select m.id from public."Message_v2" as m
        where m.status = 'streaming'
            and not exists (
                select from public."Stream" as s where s.message_id = m.id and s.status = 'running'
            )
    """,
    "a running turn whose answer does not stream": """
        select s.id from public."Stream" as s
        left join public."Message_v2" as m on m.id = s.message_id
        where s.status = 'running'
            and m.status is distinct from 'streaming'
    """,
    "an answer that follows no message": """
        select m.id from public."Message_v2" as m
        where m.role = 'assistant'
            and not exists (
                select from public."Message_v2" as u
                where u."chatId" = m."chatId"
                    and u.role = 'user'
                    and u.seq < m.seq
            )
    """,
    "two answers to one message": """
        select m.id from (
            select m.id, m.role, lag(m.role) over (partition by m."chatId" order by m.seq) as before_it
            from public."Message_v2" as m
        ) as m
        where m.role = 'assistant'
            and m.before_it = 'assistant'
    """,
    "a document whose versions have a gap": """
        select d.id, count(*), max(d.version_number) from public."Document" as d
        group by d.id
        having count(*) <> max(d.version_number)
    """,
    "a document with two owners or sessions": """
        select d.id from public."Document" as d
        group by d.id
        having count(distinct d.user_id) > 1 or count(distinct d.chat_id) > 1
    """,
    "a document in somebody else's session": """
        select d.id from public."Document" as d
        join public."Chat" as c on c.id = d.chat_id
        where c.user_id <> d.user_id
    """,
    "a suggestion by somebody else than the document's owner": """
        select s.id from public."Suggestion" as s
        join public."Document" as d on d.id = s."documentId" and d."createdAt" = s."documentCreatedAt"
        where d.user_id <> s.user_id
    """,
    "usage that is there twice": """
        select u.request_id from public.usage_logs as u
        group by u.request_id
        having count(*) > 1
    """,
    "usage in somebody else's session": """
        select u.id from public.usage_logs as u
        join public."Chat" as c on c.id = u.chat_id
        where c.user_id <> u.user_id
    """,
    "usage without a day": """
        select l.agent_type, l.requests, d.requests from (
            select u.agent_type, count(*) as requests from public.usage_logs as u group by 1
        ) as l
        left join (
            select d.agent_type, sum(d.requests) as requests from public.usage_daily as d group by 1
        ) as d using (agent_type)
        where l.requests > coalesce(d.requests, 0)
    """,
    "a person whose spending is not the sum of his usage": """
        select u.user_id, u.month, u.spent, s.total_cost from (
            select
                u.user_id,
                date_trunc('month', u.request_timestamp at time zone 'UTC')::date as month,
                sum(u.total_cost) as spent
            from public.usage_logs as u
            group by 1, 2
        ) as u
        full join private.user_spend as s using (user_id, month)
        where coalesce(u.spent, 0) <> coalesce(s.total_cost, 0)
    """,
    "guests whose spending is not the sum of their days": """
        select d.month, d.spent, g.spent from (
            select date_trunc('month', d.day)::date as month, sum(d.total_cost) as spent
            from public.usage_daily as d
            where d.user_kind = 'guest'
            group by 1
        ) as d
        full join (
            select g.month, sum(g.total_cost) as spent from private.guest_spend as g group by 1
        ) as g using (month)
        where coalesce(d.spent, 0) <> coalesce(g.spent, 0)
    """,
    "usage by user and day that is not the sum of the rows": """
        select * from (
            select u.user_id, (u.request_timestamp at time zone 'UTC')::date as day, count(*) as requests,
                sum(u.total_cost) as cost
            from public.usage_logs as u
            where u.response_timestamp < (select s.through from private.usage_roll_up as s)
            group by 1, 2
        ) as u
        full join (
            select d.user_id, d.day, sum(d.requests) as requests, sum(d.total_cost) as cost
            from public.usage_user_daily as d
            group by 1, 2
        ) as d using (user_id, day)
        where coalesce(u.requests, 0) <> coalesce(d.requests, 0)
            or coalesce(u.cost, 0) <> coalesce(d.cost, 0)
    """,
    "usage by user and month that is not the sum of the days": """
        select * from public.usage_user_monthly as m
        full join (
            select d.user_id, date_trunc('month', d.day::timestamp)::date as month, sum(d.requests) as requests,
                sum(d.total_cost) as cost
            from public.usage_user_daily as d
            group by 1, 2
        ) as d using (user_id, month)
        where m.requests is distinct from d.requests
            or m.total_cost is distinct from d.cost
    """,
    "a vote on what is no answer": """
        select v."messageId" from public."Vote_v2" as v
        join public."Message_v2" as m on m.id = v."messageId" and m."chatId" = v."chatId"
        where m.role <> 'assistant'
    """,
    "a file of a message that does not name it": """
        select f.id from public.files as f
        where f.message_id is not null
            and not exists (
                select from public."Message_v2" as m
                where m.id = f.message_id
                    and m.attachments @> jsonb_build_array(jsonb_build_object('file', f.id))
            )
    """,
    "a file in somebody else's session": """
        select f.id from public.files as f
        join public."Chat" as c on c.id = f.chat_id
        where c.user_id <> f.user_id
    """,
    "anything of a person who was deleted or claimed": """
        select p.id from public.user_profiles as p
        join private.revoked_principals as r on r.user_id = p.id
        where r.until > now()
    """,
    "a configuration whose version is not the number of its changes": """
        select a.config_key, a.version, max(h.version) from public.admin_config as a
        left join public.admin_config_history as h on h.config_key = a.config_key
        group by a.config_key, a.version
        having a.version is distinct from max(h.version)
    """,
    "a provider without exactly one active default": """
        select m.provider from public.model_config as m
        group by m.provider
        having count(*) filter (where m.is_default and m.is_active) <> 1
    """,
}


def broken(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """The promises that do not hold in this database, each with what breaks it (ten rows at most)."""
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for promise, query in BROKEN.items():
            if rows := connection.execute(query).fetchmany(10):
                found[promise] = rows
    return found
