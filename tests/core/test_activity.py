"""What is on record of what people do: as the settings say, with the action itself, and at no price to it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.crowd import Owner, at_once, begin, finish, refusals, somebody
from tests.logs import activities, break_settings, configure
from tests.round_trips import counted
from threadkeep import activity, documents, error_log, files, profiles, sessions, turns, votes
from threadkeep.activity import ActivityType, Call
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE, Principal
from threadkeep.settings import Settings
from threadkeep.storage import DiskStorage

CALL = Call(
    correlation_id=UUID(int=7),
    method="PATCH",
    path="/api/sessions/1",
    address="203.0.113.9",
    user_agent="Mozilla/5.0",
)
CATEGORIES: dict[str, tuple[ActivityType, str]] = {
    "log_auth_events": ("auth_login", "authentication"),
    "log_chat_events": ("chat_create", "chat"),
    "log_document_events": ("document_view", "document"),
    "log_admin_events": ("admin_config_update", "admin"),
    "log_vote_events": ("vote_message", "vote"),
    "log_file_events": ("file_download", "file"),
    "log_artifact_events": ("artifact_create", "artifact"),
}
SOURCE_TYPES = {
    *("auth_login", "auth_logout", "auth_register", "chat_create", "chat_view", "chat_delete", "chat_message_send"),
    *("document_create", "document_view", "document_update", "document_delete"),
    *("admin_config_update", "admin_dashboard_view", "admin_provider_view", "vote_message", "suggestion_view"),
    *("file_upload", "file_download", "file_delete", "artifact_create", "artifact_execute"),
}


@pytest.fixture
async def user(database: Database) -> Principal:
    """A user with a profile, of whom nothing is on record."""
    user = somebody()
    await profiles.own(database, user)
    return user


async def log(
    database: Database,
    user: Principal,
    activity_type: ActivityType = "chat_view",
    call: Call = CALL,
    metadata: dict[str, object] | None = None,
) -> bool:
    note = activity.note(database.during(call), activity_type, ("chat", UUID(int=1)), metadata=metadata)
    [row] = await database.rows(user, "select private.log_user_activity(%(activity)s) as logged", {"activity": note})
    return bool(row["logged"])


async def logged(owner: Owner, column: str) -> list[Any]:
    rows = await owner.rows(f"select {column} as value from public.user_activity_logs order by created_at")
    return [row["value"] for row in rows]


# Toggles


async def test_nothing_is_on_record_unless_activity_is_switched_on(
    database: Database, owner: Owner, user: Principal
) -> None:
    assert await log(database, user) is False
    await configure(owner)
    assert await log(database, user) is True
    await configure(owner, user_activity_logging_enabled=False)
    assert await log(database, user) is False
    assert await activities(owner) == ["chat_view"]


@pytest.mark.parametrize("toggle", CATEGORIES)
async def test_a_category_that_is_switched_off_is_not_logged_and_the_others_are(
    database: Database, owner: Owner, user: Principal, toggle: str
) -> None:
    await configure(owner, category_toggles={toggle: False})
    for activity_type, _ in CATEGORIES.values():
        await log(database, user, activity_type)
    others = {kind for name, kind in CATEGORIES.items() if name != toggle}
    rows = await owner.rows("select activity_type, activity_category from public.user_activity_logs")
    assert {(row["activity_type"], row["activity_category"]) for row in rows} == others


async def test_every_activity_has_a_category_and_those_of_the_source_design_are_among_them(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    for activity_type in get_args(ActivityType):
        assert await log(database, user, activity_type), activity_type
    assert set(get_args(ActivityType)) > SOURCE_TYPES


# How much of a person


@pytest.mark.parametrize(
    ("address", "whole", "anonymous"),
    [
        ("203.0.113.9", "203.0.113.9", "203.0.113.0"),
        ("2001:db8:1:2:3::9", "2001:db8:1:2:3::9", "2001:db8:1::"),
        ("::ffff:203.0.113.9", "203.0.113.9", "203.0.113.0"),
        ("nowhere", "nowhere", None),
        (None, None, None),
    ],
)
async def test_an_address_is_kept_whole_or_only_its_network(
    database: Database, owner: Owner, user: Principal, address: str | None, whole: str | None, anonymous: str | None
) -> None:
    call = replace(CALL, address=address)
    await configure(owner)
    await log(database, user, call=call)
    await configure(owner, privacy_settings={"anonymize_ip": True})
    await log(database, user, call=call)
    assert await logged(owner, "ip_address") == [whole, anonymous]


async def test_the_user_agent_is_kept_only_where_it_may_be(database: Database, owner: Owner, user: Principal) -> None:
    await configure(owner)
    await log(database, user)
    await configure(owner, privacy_settings={"log_user_agent": False})
    await log(database, user)
    assert await logged(owner, "user_agent") == ["Mozilla/5.0", None]


async def test_an_e_mail_address_is_hashed_wherever_it_stands(
    database: Database, owner: Owner, user: Principal
) -> None:
    metadata: dict[str, object] = {"email": "Ada@example.com", "told": ["by (ada@example.com), not xada@example.com"]}
    await configure(owner)
    await log(database, user, metadata=metadata)
    await configure(owner, privacy_settings={"hash_email": True})
    await log(database, user, metadata=metadata)
    open_text, hashed = await logged(owner, "activity_metadata")
    assert open_text == metadata
    [ada, other] = await owner.rows("""
        select 'sha256:' || encode(sha256(m.email::bytea), 'hex') as hash
        from (values ('ada@example.com'), ('xada@example.com')) as m (email)
    """)
    assert hashed == {"email": ada["hash"], "told": [f"by ({ada['hash']}), not {other['hash']}"]}


async def test_an_e_mail_address_in_what_a_client_sends_is_hashed_too(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner, privacy_settings={"hash_email": True})
    call = replace(CALL, path="/api/admin/users/ada@example.com", user_agent="bot (+mailto:ada@example.com)")
    await log(database, user, call=call)
    await error_log.record(database, correlation_id=uuid4(), category="x:y", message="It broke.", call=call)
    for table in ("user_activity_logs", "error_logs"):
        [row] = await owner.rows(f"select request_path, user_agent from public.{table}")
        assert "@" not in str(row)
        assert row["request_path"].startswith("/api/admin/users/sha256:")


@pytest.mark.parametrize(
    ("excluded", "path", "is_logged"),
    [
        ("/api/me", "/api/me", False),
        ("/api/me", "/api/me/", False),
        ("/api/me", "/api/me/claim", False),
        ("/api/me/", "/api/me", False),
        ("/api/me", "/api/memory", True),
        ("/api/me/claim", "/api/me", True),
        ("/", "/api/me", False),
    ],
)
async def test_an_excluded_path_and_what_is_below_it_is_not_logged(
    database: Database, owner: Owner, user: Principal, excluded: str, path: str, is_logged: bool
) -> None:
    await configure(owner, privacy_settings={"exclude_sensitive_paths": ["/api/other", excluded]})
    assert await log(database, user, call=replace(CALL, path=path)) is is_logged


async def test_what_a_broken_row_says_of_privacy_protects_the_person(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    for member in ("anonymize_ip", "hash_email", "log_user_agent", "exclude_sensitive_paths"):
        await break_settings(owner, f"{{privacy_settings,{member}}}", "nonsense")
    assert await log(database, user, metadata={"email": "ada@example.com"})
    [row] = await owner.rows("select ip_address, user_agent, activity_metadata from public.user_activity_logs")
    assert (row["ip_address"], row["user_agent"]) == ("203.0.113.0", None)
    assert row["activity_metadata"]["email"].startswith("sha256:")


# Sampling


async def test_a_sample_holds_about_its_share_and_of_a_request_all_or_nothing(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner, performance_settings={"sampling_enabled": True, "sampling_rate": 0.3})
    share = await owner.number("""
        select count(*)
        from generate_series(1, 10000)
        where private.is_sampled(public.get_logging_config(), gen_random_uuid())
    """)
    assert 2700 < share < 3300

    agent = '[{"agent_type": "a", "operation_type": "b", "operation_category": "generation"}]'
    for _ in range(40):
        call = replace(CALL, correlation_id=uuid4())
        first, second = await log(database, user, call=call), await log(database, user, call=call)
        assert first is second
        values = {"correlation": call.correlation_id, "rows": agent}
        await database.rows(SERVICE, "select private.log_agent_activity(null, %(correlation)s, %(rows)s)", values)
    rows = await owner.rows("""
        select
            array(select distinct correlation_id from public.user_activity_logs order by 1) as people,
            array(select distinct correlation_id from public.agent_activity_logs order by 1) as agents
    """)
    assert rows[0]["people"] == rows[0]["agents"]
    assert 0 < len(rows[0]["people"]) < 40


@pytest.mark.parametrize(("enabled", "rate", "expected"), [(True, 0, False), (True, 1, True), (False, 0, True)])
async def test_a_rate_of_0_keeps_nothing_and_of_1_all_and_counts_only_where_sampling_is_on(
    database: Database, owner: Owner, user: Principal, enabled: bool, rate: float, expected: bool
) -> None:
    await configure(owner, performance_settings={"sampling_enabled": enabled, "sampling_rate": rate})
    assert {await log(database, user, call=replace(CALL, correlation_id=uuid4())) for _ in range(20)} == {expected}


# Agents


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"generation", "tool_invocation", "code_execution"}),
        ({"agent_activity_logging_enabled": False}, set()),
        ({"category_toggles": {"log_ai_operations": False}}, {"tool_invocation", "code_execution"}),
        ({"category_toggles": {"log_tool_invocations": False}}, {"generation", "code_execution"}),
        ({"category_toggles": {"log_code_execution": False}}, {"generation", "tool_invocation"}),
    ],
)
async def test_what_agents_do_follows_the_toggles_of_its_category(
    database: Database, owner: Owner, settings: dict[str, Any], expected: set[str]
) -> None:
    await configure(owner, **settings)
    await database.rows(
        SERVICE,
        """
        select private.log_agent_activity(null, gen_random_uuid(), jsonb_agg(jsonb_build_object(
            'agent_type', 'python_agent', 'operation_type', 'create', 'operation_category', c.category
        )))
        from unnest(array['generation', 'tool_invocation', 'code_execution']) as c (category)
        """,
    )
    rows = await owner.rows("select operation_category from public.agent_activity_logs")
    assert {row["operation_category"] for row in rows} == expected


# With the action, and at no price to it (F13)


async def test_what_was_rolled_back_is_not_on_record(database: Database, owner: Owner, user: Principal) -> None:
    await configure(owner)
    session = uuid4()
    bound = database.during(CALL)
    with pytest.raises(ThreadkeepError):
        await votes.put(bound, user, session, votes.Vote(uuid4(), True))
    with pytest.raises(ThreadkeepError):
        await sessions.delete(bound, user, session)
    note = activity.note(bound, "chat_view")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await database.run(
            user, ("select private.log_user_activity(%(activity)s)", {"activity": note}), ("select 1 / 0", {})
        )
    assert await activities(owner) == []


async def test_a_row_is_there_as_soon_as_the_action_is_and_costs_no_round_trip(
    api_database_url: str, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    async with counted(api_database_url) as proxy:
        database = Database(proxy.url)
        await database.rows(SERVICE, "select 1")
        proxy.reset()
        bound, session = database.during(CALL), uuid4()
        await sessions.create(
            bound, user, session, title="Hello", visibility="private", guest_address=None, new_guest=False
        )
        assert await activities(owner) == ["chat_create"]
        await sessions.change(bound, user, session, {"status": "archived"})
        assert await activities(owner) == ["chat_create", "chat_archive"]
        await sessions.delete(bound, user, session)
        await begin(bound, user)
        assert proxy.round_trips == 4
        await database.close()
    assert await activities(owner) == ["chat_create", "chat_archive", "chat_delete", "chat_create", "chat_message_send"]
    [row] = await owner.rows("select * from public.user_activity_logs where activity_type = 'chat_archive'")
    assert row["activity_metadata"] == {"changed": ["status"], "status": "archived"}
    assert (row["user_id"], row["correlation_id"]) == (user.user_id, CALL.correlation_id)
    assert (row["resource_type"], row["resource_id"], row["session_id"]) == ("chat", session, str(session))
    assert (row["request_method"], row["request_path"]) == (CALL.method, CALL.path)


async def test_a_log_that_cannot_be_written_does_not_fail_the_action(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    await owner.rows("alter table public.user_activity_logs rename to gone")
    session = uuid4()
    _, is_new = await sessions.create(
        database.during(CALL), user, session, title="A", visibility="private", guest_address=None, new_guest=False
    )
    assert is_new
    assert await owner.number('select count(*) from public."Chat"') == 1


async def test_a_user_cannot_log_in_the_name_of_another(database: Database, owner: Owner, user: Principal) -> None:
    await configure(owner)
    other = somebody()
    await profiles.own(database, other)
    note = activity.note(database.during(CALL), "chat_view", user_id=other.user_id)
    await database.rows(user, "select private.log_user_activity(%(activity)s)", {"activity": note})
    assert await logged(owner, "user_id") == [user.user_id]


async def test_what_a_user_does_while_his_account_is_deleted_waits_for_nobody(
    database: Database, owner: Owner, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion holds the profile and wants the session, which the change holds: neither may want the other's."""
    await configure(owner)
    monkeypatch.setattr("threadkeep.database._REPEATS", 1)
    for _ in range(15):
        user, session = somebody(), uuid4()
        bound = database.during(CALL)
        await sessions.create(
            bound, user, session, title="A", visibility="private", guest_address=None, new_guest=False
        )
        results = await at_once(
            *[partial(sessions.change, bound, user, session, {"title": str(n)}) for n in range(6)],
            partial(profiles.delete_own, bound, settings, user),
        )
        assert refusals(results) <= {"not_found:session", "forbidden:account"}
    assert await owner.number("select count(*) from public.user_activity_logs") == 0


