"""Sessions, their messages and votes, when everything happens at once, and at the size that they grow to."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, begin, finish, refusals, somebody, usage
from threadkeep import messages, pages, sessions, turns, votes
from threadkeep.database import Database, Rows, Statement
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.sessions import OwnSession

pytestmark = pytest.mark.also_behind_a_pooler


async def create(database: Database, user: Principal, session: UUID | None = None) -> OwnSession:
    made, _ = await sessions.create(
        database,
        user,
        session or uuid4(),
        title="New chat",
        visibility="private",
        guest_address=None,
        new_guest=False,
    )
    return made


async def say(database: Database, user: Principal, session: UUID, message: UUID | None = None) -> UUID:
    """A message of the user, as he may write it himself."""
    message = message or uuid4()
    await database.rows(
        user,
        """insert into public."Message_v2" (id, "chatId", role, parts) values (%(id)s, %(chat)s, 'user', %(parts)s)""",
        {"id": message, "chat": session, "parts": Jsonb([{"type": "text", "text": "Hello"}])},
    )
    return message


async def whole_turn(database: Database, user: Principal) -> UUID:
    """A turn in a session of its own, from beginning to end; the session."""
    run = await begin(database, user)
    assert user.user_id is not None
    await finish(database, user.user_id, run)
    return run.session


COUNTED = """
    select
        c.message_count = (select count(*) from public."Message_v2" as m where m."chatId" = c.id)
            and c.message_count >= 0
            and c.last_active >= coalesce(
                (select max(m."createdAt") from public."Message_v2" as m where m."chatId" = c.id), c."createdAt"
            ) as is_right
    from public."Chat" as c
