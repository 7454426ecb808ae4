"""Health in depth: each part by itself, what is wrong said, and no secret told."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.administrators import admin_api, read
from tests.crowd import Owner, begin, somebody
from threadkeep import health, upkeep
from threadkeep.database import Database
from threadkeep.settings import Settings

OF_DATABASE = ["database", "migrations", "policies", "partitions", "turns", "purge", "tables", "slowQueries"]
PARTS = [*OF_DATABASE, "storage", "providers"]


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with admin_api(settings, database) as client:
        yield client


async def part(api: httpx.AsyncClient, name: str) -> tuple[str, dict[str, Any]]:
    found = (await read(api, "health"))["parts"][name]
    return found["status"], found["figures"]


async def test_a_new_installation_is_well_as_soon_as_the_schedule_has_run(
    api: httpx.AsyncClient, database: Database
) -> None:
    before = await read(api, "health")
    assert (before["status"], before["parts"]["purge"]["detail"]) == ("degraded", "It has not run yet.")
    await upkeep.run(database)
    found = await read(api, "health")
    assert {name: part["status"] for name, part in found["parts"].items()} == dict.fromkeys(PARTS, "ok")
    assert found["status"] == "ok"
    figures = {name: part["figures"] for name, part in found["parts"].items()}
    assert figures["database"]["roundTripMs"] > 0
    assert figures["database"]["pool"]["most"] == 16
    assert int(figures["database"]["version"].split(".")[0]) >= 15
    assert figures["migrations"]["pending"] == []
    assert figures["turns"] == {"running": 0, "dead": 0, "oldestDeadSince": None}
    assert figures["tables"]["totalBytes"] > 0
    assert 'public."Chat"' in {table["name"] for table in figures["tables"]["tables"]}


async def test_a_file_that_was_not_applied_is_pending(
    api: httpx.AsyncClient, owner: Owner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = sorted(path.name for path in health.SQL.glob("*.sql"))
    await owner.rows("delete from private.migrations where name = %(last)s", {"last": files[-1]})
    status, figures = await part(api, "migrations")
    assert (status, figures["pending"]) == ("degraded", [files[-1]])
    monkeypatch.setattr(health, "SQL", tmp_path / "nowhere")
    status, figures = await part(api, "migrations")
    assert (status, figures["pending"], figures["last"]) == ("ok", None, files[-2])


async def test_a_table_without_row_level_security_is_named(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows('alter table public."Vote_v2" disable row level security')
    assert await part(api, "policies") == ("degraded", {"withoutRowLevelSecurity": ['public."Vote_v2"']})


async def test_rows_without_a_month_and_months_that_are_missing_are_seen(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        do $$
        begin
            execute (
                select format('drop table private.%%I', max(partition))
                from private.log_partitions()
                where log = 'agent_activity_logs' and month is not null
            );
        end
        $$
    """)
    status, figures = await part(api, "partitions")
    assert status == "degraded"
    assert {log["log"]: log["monthsAhead"] for log in figures["logs"]} == {
        "agent_activity_logs": 2,
        "user_activity_logs": 3,
    }
    await owner.rows("""
        insert into public.agent_activity_logs
            (correlation_id, agent_type, operation_type, operation_category, created_at)
        values (gen_random_uuid(), 'a', 'b', 'c', now() - interval '2 years')
    """)
    _, figures = await part(api, "partitions")
    assert [log["defaultRows"] for log in figures["logs"]] == [1, 0]


async def test_dead_turns_are_counted(api: httpx.AsyncClient, owner: Owner, database: Database) -> None:
    for _ in range(2):
        await begin(database, somebody())
    await owner.rows("""
        update public."Stream"
        set lease_until = now() - interval '1 minute'
        where id = (select min(id::text)::uuid from public."Stream")
    """)
    status, figures = await part(api, "turns")
    assert (status, figures["running"], figures["dead"]) == ("degraded", 2, 1)


async def test_a_purge_that_failed_or_stopped_or_has_a_backlog_is_seen(
    api: httpx.AsyncClient, owner: Owner, database: Database
) -> None:
    await upkeep.run(database)
    assert (await part(api, "purge"))[0] == "ok"
    for change, detail in (
        ("kinds = jsonb_set(kinds, '{0,remaining}', '7')", "It has a backlog."),
        ("kinds = jsonb_set(kinds, '{0,error}', '\"LockNotAvailable\"')", "Some of its work failed; see the errors."),
        ("finished_at = now() - interval '3 hours'", "It has not run for two hours."),
    ):
        await owner.rows(f"update private.upkeep_reports set {change}")
        found = (await read(api, "health"))["parts"]["purge"]
        assert (found["status"], found["detail"]) == ("degraded", detail)


async def test_growth_is_that_since_about_a_week_ago(api: httpx.AsyncClient, owner: Owner, database: Database) -> None:
    await owner.rows("""
        insert into private.table_sizes (measured_on, name, bytes, estimated_rows)
        values
            ((now() at time zone 'UTC')::date - 20, 'public.files', 1, 1),
            ((now() at time zone 'UTC')::date - 6, 'public.files', 1000, 1),
            ((now() at time zone 'UTC')::date - 1, 'public.files', 2000, 1)
    """)
    await upkeep.run(database)
    _, figures = await part(api, "tables")
    [files] = [table for table in figures["tables"] if table["name"] == "public.files"]
    assert files["grownBy"] == files["bytes"] - 1000
    [chats] = [table for table in figures["tables"] if table["name"] == 'public."Chat"']
    assert (chats["grownBy"], chats["grownSince"]) == (None, None)


