"""Documents under many writers, and what sheets and differences are by themselves."""

from __future__ import annotations

import csv
import io
import random
import re
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crowd import Owner, at_once, refusals, somebody
from threadkeep import differences, documents, sessions, sheets, suggestions
from threadkeep.database import Database
from threadkeep.differences import Hunk
from threadkeep.documents import Document, Origin
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.suggestions import Suggestion

# What tries a text in many ways never ends; how quick the rest is, the benchmark says.
bounded = pytest.mark.timeout(60)

WRITERS = 8
SAVES = 50
VERSIONS = """
    select version_number, version_id, parent_version_id, "createdAt", content, metadata
    from public."Document"
    where id = %(document)s
    order by version_number
"""


async def create(database: Database, user: Principal, content: str = "", session: UUID | None = None) -> Document:
    made, _ = await documents.create(
        database, user, uuid4(), title="A document", kind="text", content=content, session=session
    )
    return made


async def one_chain(owner: Owner, document: UUID) -> list[dict[str, Any]]:
    """The versions, which are numbered without a gap, follow from one another and never go back in time."""
    versions = await owner.rows(VERSIONS, {"document": document})
    assert [version["version_number"] for version in versions] == list(range(1, len(versions) + 1))
    parents = [None, *[version["version_id"] for version in versions[:-1]]]
    assert [version["parent_version_id"] for version in versions] == parents
    assert all(earlier["createdAt"] < later["createdAt"] for earlier, later in pairwise(versions))
    return versions


# At once


@pytest.mark.also_behind_a_pooler
async def test_8_writers_of_50_saves_each_lose_none(database: Database, owner: Owner) -> None:
    user = somebody()
    document = await create(database, user)

    async def save_often(writer: int) -> None:
        for number in range(SAVES):
            await documents.save(database, user, document.id, content=f"{writer}-{number}")

    results = await at_once(*[partial(save_often, writer) for writer in range(WRITERS)])

    assert results == [None] * WRITERS
    versions = await one_chain(owner, document.id)
    saved = [version["content"] for version in versions[1:]]
    assert sorted(saved) == sorted(f"{writer}-{number}" for writer in range(WRITERS) for number in range(SAVES))
    for writer in range(WRITERS):
        own = [content for content in saved if content.startswith(f"{writer}-")]
        assert own == [f"{writer}-{number}" for number in range(SAVES)]


@pytest.mark.also_behind_a_pooler
async def test_writers_who_ask_for_the_newest_all_get_through_and_overwrite_nothing(
    database: Database, owner: Owner
) -> None:
    user = somebody()
    document = await create(database, user, "0")

    async def count_up() -> None:
        newest = document
        while True:
            try:
                await documents.save(
                    database, user, document.id, content=f"{int(newest.content) + 1}", if_match=[newest.version_id]
                )
                return
            except ThreadkeepError as error:
                if error.code != "precondition_failed:document":
                    raise
                newest = await documents.read(database, user, document.id)

    assert await at_once(*[count_up] * 16) == [None] * 16
    versions = await one_chain(owner, document.id)
    assert [version["content"] for version in versions] == [f"{number}" for number in range(17)]


@pytest.mark.also_behind_a_pooler
async def test_an_agent_that_streams_while_a_person_saves_loses_neither(database: Database, owner: Owner) -> None:
    user = somebody()
    document = await create(database, user)
    origin = Origin("agent", agent="document_agent", operation="update", message_id=uuid4())

    async def stream() -> None:
        for number in range(20):
            await documents.save(database, user, document.id, content=f"agent {number}", origin=origin)

    async def write() -> None:
        for number in range(20):
            await documents.save(database, user, document.id, content=f"person {number}")

    assert await at_once(stream, write) == [None, None]
    versions = await one_chain(owner, document.id)
    said = {version["content"]: version["metadata"]["origin"] for version in versions[1:]}
    assert said == {f"{who} {number}": who for who in ("agent", "person") for number in range(20)}
    by_agent = next(version["metadata"] for version in versions if version["metadata"]["origin"] == "agent")
    assert by_agent == {
        "origin": "agent",
        "agent": "document_agent",
        "operation": "update",
        "messageId": str(origin.message_id),
    }