"""


async def all_counts_are_right(owner: Owner) -> bool:
    return all(row["is_right"] for row in await owner.rows(COUNTED))


# At once


async def test_of_many_who_want_one_id_one_person_gets_it(database: Database, owner: Owner) -> None:
    for _ in range(5):
        session = uuid4()
        people = [somebody() for _ in range(4)]
        results = await at_once(*[partial(create, database, user, session) for user in people * 8])
        assert refusals(results) == {"not_found:session"}
        assert len([result for result in results if isinstance(result, OwnSession)]) == 8
        assert await owner.number('select count(*) from public."Chat" where id = %(id)s', {"id": session}) == 1


async def test_counts_are_right_while_messages_come_and_go(database: Database, owner: Owner) -> None:
    user = somebody()
    for _ in range(4):
        session = (await create(database, user)).id
        there = [await say(database, user, session) for _ in range(12)]
        before = (await sessions.read(database, user, session)).last_active

        results = await at_once(
            *[partial(say, database, user, session) for _ in range(24)],
            *[partial(messages.delete_from, database, user, session, message) for message in there[::2]],
            *[partial(sessions.change, database, user, session, {"title": f"{n}"}) for n in range(6)],
        )

        assert refusals(results) <= {"not_found:message"}
        assert await all_counts_are_right(owner)
        after = await sessions.read(database, user, session)
        assert after.last_active > before
        places = await owner.rows('select seq from public."Message_v2" where "chatId" = %(id)s', {"id": session})
        assert len({row["seq"] for row in places}) == after.message_count


async def test_deleting_messages_does_not_make_a_session_active(database: Database, owner: Owner) -> None:
    user = somebody()
    session = (await create(database, user)).id
    message = await say(database, user, session)
    before = await sessions.read(database, user, session)
    await messages.delete_from(database, user, session, message)
    after = await sessions.read(database, user, session)
    assert (after.last_active, after.message_count) == (before.last_active, 0)
    assert await all_counts_are_right(owner)


async def test_a_session_can_be_cut_while_its_answer_ends(database: Database, owner: Owner) -> None:
    for _ in range(10):
        user = somebody()
        assert user.user_id is not None
        run = await begin(database, user)
        results = await at_once(
            partial(finish, database, user.user_id, run),
            partial(messages.delete_from, database, user, run.session, run.answer),
            partial(messages.page, database, user, run.session, limit=50, cursor=None),
        )
        assert refusals(results) == set()
        assert results[0] in {"stored", "superseded"}
        assert await all_counts_are_right(owner)
        bills = "select count(*) from public.usage_logs where chat_id = %(id)s"
        assert await owner.number(bills, {"id": run.session}) == 1


async def test_sessions_can_go_in_every_way_while_turns_run_in_them(database: Database, owner: Owner) -> None:
    for _ in range(4):
        user = somebody()
        there = [await whole_turn(database, user) for _ in range(4)]
        run = await begin(database, user)
        assert user.user_id is not None
        results = await at_once(
            partial(sessions.delete_all, database, user),
            partial(sessions.delete_all, database, user),
            partial(finish, database, user.user_id, run),
            partial(sessions.delete, database, user, run.session),
            *[partial(sessions.delete, database, user, session) for session in there[:2]],
            *[partial(say, database, user, session) for session in there[2:4]],
            *[partial(whole_turn, database, user) for _ in range(4)],
        )
        refused = [result for result in results if isinstance(result, ThreadkeepError)]
        assert {error.code for error in refused} <= {"not_found:session"}
        # Who writes into a session that is gone is refused by the policy, as for somebody else's.
        others = [result for result in results if isinstance(result, BaseException) and result not in refused]
        assert {getattr(error, "sqlstate", None) for error in others} <= {"42501", "23503"}
        assert await all_counts_are_right(owner)
        await sessions.delete_all(database, user)
    for table in ('"Chat"', '"Message_v2"', '"Stream"', "stream_chunks"):
        assert await owner.number(f"select count(*) from public.{table}") == 0


async def test_votes_and_deletions_at_once_leave_no_vote_without_a_message(database: Database, owner: Owner) -> None:
    user = somebody()
    for _ in range(10):
        session = (await create(database, user)).id
        message = await say(database, user, session)
        results = await at_once(
            *[partial(votes.put, database, user, session, votes.Vote(message, up)) for up in (True, False) * 4],
            partial(messages.delete_from, database, user, session, message),
        )
        assert refusals(results) <= {"not_found:message"}
        assert await owner.number('select count(*) from public."Vote_v2"') == 0


# Going


async def test_a_session_takes_all_of_its_own_with_it_and_leaves_the_bill(database: Database, owner: Owner) -> None:
    user = somebody()
    session = await whole_turn(database, user)
    kept = await whole_turn(database, user)
    [answer] = [m for m in (await messages.page(database, user, session, limit=9, cursor=None)).items if m.usage]
    await votes.put(database, user, session, votes.Vote(answer.id, True))
    await owner.rows(
        """
        insert into public.stream_chunks (stream_id, seq, payload)
        select id, 0, '{}' from public."Stream"
        """
    )
    await owner.rows(
        """
        insert into public."Document" (title, user_id, chat_id) values ('Notes', %(user)s, %(session)s)
        """,
        {"user": user.user_id, "session": session},
    )
    bill = await owner.rows("select sum(total_tokens), sum(total_cost) from public.usage_logs")

    await sessions.delete(database, user, session)

    for table, column in [
        ('"Message_v2"', '"chatId"'),
        ('"Vote_v2"', '"chatId"'),
        ('"Stream"', '"chatId"'),
        ('"Document"', "chat_id"),
    ]:
        gone = f"select count(*) from public.{table} where {column} = %(id)s"
        assert await owner.number(gone, {"id": session}) == 0
    assert await owner.number("select count(*) from public.stream_chunks") == 1
    assert (await sessions.read(database, user, kept)).message_count == 2
    assert await owner.rows("select sum(total_tokens), sum(total_cost) from public.usage_logs") == bill
    orphans = "select count(*) from public.usage_logs where chat_id is null and message_id is null"
    assert await owner.number(orphans) == 1


@pytest.mark.parametrize("goes", ["the session", "all sessions", "the message"])
async def test_what_an_answer_used_is_billed_when_it_is_deleted_and_never_ends(
    database: Database, owner: Owner, goes: str
) -> None:
    user = somebody()
    run = await begin(database, user)
    asked = usage(source="estimated", input_tokens=100, output_tokens=10, input_cost=0.0002, output_cost=0.00008)
    said = turns.as_lines([{"type": "text-delta", "id": "t", "delta": "x" * 40}])
    await turns.write_chunk(database, run.stream, 0, said, [asked])

    if goes == "the session":
        await sessions.delete(database, user, run.session)
    elif goes == "all sessions":
        await sessions.delete_all(database, user)
    else:
        await messages.delete_from(database, user, run.session, run.answer)

    [bill] = await owner.rows("select * from public.usage_logs")
    assert (bill["source"], bill["input_tokens"], bill["output_tokens"]) == ("estimated", 100, 10)
    assert (bill["message_id"], float(bill["total_cost"])) == (None, 0.00028)


async def test_times_are_utc_whatever_zone_the_server_has(database_url: str, api_database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        set_zone = sql.SQL("alter database {} set timezone to 'Asia/Kolkata'")
        connection.execute(set_zone.format(sql.Identifier(connection.info.dbname)))
    database = Database(api_database_url)
    made = await create(database, somebody())
    await database.close()
    assert made.created_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=1)


# Cursors that nobody was given


@pytest.mark.parametrize(
    "place",
    [[], ["x"], [None], [1.5], [-1], [2**63], [10**300], [True, 2], {"seq": 1}, "1", 1, None],
    ids=str,
)
def test_a_forged_place_is_refused(place: Any) -> None:
    forged = _sealed("messages", json.dumps(place))
    with pytest.raises(ThreadkeepError) as refused:
        pages.place(forged, "messages", pages.bigint)
    assert refused.value.code == "invalid:api"


def test_a_place_comes_back_as_it_was_given() -> None:
    last, largest = uuid4(), 2**63 - 1
    cursor = pages.cursor("a list", largest, last)
    assert pages.place(cursor, "a list", pages.bigint, UUID) == (largest, last)
    assert pages.place(None, "a list", pages.bigint, UUID) == (None, None)


def _sealed(belongs_to: str, payload: str) -> str:
    """A cursor by somebody who has read how they are made."""
    raw = pages._checksum(belongs_to, payload.encode()) + payload.encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


# At size


class Explaining(Database):
    """Also keeps the plan of every statement."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.plans: list[str] = []

    async def run(self, actor: Any, *statements: Statement, require_active: bool = True) -> list[Rows]:
        for statement, parameters in statements:
            [rows] = await super().run(actor, ("explain " + statement, parameters))
            self.plans.append("\n".join(row["QUERY PLAN"] for row in rows))
        return await super().run(actor, *statements, require_active=require_active)