async def test_a_part_that_cannot_be_looked_at_stops_no_other(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("drop function private.table_growth()")
    found = await read(api, "health")
    assert (found["parts"]["tables"]["status"], found["status"]) == ("degraded", "degraded")
    assert list(found["parts"]) == PARTS
    assert found["parts"]["turns"]["status"] == "ok"


async def test_a_store_in_a_folder_is_asked_too(
    environment: dict[str, str], database: Database, tmp_path: Path
) -> None:
    kept_here = Settings.load(environment | {"FILES_DIRECTORY": str(tmp_path), "FILES_SIGNING_KEY": "f" * 32})

    found = await health.read(database, somebody(is_admin=True), kept_here, with_providers=False)

    assert (found.parts["storage"].status, found.parts["storage"].detail) == ("ok", None)


async def test_the_store_of_files_is_asked(settings: Settings, database: Database) -> None:
    root = somebody(is_admin=True)
    none = settings.model_copy(update={"files_bucket": None, "files_directory": None})
    gone = none.model_copy(update={"files_bucket": "no-such-bucket-of-threadkeep"})

    found = await health.read(database, root, none, with_providers=False)
    assert found.parts["storage"].status == "ok"
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        environ.setenv("AWS_ACCESS_KEY_ID", "test")
        environ.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environ.setenv("AWS_REGION", "eu-central-1")
        environ.setenv("AWS_MAX_ATTEMPTS", "1")
        found = await health.read(database, root, gone, with_providers=False)
    assert (found.parts["storage"].status, found.status) == ("down", "down")


async def test_without_a_database_its_parts_are_down_and_the_answer_comes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.2)
    nowhere = Database("postgresql://nobody@127.0.0.1:9/nothing")
    async with admin_api(settings, nowhere) as api:
        found = await read(api, "health")
    await nowhere.close()
    assert found["status"] == "down"
    assert {name for name, part in found["parts"].items() if part["status"] == "down"} == set(OF_DATABASE)


# What pg_stat_statements gives, where it is installed: it cannot be here, so its view is made by hand.
STATISTICS = (
    "create schema statistics",
    """
    create view statistics.pg_stat_statements as
    select
        (select d.oid from pg_database as d where d.datname = current_database()) as dbid,
        s.query, s.calls, s.mean as mean_exec_time, s.calls * s.mean as total_exec_time
    from (
        values
            ('select $1', 10::bigint, 1.5::double precision),
            ('  UPDATE "Chat" set title = $1', 2, 1500),
            ('alter role threadkeep_api password ''very secret''', 1, 9000)
    ) as s (query, calls, mean)
    """,
    "set allow_system_table_mods = on",
    """
    insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    values (99999, 'pg_stat_statements', 10, 'statistics'::regnamespace, true, '1.10')
    """,
)


async def test_slow_queries_are_told_where_they_are_counted_without_what_was_in_them(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    assert await part(api, "slowQueries") == ("ok", {"queries": None})
    for statement in STATISTICS:
        await owner.rows(statement)
    status, figures = await part(api, "slowQueries")
    assert (status, figures["queries"]) == (
        "degraded",
        [
            {"query": '  UPDATE "Chat" set title = $1', "calls": 2, "meanMs": 1500.0, "totalMs": 3000.0},
            {"query": "select $1", "calls": 10, "meanMs": 1.5, "totalMs": 15.0},
        ],
    )


# Providers


class _Answers(BaseHTTPRequestHandler):
    seen: list[dict[str, str]]

    def do_HEAD(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that answers as a provider does to somebody without a key; its address, and what it was sent."""
    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Answers,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    thread.join()
    server.server_close()


async def test_providers_are_asked_only_if_wanted_and_never_with_a_key(
    environment: dict[str, str],
    database: Database,
    provider: tuple[str, list[dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, seen = provider
    secrets = {"OPENAI_API_KEY": "sk-very-secret", "ANTHROPIC_API_KEY": "another-secret"}
    addresses = {"OPENAI_BASE_URL": url, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    settings = Settings.load(environment | secrets | addresses)
    async with admin_api(settings, database) as api:
        quiet = await read(api, "health")
        assert seen == []
        asked = await read(api, "health", providers="true")
    assert quiet["parts"]["providers"]["figures"]["providers"] == [
        {"provider": "google", "hasKey": False, "isReachable": None},
        {"provider": "openai", "hasKey": True, "isReachable": None},
        {"provider": "anthropic", "hasKey": True, "isReachable": None},
    ]
    assert asked["parts"]["providers"]["status"] == "degraded"
    reached = {item["provider"]: item["isReachable"] for item in asked["parts"]["providers"]["figures"]["providers"]}
    assert reached == {"google": None, "openai": True, "anthropic": False}
    assert len(seen) == 1
    assert not {"authorization", "x-api-key", "x-goog-api-key"} & seen[0].keys()
    told = json.dumps([quiet, asked])
    assert not [secret for secret in (*secrets.values(), "g" * 32, url, "postgresql://") if secret in told]