@pytest.mark.also_behind_a_pooler
async def test_suggestions_accepted_at_once_are_each_applied_once(database: Database, owner: Owner) -> None:
    user = somebody()
    document = await create(database, user, " ".join(f"<{number}>" for number in range(12)))
    made = [
        await suggestions.add(
            database, user, document.id, original_text=f"<{number}>", suggested_text=f"[{number}]", made_by="text_agent"
        )
        for number in range(12)
    ]
    accepts = [partial(suggestions.accept, database, user, document.id, suggestion.id) for suggestion in made]
    together = partial(suggestions.accept_all, database, user, document.id)

    assert refusals(await at_once(*accepts, *accepts, together)) == set()

    versions = await one_chain(owner, document.id)
    assert versions[-1]["content"] == " ".join(f"[{number}]" for number in range(12))
    applied = [one for version in versions[1:] for one in version["metadata"]["suggestionIds"]]
    assert sorted(applied) == sorted(str(suggestion.id) for suggestion in made)


@pytest.mark.also_behind_a_pooler
async def test_saves_and_deletions_of_document_session_and_account_end_in_one_or_the_other(
    database: Database, owner: Owner
) -> None:
    for _ in range(5):
        user = somebody()
        session = uuid4()
        await sessions.create(
            database, user, session, title="A chat", visibility="private", guest_address=None, new_guest=False
        )
        document = await create(database, user, "one", session)
        suggestion = await suggestions.add(database, user, document.id, original_text="one", suggested_text="two")
        results = await at_once(
            *[partial(documents.save, database, user, document.id, content="one")] * 6,
            partial(suggestions.accept, database, user, document.id, suggestion.id),
            partial(documents.delete_later, database, user, document.id, 1),
            partial(sessions.delete, database, user, session),
            partial(owner.rows, "delete from public.user_profiles where id = %(user)s", {"user": user.user_id}),
        )
        assert refusals(results) <= {
            "not_found:document", "not_found:suggestion", "not_found:session", "conflict:suggestion",
            "forbidden:account",
        }  # fmt: skip
        assert await owner.number('select count(*) from public."Document"') == 0
        assert await owner.number('select count(*) from public."Suggestion"') == 0


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_several_writers_do_the_versions_stay_one_chain(
    database: Database, owner: Owner, seed: int
) -> None:
    user = somebody()
    document = await create(database, user, "a b c d e")
    choices = random.Random(seed)

    async def act(chosen: random.Random) -> None:
        open_ones: list[Suggestion] = []
        for _ in range(15):
            match chosen.choice(["save", "save", "revert", "suggest", "accept", "accept all", "reject", "delete"]):
                case "save":
                    words = " ".join(chosen.sample("abcdefgh", 5))
                    await documents.save(database, user, document.id, content=words)
                case "revert":
                    await _unless_gone(documents.revert(database, user, document.id, chosen.randint(1, 10)))
                case "suggest":
                    made = await _unless_gone(
                        suggestions.add(
                            database, user, document.id, original_text=chosen.choice("abcdefgh"), suggested_text="x"
                        )
                    )
                    open_ones += [made] if made else []
                case "accept" if open_ones:
                    await _unless_gone(suggestions.accept(database, user, document.id, open_ones.pop().id))
                case "accept all":
                    await suggestions.accept_all(database, user, document.id)
                case "reject" if open_ones:
                    await _unless_gone(suggestions.reject(database, user, document.id, open_ones.pop().id))
                case "delete":
                    await documents.delete_later(database, user, document.id, chosen.randint(1, 10))

    results = await at_once(*[partial(act, random.Random(choices.random())) for _ in range(6)])

    assert results == [None] * 6
    versions = await one_chain(owner, document.id)
    assert {version["metadata"]["origin"] for version in versions} <= {"person", "revert", "suggestion"}
    half_resolved = 'select count(*) from public."Suggestion" where "isResolved" <> (resolved_at is not null)'
    assert await owner.number(half_resolved) == 0


async def _unless_gone(action: Any) -> Any:
    """What it gives; None if what it is about has changed or gone meanwhile, which is an answer as well."""
    try:
        return await action
    except ThreadkeepError as error:
        if error.status not in (404, 409, 422):
            raise
        return None


# How many there may be


async def fill(owner: Owner, user: Principal, documents_number: int, versions_number: int) -> UUID:
    """So many documents of so many versions each, past the triggers; the id of one."""
    await owner.rows("set session_replication_role = replica")
    [one, *_] = await owner.rows(
        """
        insert into public."Document" (id, title, content, user_id, version_number, "createdAt")
        select
            md5(%(user)s || d.number)::uuid, 'A document', 'abc', %(user)s::uuid, v.number,
            now() - interval '1 day' + v.number * interval '1 millisecond'
        from generate_series(1, %(documents)s::integer) as d (number)
        cross join generate_series(1, %(versions)s::integer) as v (number)
        returning id
        """,
        {"user": str(user.user_id), "documents": documents_number, "versions": versions_number},
    )
    await owner.rows("reset session_replication_role")
    document: UUID = one["id"]
    return document


