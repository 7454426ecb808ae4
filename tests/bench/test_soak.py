"""The judgement of the soak: it finds what is broken, and finds nothing where nothing is."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from bench.soak import invariants
from bench.soak.watch import AGEING, CONNECTIONS, KEPT, PASSING, slope

SESSION = "11111111-1111-4111-8111-111111111111"
MADE = f"""
    insert into public.user_profiles (id) values ('{SESSION}');
    insert into public."Chat" (id, title, user_id) values ('{SESSION}', 'One', '{SESSION}');
    insert into public."Message_v2" ("chatId", role, parts) values ('{SESSION}', 'user', '[]');
    insert into public."Message_v2" ("chatId", role, parts) values ('{SESSION}', 'assistant', '[]');
    insert into public."Document" (id, title, content, user_id, chat_id)
    values ('{SESSION}', 'One', 'a', '{SESSION}', '{SESSION}'), ('{SESSION}', 'One', 'b', '{SESSION}', '{SESSION}')
"""
DAMAGES = {
    "a session whose counter is not the number of its messages": 'update public."Chat" set message_count = 3',
    "a session whose totals are not the sums of its usage": 'update public."Chat" set total_input_tokens = 1',
    "an answer that streams without a running turn": """
        update public."Message_v2" set status = 'streaming' where role = 'assistant'
    """,
    "a document whose versions have a gap": """
        delete from public."Document" where version_number = 1
    """,
    "two answers to one message": f"""
        insert into public."Message_v2" ("chatId", role, parts) values ('{SESSION}', 'assistant', '[]')
    """,
    "a person whose spending is not the sum of his usage": f"""
        insert into private.user_spend (user_id, month, total_cost) values ('{SESSION}', '2026-01-01', 1)
    """,
    "guests whose spending is not the sum of their days": """
        insert into private.guest_spend (month, shard, total_cost) values ('2026-01-01', 0, 1)
    """,
    "anything of a person who was deleted or claimed": f"""
        insert into private.revoked_principals (user_id, reason, until) values ('{SESSION}', 'deleted', 'infinity')
    """,
}


@pytest.mark.parametrize("promise", DAMAGES)
def test_a_broken_promise_is_found_and_no_other_one(database_url: str, promise: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MADE.encode())
        assert invariants.broken(database_url) == {}
        connection.execute(DAMAGES[promise].encode())

    assert list(invariants.broken(database_url)) == [promise]


def test_a_file_that_no_message_names_is_found(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MADE.encode())
        connection.execute(
            """
            insert into public.files (user_id, storage_key, filename, kind, media_type, size_bytes, message_id)
            values (%(user)s, 'key', 'notes.txt', 'textFiles', 'text/plain', 1, %(message)s)
            """,
            {"user": SESSION, "message": uuid4()},
        )

    assert list(invariants.broken(database_url)) == ["a file of a message that does not name it"]


def test_what_is_watched_and_aged_is_there(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for query in (*PASSING.values(), *KEPT.values(), CONNECTIONS):
            assert connection.execute(query.encode()).fetchone() == (0,)
        for statement in AGEING:
            connection.execute(statement.encode(), {"rested": "1 second"})


def test_a_jump_moves_no_slope_and_steady_growth_does() -> None:
    flat = [(float(second), 100.0 + (50 if second == 3 else 0)) for second in range(10)]
    growing = [(float(second), 100.0 + 2 * second) for second in range(10)]

    assert slope(flat) == 0
    assert slope(growing) == 2
