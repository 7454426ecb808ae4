"""Whatever is done to a document, alone or by several at once: its versions and suggestions stay one history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from tests.crowd import at_once, refusals, somebody
from threadkeep import documents, suggestions
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.suggestions import State

HISTORIES: Final = settings(
    max_examples=25,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TEXTS = st.text(alphabet="abcd ", max_size=6)
LETTERS = st.sampled_from("abcd")
NUMBERS = st.integers(1, 8)
Kind = Literal["save", "revert", "suggest", "accept", "accept all", "reject", "delete later", "delete"]
# A strategy that knows nothing of the state draws the same again when a failure is repeated.
DEEDS = st.tuples(
    st.sampled_from(
        ["save", "save", "revert", "suggest", "suggest", "accept", "accept all", "reject", "delete later", "delete"]
    ),
    NUMBERS,
    TEXTS,
    LETTERS,
)
VERSIONS = """
    select version_id, version_number, parent_version_id, "createdAt", title, kind, content, metadata
    from public."Document"
    where id = %(document)s
    order by version_number
"""
SUGGESTIONS = """
    select s.id, s."suggestedText", s.resolution, s.resolved_at, d.version_number
    from public."Suggestion" as s
    left join public."Document" as d on d.id = s."documentId" and d."createdAt" = s."documentCreatedAt"
    where s."documentId" = %(document)s