async def test_no_number_of_calls_at_once_makes_more_documents_than_a_person_may_have(
    database: Database, owner: Owner
) -> None:
    user = somebody()
    await create(database, user)
    one = await fill(owner, user, documents.MAXIMUM_DOCUMENTS - 6, 1)

    results = await at_once(*[partial(create, database, user, "x")] * 20)

    assert refusals(results) == {"conflict:documents"}
    assert sum(isinstance(result, Document) for result in results) == 5
    firsts = 'select count(*) from public."Document" where version_number = 1'
    assert await owner.number(firsts) == documents.MAXIMUM_DOCUMENTS
    await documents.save(database, user, one, content="An old one goes on")
    await create(database, somebody(), "Somebody else's")
    await documents.delete(database, user, one)
    await create(database, user, "There is room again")


async def test_no_number_of_calls_at_once_makes_more_versions_than_a_document_may_have(
    database: Database, owner: Owner
) -> None:
    user = somebody()
    await create(database, user)
    document = await fill(owner, user, 1, documents.MAXIMUM_VERSIONS - 5)
    suggestion = await suggestions.add(database, user, document, original_text="abc", suggested_text="x", version=1)

    results = await at_once(*[partial(documents.save, database, user, document, content="abc")] * 20)

    assert refusals(results) == {"conflict:versions"}
    assert sorted(result.version for result in results if isinstance(result, Document)) == list(
        range(documents.MAXIMUM_VERSIONS - 4, documents.MAXIMUM_VERSIONS + 1)
    )
    for action in (
        partial(documents.revert, database, user, document, 1),
        partial(suggestions.accept, database, user, document, suggestion.id),
        partial(suggestions.accept_all, database, user, document),
    ):
        with pytest.raises(ThreadkeepError) as error:
            await action()
        assert error.value.code == "conflict:versions"
    assert await owner.number('select count(*) from public."Suggestion" where not "isResolved"') == 1
    await documents.delete_later(database, user, document, documents.MAXIMUM_VERSIONS - 1)
    assert (await suggestions.accept(database, user, document, suggestion.id))[1].content == "x"


async def test_no_number_of_calls_at_once_leaves_more_suggestions_open_than_a_document_may_have(
    database: Database,
) -> None:
    user = somebody()
    document = await create(database, user, "abc")
    add = partial(suggestions.add, database, user, document.id, original_text="b", suggested_text="x")
    made = [await add() for _ in range(suggestions.MAXIMUM_OPEN - 5)]

    results = await at_once(*[add] * 20)

    assert refusals(results) == {"conflict:suggestions"}
    assert sum(isinstance(result, Suggestion) for result in results) == 5
    await suggestions.reject(database, user, document.id, made[0].id)
    await add()


# At the size that they grow to


async def test_a_thousand_documents_of_many_versions_are_listed_each_once(database: Database, owner: Owner) -> None:
    user = somebody()
    await create(database, user)
    await owner.rows(
        """
        insert into public."Document" (id, title, content, user_id)
        select md5((number %% 1000)::text)::uuid, 'A document', 'x', %(user)s
        from generate_series(1, 5000) as number
        """,
        {"user": user.user_id},
    )
    await owner.rows('analyze public."Document"')
    listed: list[UUID] = []
    cursor = None
    while True:
        page = await documents.own_page(database, user, session=None, kind=None, limit=100, cursor=cursor)
        listed += [document.id for document in page.items]
        assert all(document.version in (1, 5) for document in page.items)
        if (cursor := page.next_cursor) is None:
            break
    assert len(listed) == len(set(listed)) == 1001


@bounded
async def test_a_megabyte_is_saved_and_compared(database: Database) -> None:
    user = somebody()
    lines = [f"{number} {'x' * 40}\n" for number in range(20_000)]
    old = "".join(lines)
    new = "".join(line if number % 2 else f"new {line}" for number, line in enumerate(lines))[: 1024 * 1024]
    document = await create(database, user, old)
    await documents.save(database, user, document.id, content=new)
    differences.between(old, new, "old", "new")


