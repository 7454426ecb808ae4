"""The last reports of the schedule, and runs of it that administrators ask for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.administrators import ROOT, admin_api, problem, read
from tests.crowd import Owner, at_once
from threadkeep import upkeep, upkeep_reports
from threadkeep.database import Database
from threadkeep.settings import Settings

OLD_MARK = """
    insert into private.revoked_principals (user_id, reason, until)
    values (gen_random_uuid(), 'deleted', now())
"""


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with admin_api(settings, database) as client:
        yield client


def kind(report: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [kind for kind in report["kinds"] if kind["kind"] == name]
    return {key: found[key] for key in ("done", "remaining", "error")}


async def ended(api: httpx.AsyncClient) -> dict[str, Any]:
    """The report, when nothing that was asked for runs any more."""
    async with asyncio.timeout(20):
        while (report := await read(api, "purge"))["requestedAt"] is not None:  # noqa: ASYNC110 - nothing rings
            await asyncio.sleep(0.02)
    return report


async def test_before_the_first_run_there_is_no_report(api: httpx.AsyncClient) -> None:
    assert await read(api, "purge") == {
        "startedAt": None,
        "finishedAt": None,
        "seconds": None,
        "requestedAt": None,
        "kinds": [],
    }


async def test_the_last_report_of_each_kind_is_there(api: httpx.AsyncClient, owner: Owner, database: Database) -> None:
    await owner.rows(OLD_MARK)
    await upkeep.run(database)
    report = await read(api, "purge")
    assert kind(report, "revoked_principals") == {"done": 1, "remaining": 0, "error": None}
    assert {kind["kind"] for kind in report["kinds"]} == set(upkeep._KINDS)
    await upkeep.run(database)
    later = await read(api, "purge")
    assert kind(later, "revoked_principals") == {"done": 0, "remaining": 0, "error": None}
    assert later["finishedAt"] > report["finishedAt"]


async def test_reports_and_sizes_are_bounded(owner: Owner, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_reports, "REPORTS_KEPT", 3)
    await owner.rows("insert into private.table_sizes values (current_date - 100, 'public.files', 1, 1)")
    for _ in range(5):
        await upkeep.run(database)
    assert await owner.number("select count(*) from private.upkeep_reports") == 3
    assert await owner.number("select count(distinct measured_on) from private.table_sizes") == 1


async def test_a_run_is_started_here_and_reports_when_it_has_ended(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows(OLD_MARK)
    answer = await api.post("/api/admin/purge", headers=ROOT)
    assert (answer.status_code, answer.json()["isNew"]) == (202, True)
    assert kind(await ended(api), "revoked_principals") == {"done": 1, "remaining": 0, "error": None}


async def test_many_who_ask_at_once_start_one_run(
    api: httpx.AsyncClient, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_held = asyncio.Event()

    async def held(_: object) -> AsyncIterator[int]:
        await is_held.wait()
        yield 1

    monkeypatch.setitem(upkeep._KINDS, "log_partitions", (held, "select 0 as number"))
    answers = await at_once(*[partial(api.post, "/api/admin/purge", headers=ROOT)] * 8)
    assert [answer.status_code for answer in answers] == [202] * 8
    assert [answer.json()["isNew"] for answer in answers].count(True) == 1
    assert len({answer.json()["requestedAt"] for answer in answers}) == 1
    is_held.set()
    await ended(api)
    assert await owner.number("select count(*) from private.upkeep_reports") == 1
    assert (await api.post("/api/admin/purge", headers=ROOT)).json()["isNew"] is True
    await ended(api)


# On Lambda


class LambdaService:
    """AWS Lambda's side of an invocation: what it was asked for, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, Any]] = []
        self.status = 202
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                kind = self.headers["x-amz-invocation-type"]
                service.asked.append((self.path, kind, json.loads(body)))
                self.send_response(service.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def lambda_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaService]:
    service = LambdaService()
    thread = threading.Thread(target=service.server.serve_forever)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL_LAMBDA": service.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_LAMBDA_FUNCTION_NAME": "threadkeep-admin",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield service
    service.server.shutdown()
    thread.join()
    service.server.server_close()


@pytest.fixture
async def deployed(environment: dict[str, str], database: Database) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.load(environment | {"PURGE_FUNCTION_NAME": "threadkeep-purge"})
    async with admin_api(settings, database) as client:
        yield client


async def test_on_lambda_the_purge_function_is_invoked_and_nothing_runs_here(
    deployed: httpx.AsyncClient, owner: Owner, lambda_service: LambdaService
) -> None:
    answers = [await deployed.post("/api/admin/purge", headers=ROOT) for _ in range(2)]
    assert [(answer.status_code, answer.json()["isNew"]) for answer in answers] == [(202, True), (202, False)]
    assert lambda_service.asked == [
        ("/2015-03-31/functions/threadkeep-purge/invocations", "Event", {"source": "administrator"})
    ]
    assert await owner.number("select count(*) from private.upkeep_reports") == 0
    assert (await read(deployed, "purge"))["requestedAt"] is not None


async def test_a_function_that_cannot_be_invoked_is_said_and_may_be_tried_again(
    deployed: httpx.AsyncClient, lambda_service: LambdaService
) -> None:
    lambda_service.status = 404
    answer = await deployed.post("/api/admin/purge", headers=ROOT)
    assert problem(answer) == (503, "unavailable:purge")
    assert answer.headers["retry-after"] == "5"
    assert (await read(deployed, "purge"))["requestedAt"] is None
    lambda_service.status = 202
    assert (await deployed.post("/api/admin/purge", headers=ROOT)).json()["isNew"] is True


async def test_on_lambda_without_the_setting_nothing_is_promised(
    api: httpx.AsyncClient, lambda_service: LambdaService
) -> None:
    answer = await api.post("/api/admin/purge", headers=ROOT)
    assert problem(answer) == (503, "unavailable:purge")
    assert int(answer.headers["retry-after"]) > 0
    assert (await read(api, "purge"))["requestedAt"] is None