async def test_a_message_that_is_sent_again_is_on_record_once(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    message = turns.UserMessage(uuid4(), [{"type": "text", "text": "Hello"}], [], "Hello")
    request = turns.TurnRequest(session=uuid4(), message=message, trigger="submit")

    async def send() -> turns.Run | turns.Join | turns.Replay:
        return await turns.begin(
            database.during(CALL),
            user,
            request,
            answer=uuid4(),
            stream=uuid4(),
            correlation_id=CALL.correlation_id,
            providers=[],
            configuration_version=None,
            guest_address=None,
            new_guest=False,
        )

    begun = [one for one in await at_once(*[send] * 8) if isinstance(one, turns.Run)]
    [run] = begun
    assert user.user_id is not None
    await finish(database, user.user_id, run)
    assert isinstance(await send(), turns.Replay)
    assert sorted(await activities(owner)) == ["chat_create", "chat_message_send"]


async def test_who_stops_or_resumes_an_answer_is_on_record_if_there_is_one(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    run = await begin(database, user)
    bound = database.during(CALL)
    assert await turns.running_stream(bound, user, run.session) is not None
    assert await turns.request_stop(bound, user, run.session) is True
    assert user.user_id is not None
    await finish(database, user.user_id, run)
    assert await turns.running_stream(bound, user, run.session) is None
    assert await turns.request_stop(bound, user, run.session) is False
    assert await activities(owner) == ["chat_resume", "chat_stop"]


async def test_what_an_agent_makes_for_a_person_is_an_artifact_of_his_call(
    database: Database, owner: Owner, user: Principal
) -> None:
    await configure(owner)
    bound, origin = database.during(CALL), documents.Origin(kind="agent", agent="document_agent", operation="create")
    made, _ = await documents.create(bound, user, uuid4(), title="T", kind="text", content="a", origin=origin)
    await documents.save(bound, user, made.id, content="b", origin=origin)
    await documents.save(database, user, made.id, content="c", origin=origin)
    rows = await owner.rows("""
        select activity_type, activity_category, resource_id, activity_metadata ->> 'agent' as agent
        from public.user_activity_logs
        order by created_at
    """)
    expected = {"activity_category": "artifact", "resource_id": made.id, "agent": "document_agent"}
    assert rows == [{"activity_type": kind, **expected} for kind in ("artifact_create", "artifact_update")]


async def test_a_file_that_is_announced_and_deleted_is_on_record(
    database: Database, owner: Owner, user: Principal, tmp_path: Path
) -> None:
    await configure(owner)
    bound, storage = database.during(CALL), DiskStorage(tmp_path, b"k" * 32)
    file, _ = await files.create(bound, storage, user, name="a.txt", media_type="text/plain", size=3)
    with pytest.raises(ThreadkeepError):
        await files.delete(bound, user, uuid4())
    await files.delete(bound, user, file.id)
    assert await activities(owner) == ["file_upload", "file_delete"]
    assert await logged(owner, "resource_id") == [file.id, file.id]


async def test_who_is_given_the_bytes_of_a_file_is_on_record_as_having_them(
    database: Database, owner: Owner, user: Principal, tmp_path: Path
) -> None:
    await configure(owner)
    bound, storage = database.during(CALL), DiskStorage(tmp_path, b"k" * 32)
    file, form = await files.create(bound, storage, user, name="a.txt", media_type="text/plain", size=3)
    assert (await files.read(bound, storage, user, file.id)).state == "pending"
    for other in (somebody(), Principal(user_id=None, role="anon")):
        with pytest.raises(ThreadkeepError):
            await files.read(bound, storage, other, file.id)
    assert await activities(owner) == ["file_upload"]
    await storage.receive(form.fields, b"abc")
    for _ in range(2):
        assert (await files.read(bound, storage, user, file.id)).state == "ready"
    assert await activities(owner) == ["file_upload", "file_download", "file_download"]
    assert await logged(owner, "resource_id") == [file.id] * 3


async def test_a_registration_that_is_told_twice_is_on_record_once(database: Database, owner: Owner) -> None:
    await configure(owner)
    user_id = uuid4()
    for noted_as in ("auth_register", "auth_register", "auth_login", "auth_login"):
        await profiles.record_sign_in(
            database.during(CALL),
            user_id,
            "ada@example.com",
            None,
            noted_as=noted_as,
        )
    assert await activities(owner) == ["auth_register", "auth_login", "auth_login"]