async def test_as_many_suggestions_as_may_be_open_are_accepted_in_a_megabyte(database: Database, owner: Owner) -> None:
    user = somebody()
    marks = [f"<{number}>" for number in range(suggestions.MAXIMUM_OPEN + 1)]
    document = await create(database, user, "".join(mark + "ü" * 2500 for mark in marks))
    *fitting, one_too_many = marks
    for mark in fitting:
        await suggestions.add(database, user, document.id, original_text=mark, suggested_text="x")
    with pytest.raises(ThreadkeepError) as error:
        await suggestions.add(database, user, document.id, original_text=one_too_many, suggested_text="x")
    assert error.value.code == "conflict:suggestions"
    done = await suggestions.accept_all(database, user, document.id)
    assert len(done.accepted) == suggestions.MAXIMUM_OPEN
    assert done.document.content == "".join("x" + "ü" * 2500 for _ in fitting) + one_too_many + "ü" * 2500


# Text that cannot be kept


@pytest.mark.parametrize("content", ["a\0b", "\ud800", "x\udfff"])
async def test_text_that_postgresql_does_not_store_is_refused(database: Database, content: str) -> None:
    user = somebody()
    document = await create(database, user)
    with pytest.raises(ThreadkeepError) as error:
        await documents.save(database, user, document.id, content=content)
    assert error.value.code == "invalid:api"
    for original, suggested, description in ((content, "a", None), ("a", content, None), ("a", "b", content)):
        with pytest.raises(ThreadkeepError) as error:
            await suggestions.add(
                database,
                user,
                document.id,
                original_text=original,
                suggested_text=suggested,
                description=description,
            )
        assert error.value.code == "invalid:api"
    with pytest.raises(ThreadkeepError) as error:
        await documents.save(database, user, document.id, content="a", title=content)
    assert error.value.code == "invalid:api"
    with pytest.raises(ThreadkeepError) as error:
        await documents.create(database, user, uuid4(), title=content, kind="text", content="a")
    assert error.value.code == "invalid:api"


# Differences

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n", "e\u2028f\n", "\r\n"]), max_size=30).map("".join)
TEXTS = st.one_of(
    st.tuples(LINES, st.sampled_from(["", "z", "\r"])).map("".join),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
)


def applied(old: str, hunks: list[Hunk]) -> str:
    """The new text, made of the old one and the hunks; every line that a hunk shows of the old one is there."""
    lines = old.split("\n")
    old_lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    new: list[str] = []
    done = 0
    for hunk in hunks:
        new += old_lines[done : hunk.from_line - 1]
        assert len("".join(new).split("\n")) == hunk.to_line
        shown = "".join(change.text for change in hunk.changes if change.kind != "added")
        done = hunk.from_line - 1 + hunk.from_count
        assert shown == "".join(old_lines[hunk.from_line - 1 : done])
        new.append("".join(change.text for change in hunk.changes if change.kind != "removed"))
    return "".join(new + old_lines[done:])


@given(TEXTS, TEXTS)
def test_the_hunks_turn_one_text_into_the_other(old: str, new: str) -> None:
    difference = differences.between(old, new, "old", "new")
    assert applied(old, difference.hunks) == new
    assert (difference.unified == "") == (old == new)


@given(TEXTS, TEXTS)
def test_the_unified_diff_says_the_same_as_the_hunks(old: str, new: str) -> None:
    difference = differences.between(old, new, "old", "new")
    _, *shown = difference.unified.split("\n@@ ") if difference.unified else [""]
    assert len(shown) == len(difference.hunks)
    for text, hunk in zip(shown, difference.hunks, strict=True):
        header, _, body = text.partition("\n")
        assert header.endswith(f",{hunk.from_count} +{hunk.to_line - (not hunk.to_count)},{hunk.to_count} @@")
        # What stands before the marker has no line end of its own.
        lines = (body if body.endswith("\n") else body + "\n").replace("\n\\ No newline at end of file\n", "\0")
        said = re.findall(r"([ +-])([^\n\0]*)([\n\0])", lines)
        for signs, kinds in ((" -", ("context", "removed")), (" +", ("context", "added"))):
            side = "".join(text + end.replace("\0", "") for sign, text, end in said if sign in signs)
            assert side == "".join(change.text for change in hunk.changes if change.kind in kinds)


