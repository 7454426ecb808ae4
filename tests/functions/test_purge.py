"""The schedule's function, by the event that EventBridge Scheduler sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import psycopg
import pytest

from functions.purge import app
from tests.aws import LambdaContext, recorded
from threadkeep.errors import ThreadkeepError


@pytest.fixture(autouse=True)
def _own_database(process: asyncio.AbstractEventLoop) -> Iterator[None]:
    app._database.cache_clear()
    yield
    process.run_until_complete(app._database().close())


def leave_an_old_mark(database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("""
            insert into private.revoked_principals (user_id, reason, until)
            values (gen_random_uuid(), 'deleted', now())
        """)


def test_the_schedule_does_what_is_due_and_reports_it(database_url: str) -> None:
    leave_an_old_mark(database_url)

    first = app.handler(recorded("scheduler_purge"), LambdaContext())
    again = app.handler(recorded("scheduler_purge"), LambdaContext())

    json.dumps(first)
    assert [kind for kind in first["kinds"] if kind["error"] or kind["remaining"]] == []
    assert {kind["kind"]: kind["done"] for kind in first["kinds"] if kind["done"]} == {"revoked_principals": 1}
    assert [kind for kind in again["kinds"] if kind["done"]] == []


def test_on_lambda_it_says_what_it_did_as_metrics(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_an_old_mark(database_url)
    app.handler(recorded("scheduler_purge"), LambdaContext())
    assert "_aws" not in capsys.readouterr().out

    leave_an_old_mark(database_url)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "mine-purge")
    report = app.handler(recorded("scheduler_purge"), LambdaContext())

    (sums,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert (sums["UpkeepDone"], sums["UpkeepRemaining"], sums["UpkeepFailed"]) == ([1.0], [0.0], [0.0])
    assert sums["UpkeepSeconds"] == [report["seconds"]]
    (directive,) = sums["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Threadkeep"
    # Two installations of one account are told apart, and no metric is made of each kind of work: each is billed.
    assert [sorted(names) for names in directive["Dimensions"]] == [["function", "service"]]
    assert (sums["function"], len(directive["Metrics"])) == ("mine-purge", 4)


def test_an_invocation_that_is_nearly_over_starts_nothing(database_url: str) -> None:
    leave_an_old_mark(database_url)
    report = app.handler(recorded("scheduler_purge"), LambdaContext(milliseconds=0))
    remaining = {kind["kind"]: kind["remaining"] for kind in report["kinds"] if kind["remaining"]}
    assert remaining == {"revoked_principals": 1}


def test_without_a_database_the_invocation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.2)
    with pytest.raises(ThreadkeepError) as refused:
        app.handler(recorded("scheduler_purge"), LambdaContext())
    assert refused.value.code == "unavailable:database"