"""


@dataclass
class Expected:
    """A version as it has to be: its text, and its metadata."""

    content: str
    metadata: dict[str, Any] = field(default_factory=lambda: {"origin": "person"})


@dataclass
class Edit:
    """A suggestion as it has to be."""

    original: str
    suggested: str
    version: int
    state: State = "open"


class History(RuleBasedStateMachine):
    """One document of one user; `expected` and `edits` say what has to be there."""

    runner: asyncio.Runner
    database: Database
    connection: psycopg.Connection[dict[str, Any]]

    @initialize(content=TEXTS)
    def begin(self, content: str) -> None:
        self.user = somebody()
        self.document = uuid4()
        self.numbers = count(1)
        self.seen: dict[UUID, dict[str, Any]] = {}
        self.made: list[UUID] = []
        self.make(content)

    def make(self, content: str) -> None:
        new = {"title": "A document", "kind": "text", "content": content}
        made, is_new = self.run(
            documents.create(self.database, self.user, self.document, **new)  # type: ignore[arg-type]
        )
        assert (made.version, made.content, is_new) == (1, content, True)
        self.expected = [Expected(content)]
        self.edits: dict[UUID, Edit] = {}

    # One after another: what comes of it is known.

    @rule(content=TEXTS, condition=st.sampled_from(["none", "newest", "earlier"]), number=NUMBERS)
    def save(self, content: str, condition: str, number: int) -> None:
        ids = [row["version_id"] for row in self.versions()]
        wanted = {"none": None, "newest": [ids[-1]], "earlier": [ids[(number - 1) % len(ids)]]}[condition]
        saving = documents.save(self.database, self.user, self.document, content=content, if_match=wanted)
        if wanted is not None and ids[-1] not in wanted:
            self.refused(saving, "precondition_failed:document")
            return
        saved = self.run(saving)
        self.expected.append(Expected(content))
        assert (saved.version, saved.content) == (len(self.expected), content)

    @rule(number=NUMBERS)
    def revert(self, number: int) -> None:
        reverting = documents.revert(self.database, self.user, self.document, number)
        if number > len(self.expected):
            self.refused(reverting, "not_found:version")
            return
        self.run(reverting)
        earlier = self.expected[number - 1].content
        self.expected.append(Expected(earlier, {"origin": "revert", "version": number}))

    @rule(letter=LETTERS, number=st.none() | NUMBERS)
    def suggest(self, letter: str, number: int | None) -> None:
        suggesting = self.suggestion(letter, number)
        version = number or len(self.expected)
        if version > len(self.expected):
            self.refused(suggesting, "not_found:version")
        elif self.expected[version - 1].content.count(letter) != 1:
            self.refused(suggesting, "invalid:api")
        else:
            made = self.run(suggesting)
            self.made.append(made.id)
            self.edits[made.id] = Edit(letter, made.suggested_text, version)

    @rule(number=NUMBERS)
    def accept(self, number: int) -> None:
        suggestion = self.chosen(number)
        accepting = suggestions.accept(self.database, self.user, self.document, suggestion)
        edit = self.edits.get(suggestion)
        if edit is None:
            self.refused(accepting, "not_found:suggestion")
        elif edit.state == "rejected":
            self.refused(accepting, "conflict:resolution")
        elif edit.state == "open" and self.newest.content.count(edit.original) != 1:
            self.refused(accepting, "conflict:suggestion")
        else:
            self.run(accepting)
            if edit.state == "open":
                self.apply([suggestion])

    @rule()
    def accept_all(self) -> None:
        done = self.run(suggestions.accept_all(self.database, self.user, self.document))
        content = self.newest.content
        fitting = []
        for suggestion, edit in self.edits.items():
            if edit.state == "open" and content.count(edit.original) == 1:
                content = content.replace(edit.original, edit.suggested)
                fitting.append(suggestion)
        assert done.accepted == fitting
        if fitting:
            self.apply(fitting)
        assert {one.id for one in done.unapplied} == {key for key, edit in self.edits.items() if edit.state == "open"}

    @rule(number=NUMBERS)
    def reject(self, number: int) -> None:
        suggestion = self.chosen(number)
        rejecting = suggestions.reject(self.database, self.user, self.document, suggestion)
        edit = self.edits.get(suggestion)
        if edit is None:
            self.refused(rejecting, "not_found:suggestion")
        elif edit.state == "accepted":
            self.refused(rejecting, "conflict:resolution")
        else:
            self.run(rejecting)
            edit.state = "rejected"

    @rule(number=NUMBERS)
    def delete_later(self, number: int) -> None:
        self.run(documents.delete_later(self.database, self.user, self.document, number))
        del self.expected[number:]
        self.edits = {key: edit for key, edit in self.edits.items() if edit.version <= number}

    @rule(content=TEXTS)
    def delete(self, content: str) -> None:
        self.run(documents.delete(self.database, self.user, self.document))
        assert not self.versions()
        assert not self.suggestions()
        for suggestion in (self.chosen(1), uuid4()):
            self.refused(suggestions.accept(self.database, self.user, self.document, suggestion), "not_found:document")
        self.make(content)

    @rule(deed=DEEDS)
    def somebody_else(self, deed: tuple[Kind, int, str, str]) -> None:
        owner, self.user = self.user, somebody()
        self.refused(self.do(*deed), "not_found:document")
        self.user = owner

    # At once: one of many orders has come about, and what it may not have done is known.

    @rule(deeds=st.lists(DEEDS, min_size=2, max_size=6))
    def several_at_once(self, deeds: list[tuple[Kind, int, str, str]]) -> None:
        before = self.versions()
        results = self.run(at_once(*[partial(self.do, *deed) for deed in deeds]))
        assert refusals(results) <= {
            "not_found:document", "not_found:version", "not_found:suggestion", "invalid:api", "conflict:suggestion",
            "conflict:resolution",
        }  # fmt: skip
        versions = self.versions()
        stored = {row["version_id"]: row["content"] for row in versions}
        if not {"delete", "delete later"} & {kind for kind, *_ in deeds}:
            assert versions[: len(before)] == before
            for (kind, _, text, _), result in zip(deeds, results, strict=True):
                if kind in ("save", "revert") and isinstance(result, documents.Document):
                    assert stored[result.version_id] == result.content
                    assert kind == "revert" or result.content == text
        if not versions:
            self.make("abcd")
            return
        self.expected = [Expected(row["content"], row["metadata"]) for row in versions]
        known = {row["id"]: row for row in self.suggestions()}
        self.made += known.keys() - set(self.made)
        page = self.run(suggestions.page(self.database, self.user, self.document, state=None, limit=1000, cursor=None))
        self.edits = {one.id: Edit(one.original_text, one.suggested_text, one.version, one.state) for one in page.items}
        assert self.edits.keys() == known.keys()

    async def do(self, kind: Kind, number: int, text: str, letter: str) -> Any:
        place = self.database, self.user, self.document
        match kind:
            case "save":
                return await documents.save(*place, content=text)
            case "revert":
                return await documents.revert(*place, number)
            case "suggest":
                return await self.suggestion(letter, None)
            case "accept":
                return await suggestions.accept(*place, self.chosen(number))
            case "accept all":
                return await suggestions.accept_all(*place)
            case "reject":
                return await suggestions.reject(*place, self.chosen(number))
            case "delete later":
                return await documents.delete_later(*place, number)
            case "delete":
                return await documents.delete(*place)

    # What holds after whatever was done.

    @invariant()
    def versions_are_one_chain_and_what_was_expected(self) -> None:
        versions = self.versions()
        assert [row["version_number"] for row in versions] == list(range(1, len(versions) + 1))
        parents = [None, *[row["version_id"] for row in versions[:-1]]]
        assert [row["parent_version_id"] for row in versions] == parents
        assert all(earlier["createdAt"] < later["createdAt"] for earlier, later in pairwise(versions))
        assert [(row["content"], row["metadata"]) for row in versions] == [
            (each.content, each.metadata) for each in self.expected
        ]
        newest = self.run(documents.read(self.database, self.user, self.document))
        assert newest.version_id == versions[-1]["version_id"]

    @invariant()
    def no_version_is_ever_written_again(self) -> None:
        for row in self.versions():
            assert self.seen.setdefault(row["version_id"], row) == row

    @invariant()
    def suggestions_are_bound_to_versions_that_are_there(self) -> None:
        rows = {row["id"]: row for row in self.suggestions()}
        found = {key: (row["version_number"], row["resolution"] or "open") for key, row in rows.items()}
        assert found == {key: (edit.version, edit.state) for key, edit in self.edits.items()}
        assert all((row["resolution"] is None) == (row["resolved_at"] is None) for row in rows.values())

    @invariant()
    def an_accepted_text_is_in_the_one_version_that_it_made(self) -> None:
        applied: list[str] = []
        for each in self.expected:
            ids = each.metadata.get("suggestionIds", [])
            assert (each.metadata["origin"] == "suggestion") == bool(ids)
            assert all(self.edits[UUID(one)].suggested in each.content for one in ids if UUID(one) in self.edits)
            applied += ids
        assert len(applied) == len(set(applied))
        assert all(self.edits[UUID(one)].state == "accepted" for one in applied if UUID(one) in self.edits)

    # The ways to the database.

    @property
    def newest(self) -> Expected:
        return self.expected[-1]

    def apply(self, accepted: list[UUID]) -> None:
        content = self.newest.content
        for suggestion in accepted:
            content = content.replace(self.edits[suggestion].original, self.edits[suggestion].suggested)
            self.edits[suggestion].state = "accepted"
        metadata = {"origin": "suggestion", "suggestionIds": [str(suggestion) for suggestion in accepted]}
        self.expected.append(Expected(content, metadata))

    def suggestion(self, letter: str, version: int | None) -> Awaitable[suggestions.Suggestion]:
        """Suggests a text that nothing else holds."""
        new = f"<{next(self.numbers)}>"
        return suggestions.add(
            self.database, self.user, self.document, original_text=letter, suggested_text=new, version=version
        )

    def chosen(self, number: int) -> UUID:
        """One of the suggestions that were ever made, also of those that are gone."""
        return self.made[number % len(self.made)] if self.made else UUID(int=number)

    def refused(self, action: Awaitable[Any], code: str) -> None:
        with pytest.raises(ThreadkeepError) as error:
            self.run(action)
        assert error.value.code == code

    def run(self, action: Awaitable[Any]) -> Any:
        async def waiting() -> Any:
            return await action

        return self.runner.run(waiting())

    def versions(self) -> list[dict[str, Any]]:
        return self.connection.execute(VERSIONS, {"document": self.document}).fetchall()

    def suggestions(self) -> list[dict[str, Any]]:
        return self.connection.execute(SUGGESTIONS, {"document": self.document}).fetchall()


@pytest.fixture
def history(database_url: str, api_database_url: str) -> Iterator[type[History]]:
    """The machine, on this test's database."""
    with asyncio.Runner() as runner, psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        database = Database(api_database_url, pool_size=6)
        yield type("HistoryOfThisTest", (History,), {
            "runner": runner, "database": database, "connection": connection,
        })  # fmt: skip
        runner.run(database.close())


def test_any_history_of_a_document_keeps_its_order_and_loses_nothing(history: type[History]) -> None:
    run_state_machine_as_test(history, settings=HISTORIES)