@bounded
@pytest.mark.parametrize(
    "alphabet",
    [["a\n"], ["a\n", "b\n"], [f"{number}\n" for number in range(200)], [f"{number}\n" for number in range(100_000)]],
    ids=["one line", "two lines", "few lines", "many lines"],
)
def test_no_text_of_a_megabyte_takes_long_to_compare(alphabet: list[str]) -> None:
    chosen = random.Random(7)
    old, new = ("".join(chosen.choices(alphabet, k=150_000))[: 900 * 1024] for _ in range(2))
    with suppress(ThreadkeepError):
        differences.between(old, new, "old", "new")


# Sheets

CELLS = st.text(alphabet='ab ,"\n\rä', max_size=5)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6)
)


def written_as(rows: list[list[str]], line_end: str) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(rows)
    return written.getvalue()


@given(ROWS, st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_a_sheet(rows: list[list[str]], line_end: str) -> None:
    assert sheets.find_problems(written_as(rows, line_end)) == []


@given(st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_just_the_rows_that_are_not_as_wide_as_the_first_are_said(rows: list[list[str]], line_end: str) -> None:
    """Also when other rows, and line ends within cells, stand before them."""
    width = len(rows[0])
    expected = [
        # Where the first cell that is too many begins, else where the row ends.
        (
            _place_after(
                written_as([*rows[:number]], line_end) + written_as([row[:width]], "," if len(row) > width else "")
            ),
            f"This row has {_cells(len(row))}, the first one {_cells(width)}.",
        )
        for number, row in enumerate(rows)
        if len(row) != width
    ]
    found = sheets.find_problems(written_as(rows, line_end))
    assert [((problem.line, problem.column), problem.message) for problem in found] == expected[:20]


def _place_after(text: str) -> tuple[int, int]:
    lines = re.split(r"\r\n|\r|\n", text)
    return len(lines), len(lines[-1]) + 1


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


@given(st.text(alphabet='ab,"\n\r', max_size=30))
def test_any_text_has_problems_at_places_that_are_there(content: str) -> None:
    lines = re.split(r"\r\n|\r|\n", content)
    for problem in sheets.find_problems(content):
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("", []),
        ("a,b\n", []),
        ("a,b", []),
        ('a,"b\nc"\n1,2\n', []),
        ("a,b\n1\n", [(2, 2, "This row has 1 cell, the first one 2 cells.")]),
        ("a,b\n1,2,3,4\n", [(2, 5, "This row has 4 cells, the first one 2 cells.")]),
        ("a,b\n\n1,2\n", [(2, 1, "This row has 1 cell, the first one 2 cells.")]),
        ('a,b\n"x\ny",1,2\n', [(3, 6, "This row has 3 cells, the first one 2 cells.")]),
        ('a,b\n1,x"y\n', [(2, 4, "A cell with a quote in it stands in quotes, each quote in it doubled.")]),
        ('a,b\n"1"x,2\n', [(2, 4, "After a closing quote comes a comma or the end of the line.")]),
        ('a,b\n1,"2\n3,4\n', [(2, 3, "This quote is never closed.")]),
    ],
)
def test_what_is_wrong_with_a_sheet_is_said_where_it_is(content: str, problems: list[tuple[int, int, str]]) -> None:
    found = sheets.find_problems(content)
    assert [(problem.line, problem.column, problem.message) for problem in found] == problems


@pytest.mark.parametrize("content", ["a,b\n" + "1\n" * 100, '"a"x,' * 100, "a\n" + '"a"x,' * 100, 'a"b\n' * 100])
def test_of_a_sheet_with_many_problems_20_are_said(content: str) -> None:
    assert len(sheets.find_problems(content)) == 20


@bounded
@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("a,b\n" * 260_000, 0),
        ("\n" * 1_000_000, 0),
        ('"' * 1_000_000, 0),
        (',"' * 500_000, 0),
        (',""' * 340_000, 0),
        ('"a ""b"", c",1\n' * 60_000, 0),
        ("a,b\n" * 260_000 + "x", 1),
        ("\n" * 1_000_000 + ",", 1),
        ('"' * 1_000_001, 1),
        (',"' * 499_999 + "x", 1),
        ('"' + "\n" * 1_000_000 + '"x', 1),
        ('"\n",' * 250_000 + "x\ny", 1),
        ("x\n" + "a," * 500_000, 1),
        ("x\n" + ('"a\n",' * 10_000 + "\n") * 20, 20),
        ('"a"x,' * 200_000, 20),
    ],
)
def test_what_is_wrong_with_a_sheet_of_a_megabyte_is_found(content: str, number: int) -> None:
    assert len(sheets.find_problems(content)) == number
