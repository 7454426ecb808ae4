"""Versions of a document: numbered without gaps, in order, from one parent to the next, and its owner's only."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.crowd import Owner, at_once, somebody
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal

WRITERS = 8
SAVES = 50
SAVE = """
    insert into public."Document" (id, title, content, user_id)
    values (%(document)s, 'A document', %(content)s, %(user)s)
"""
VERSIONS = """
    select version_number, version_id, parent_version_id, "createdAt", content
    from public."Document"
    where id = %(document)s
    order by version_number
"""


@pytest.fixture
async def writer(database: Database) -> Principal:
    user = somebody()
    await database.rows(user, "select private.ensure_profile(null, null)")
    return user


async def save(database: Database, user: Principal, document: UUID, content: str = "") -> None:
    await database.rows(user, SAVE, {"document": document, "content": content, "user": user.user_id})


def assert_is_one_chain(versions: list[dict[str, Any]]) -> None:
    assert [version["version_number"] for version in versions] == list(range(1, len(versions) + 1))
    parents = [None, *[version["version_id"] for version in versions[:-1]]]
    assert [version["parent_version_id"] for version in versions] == parents
    times = [version["createdAt"] for version in versions]
    assert all(earlier < later for earlier, later in pairwise(times))


async def test_8_writers_of_50_saves_each_make_400_versions(
    database: Database, owner: Owner, writer: Principal
) -> None:
    document = uuid4()

    async def save_often() -> None:
        for number in range(SAVES):
            await save(database, writer, document, str(number))

    results = await at_once(*[save_often] * WRITERS)

    assert results == [None] * WRITERS
    versions = await owner.rows(VERSIONS, {"document": document})
    assert len(versions) == WRITERS * SAVES
    assert_is_one_chain(versions)
    contents = sorted(int(version["content"]) for version in versions)
    assert contents == sorted(list(range(SAVES)) * WRITERS)


async def test_versions_of_one_transaction_and_of_one_statement_follow_one_another(
    database: Database, owner: Owner, writer: Principal
) -> None:
    document = uuid4()
    one = (SAVE, {"document": document, "content": "", "user": writer.user_id})
    several = """
        insert into public."Document" (id, title, user_id)
        select %(document)s, 'A document', %(user)s
        from generate_series(1, 3)
    """

    await database.run(writer, one, one, (several, one[1]))

    versions = await owner.rows(VERSIONS, {"document": document})
    assert len(versions) == 5
    assert_is_one_chain(versions)


async def test_a_clock_that_goes_back_does_not_put_a_version_before_its_parent(
    database: Database, owner: Owner, writer: Principal
) -> None:
    document = uuid4()
    await save(database, writer, document)
    await owner.rows(
        """update public."Document" set "createdAt" = "createdAt" + interval '1 hour' where id = %(document)s""",
        {"document": document},
    )

    await save(database, writer, document)

    assert_is_one_chain(await owner.rows(VERSIONS, {"document": document}))


async def test_a_version_is_added_after_the_newest_though_its_parent_was_deleted(
    database: Database, owner: Owner, writer: Principal
) -> None:
    document = uuid4()
    for _ in range(3):
        await save(database, writer, document)
    await database.rows(
        writer,
        'delete from public."Document" where id = %(document)s and version_number = 2',
        {"document": document},
    )

    await save(database, writer, document)

    versions = await owner.rows(VERSIONS, {"document": document})
    assert [version["version_number"] for version in versions] == [1, 3, 4]
    assert [version["parent_version_id"] for version in versions] == [None, None, versions[1]["version_id"]]


async def test_nobody_adds_a_version_to_somebody_elses_document(
    database: Database, owner: Owner, writer: Principal
) -> None:
    document, stranger = uuid4(), somebody()
    await database.rows(stranger, "select private.ensure_profile(null, null)")
    await save(database, writer, document)

    with pytest.raises(ThreadkeepError) as error:
        await save(database, stranger, document)
    assert error.value.code == "not_found:document"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.rows(stranger, SAVE, {"document": document, "content": "", "user": writer.user_id})

    assert len(await owner.rows(VERSIONS, {"document": document})) == 1


async def test_of_several_users_who_make_the_same_new_id_at_once_one_has_it(database: Database, owner: Owner) -> None:
    users = [somebody() for _ in range(WRITERS)]
    for user in users:
        await database.rows(user, "select private.ensure_profile(null, null)")
    for _ in range(5):
        document = uuid4()
        results = await at_once(*[partial(save, database, user, document) for user in users])

        assert results.count(None) == 1
        refused = [result for result in results if result is not None]
        assert all(isinstance(result, ThreadkeepError) and result.code == "not_found:document" for result in refused)
        assert len(await owner.rows(VERSIONS, {"document": document})) == 1