CROWD = """
    set session_replication_role = replica;
    insert into public.user_profiles (id) values (%(user)s);
    insert into public."Chat" (user_id, title, last_active)
    select
        case when n %% 20 = 0 then %(user)s else md5((n %% 100)::text)::uuid end, 'About ' || n,
        now() - n * interval '1 minute'
    from generate_series(1, 20000) as n;
    insert into public."Message_v2" ("chatId", seq, role, parts)
    select c.id, n, 'user', '[{"type": "text", "text": "Hello"}]'
    from public."Chat" as c
    cross join generate_series(1, 3) as n;
    set session_replication_role = default;
    analyze public."Chat", public."Message_v2";
"""


async def test_pages_of_sessions_and_messages_are_index_walks_at_any_depth(api_database_url: str, owner: Owner) -> None:
    user = somebody()
    for statement in CROWD.split(";\n"):
        if statement.strip():
            await owner.rows(statement, {"user": user.user_id})
    database = Explaining(api_database_url)

    first = await sessions.own_page(database, user, words=None, status="active", limit=100, cursor=None)
    await sessions.own_page(database, user, words=None, status="active", limit=100, cursor=first.next_cursor)
    await messages.page(database, user, first.items[0].id, limit=50, cursor=None)
    await database.close()

    first_page, second_page, _, messages_page = database.plans
    for plan in (first_page, second_page):
        assert "Index Scan using idx_chat_user_active" in plan
        assert "ROW(last_active, id) < ROW(" in plan.partition("Index Cond")[2].partition("Filter")[0]
        assert "Sort" not in plan
    assert "Index Scan Backward using idx_message_chat" in messages_page
    for plan in database.plans:
        assert "Seq Scan" not in plan
