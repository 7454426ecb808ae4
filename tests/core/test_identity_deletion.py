"""Leaving where one signs in as well: in Cognito, in Supabase, at once or later, whatever fails in between."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.crowd import Owner, at_once, begin
from tests.functions.account import client_of
from tests.issuer import LocalIssuer
from threadkeep import identity_deletion, profiles, upkeep
from threadkeep.database import Database
from threadkeep.identity import Principal, user_id_of
from threadkeep.settings import Settings

KEY = "service-role-key-of-the-tests"


@dataclass
class Supabase:
    """The admin API of a project: its users, and what it was asked; `answer` replaces what it says."""

    users: set[str] = field(default_factory=set)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    answer: tuple[int, bytes] | None = None
    url: str = ""

    def delete(self, path: str, key: str | None) -> tuple[int, bytes]:
        self.asked.append((path, key))
        if self.answer is not None:
            return self.answer
        user = path.removeprefix("/auth/v1/admin/users/")
        if user not in self.users:
            return 404, b'{"code": 404, "error_code": "user_not_found", "msg": "User not found"}'
        self.users.remove(user)
        return 200, b"{}"


@pytest.fixture
def supabase() -> Iterator[Supabase]:
    project = Supabase()

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            status, body = project.delete(self.path, self.headers["apikey"])
            self.send_response(status)
            if status == 302:
                self.send_header("location", f"{project.url}/elsewhere")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    project.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield project
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(api_database_url: str, supabase: Supabase) -> Settings:
    """A Supabase project as the only issuer, whose users can be deleted."""
    return settings_of(api_database_url, supabase)


def settings_of(url: str, supabase: Supabase, **variables: str) -> Settings:
    issuer = {"issuer": f"{supabase.url}/auth/v1", "kind": "supabase", "secret": "s" * 32}
    other = {"issuer": "https://issuer.example.com", "kind": "oidc", "audience": "threadkeep"}
    environ = {
        "DATABASE_URL": url,
        "AUTH_ISSUERS": json.dumps([issuer, other]),
        "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32}),
        "SUPABASE_SERVICE_ROLE_KEY": KEY,
    }
    return Settings.load(environ | variables)


def signed_in(settings: Settings, supabase: Supabase) -> Principal:
    user_id = uuid4()
    supabase.users.add(str(user_id))
    issuer = settings.auth_issuers[0].issuer
    return Principal(
        user_id=user_id_of(settings, issuer, str(user_id)), role="authenticated", issuer=issuer, subject=str(user_id)
    )


async def waiting(owner: Owner) -> list[dict[str, Any]]:
    return await owner.rows("select user_id, attempts, last_error from private.identity_deletions")


async def make_due(owner: Owner) -> None:
    await owner.rows("update private.identity_deletions set next_attempt_at = now() - interval '1 second'")


def of_kind(report: upkeep.Report) -> tuple[int, int | None]:
    [found] = [(kind.done, kind.remaining) for kind in report.kinds if kind.kind == "identity_deletions"]
    return found


async def test_who_leaves_is_deleted_in_supabase(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    user = signed_in(settings, supabase)
    await begin(database, user)
    assert await profiles.delete_own(database, settings, user) == "deleted"
    assert supabase.users == set()
    assert supabase.asked == [(f"/auth/v1/admin/users/{user.user_id}", KEY)]
    assert await waiting(owner) == []
    assert await owner.number("select count(*) from public.user_profiles") == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b"oops"), "HTTP 500"),
        ((403, b"{}"), "HTTP 403"),
        ((404, b"<html>no such route"), "HTTP 404"),
        ((302, b""), "HTTP 302"),
    ],
)
async def test_what_the_provider_refuses_is_done_later(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner, answer: tuple[int, bytes], reason: str
) -> None:
    user = signed_in(settings, supabase)
    await begin(database, user)
    supabase.answer = answer

    assert await profiles.delete_own(database, settings, user) == "pending"

    assert await owner.number("select count(*) from public.user_profiles") == 0
    assert await waiting(owner) == [{"user_id": user.user_id, "attempts": 1, "last_error": reason}]
    assert of_kind(await upkeep.run(database, settings)) == (0, 0)
    assert len(supabase.asked) == 1
    supabase.answer = None
    await make_due(owner)
    assert of_kind(await upkeep.run(database, settings)) == (1, 0)
    assert supabase.users == set()
    assert await waiting(owner) == []


async def test_a_provider_that_is_down_keeps_nobody_from_leaving(
    database: Database, api_database_url: str, supabase: Supabase, owner: Owner
) -> None:
    settings = settings_of(api_database_url, supabase, SUPABASE_URL="http://127.0.0.1:9")
    user = signed_in(settings, supabase)
    assert await profiles.delete_own(database, settings, user) == "pending"
    [row] = await waiting(owner)
    assert row["last_error"] == "URLError"
    recorded = "select error_message || error_details::text from public.error_logs"
    [text] = (await owner.rows(recorded))[0].values()
    assert KEY not in text


async def test_a_repeated_request_finishes_what_the_first_one_left(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    user = signed_in(settings, supabase)
    supabase.answer = (503, b"")
    assert await profiles.delete_own(database, settings, user) == "pending"
    supabase.answer = None
    assert await profiles.delete_own(database, settings, user) == "deleted"
    assert (supabase.users, await waiting(owner)) == (set(), [])
    assert await profiles.delete_own(database, settings, user) == "deleted"
    assert await waiting(owner) == []


async def test_who_is_gone_at_the_provider_already_counts_as_deleted(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    user = signed_in(settings, supabase)
    supabase.users.clear()
    assert await profiles.delete_own(database, settings, user) == "deleted"
    assert await waiting(owner) == []


async def test_a_process_that_died_after_the_database_is_made_up_for(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    user = signed_in(settings, supabase)
    with monkeypatch.context() as dying:
        dying.setattr(identity_deletion, "attempt", die)
        with pytest.raises(KeyboardInterrupt):
            await profiles.delete_own(database, settings, user)
    assert len(await waiting(owner)) == 1
    assert supabase.asked == []
    assert of_kind(await upkeep.run(database, settings)) == (1, 0)
    assert supabase.users == set()


async def test_a_failed_deletion_in_the_database_notes_and_asks_nothing(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    user = signed_in(settings, supabase)
    await profiles.own(database, user)
    await owner.rows("update public.user_profiles set disabled_at = now()")
    with pytest.raises(Exception, match="forbidden:account"):
        await profiles.delete_own(database, settings, user)
    assert (await waiting(owner), supabase.asked) == ([], [])
    assert len(supabase.users) == 1


async def test_attempts_come_further_and_further_apart_and_never_end(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    supabase.answer = (500, b"")
    await profiles.delete_own(database, settings, signed_in(settings, supabase))
    pauses = []
    for attempts in (1, 2, 5, 40):
        await owner.rows("update private.identity_deletions set attempts = %(n)s", {"n": attempts})
        await make_due(owner)
        assert await identity_deletion.attempt(database, settings) is False
        pauses.append(
            await owner.number(
                "select round(extract(epoch from next_attempt_at - now()) / 60) from private.identity_deletions"
            )
        )
    assert pauses == [2, 4, 32, 1440]


async def test_nobody_comes_back_while_he_can_still_sign_in(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    supabase.answer = (500, b"")
    user = signed_in(settings, supabase)
    await profiles.delete_own(database, settings, user)
    await owner.rows("update private.revoked_principals set until = now() + interval '1 hour'")
    await make_due(owner)
    await upkeep.run(database, settings)
    assert (
        await owner.number("select count(*) from private.revoked_principals where until > now() + interval '30 d'") == 1
    )
    assert user.user_id is not None
    assert not await profiles.record_sign_in(database, user.user_id, None, None)


async def test_several_runs_at_once_share_the_work(
    database: Database, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    supabase.answer = (500, b"")
    users = [signed_in(settings, supabase) for _ in range(12)]
    await at_once(*[partial(profiles.delete_own, database, settings, user) for user in users])
    supabase.answer = None
    supabase.asked.clear()
    await make_due(owner)
    reports = await at_once(*[partial(upkeep.run, database, settings)] * 3)
    assert sum(of_kind(report)[0] for report in reports) == 12
    assert (len(supabase.asked), supabase.users, await waiting(owner)) == (12, set(), [])


async def test_without_a_way_to_delete_there_users_stay_and_are_told(
    database: Database, api_database_url: str, supabase: Supabase, owner: Owner
) -> None:
    for variables in ({"DELETE_IDENTITIES": "false"}, {"SUPABASE_SERVICE_ROLE_KEY": ""}):
        settings = settings_of(api_database_url, supabase, **variables)
        assert await profiles.delete_own(database, settings, signed_in(settings, supabase)) == "kept"
    other = Principal(user_id=uuid4(), role="authenticated", issuer="https://issuer.example.com", subject="grace")
    assert await profiles.delete_own(database, settings_of(api_database_url, supabase), other) == "kept"
    assert (await waiting(owner), supabase.asked, len(supabase.users)) == ([], [], 2)


async def test_a_way_that_is_closed_later_keeps_the_rest_waiting(
    database: Database, api_database_url: str, settings: Settings, supabase: Supabase, owner: Owner
) -> None:
    supabase.answer = (500, b"")
    await profiles.delete_own(database, settings, signed_in(settings, supabase))
    await make_due(owner)
    await upkeep.run(database, settings_of(api_database_url, supabase, DELETE_IDENTITIES="false"))
    [row] = await waiting(owner)
    assert "no way to delete users of this issuer" in row["last_error"]
    assert len(supabase.asked) == 1


async def test_a_subject_is_no_path(database: Database, settings: Settings, supabase: Supabase) -> None:
    issuer = settings.auth_issuers[0].issuer
    user = Principal(user_id=uuid4(), role="authenticated", issuer=issuer, subject="../../x?y#ü")
    await profiles.delete_own(database, settings, user)
    assert supabase.asked[0][0] == "/auth/v1/admin/users/..%2F..%2Fx%3Fy%23%C3%BC"


# Cognito


@dataclass(frozen=True)
class Pool:
    """A user pool with two users of names that are not their subjects."""

    client: Any
    id: str
    subjects: dict[str, str]

    @property
    def issuer(self) -> str:
        return f"https://cognito-idp.eu-central-1.amazonaws.com/{self.id}"

    @property
    def usernames(self) -> set[str]:
        return {user["Username"] for user in self.client.list_users(UserPoolId=self.id)["Users"]}


@pytest.fixture
def pool(cognito: Any) -> Pool:
    pool = cognito.create_user_pool(PoolName="people")["UserPool"]["Id"]
    subjects = {}
    for name in ("ada", "grace"):
        user = cognito.admin_create_user(UserPoolId=pool, Username=name, MessageAction="SUPPRESS")["User"]
        [subjects[name]] = [one["Value"] for one in user["Attributes"] if one["Name"] == "sub"]
    return Pool(cognito, pool, subjects)


@pytest.fixture
def keys() -> Iterator[LocalIssuer]:
    with LocalIssuer("RS256") as issuer:
        yield issuer


@pytest.fixture
def of_pool(api_database_url: str, pool: Pool, keys: LocalIssuer) -> Settings:
    """The pool as the primary issuer; its keys are served by this machine."""
    issuer = {
        "issuer": pool.issuer,
        "kind": "cognito",
        "audience": "web",
        "jwksUrl": f"{keys.url}/.well-known/jwks.json",
    }
    return Settings.load(
        {
            "DATABASE_URL": api_database_url,
            "AUTH_ISSUERS": json.dumps([issuer]),
            "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32}),
        }
    )


@pytest.fixture
async def left(
    database: Database, of_pool: Settings, pool: Pool, keys: LocalIssuer
) -> AsyncIterator[tuple[int, str | None]]:
    """What Ada is answered who deletes her account with her access token."""
    token = keys.cognito_access(iss=pool.issuer, sub=pool.subjects["ada"])
    async with client_of(of_pool, database) as api:
        answer = await api.delete("/api/me", headers={"authorization": f"Bearer {token}"})
        yield answer.status_code, answer.headers.get("x-identity-deletion")


async def test_who_leaves_is_deleted_in_cognito(pool: Pool, left: tuple[int, str | None], owner: Owner) -> None:
    assert left == (204, "deleted")
    assert pool.usernames == {"grace"}
    assert await waiting(owner) == []


async def test_a_pool_that_refuses_is_asked_again(
    database: Database, of_pool: Settings, pool: Pool, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Principal(
        user_id=UUID(pool.subjects["grace"]),
        role="authenticated",
        issuer=pool.issuer,
        subject=pool.subjects["grace"],
    )
    with monkeypatch.context() as down:
        down.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert await profiles.delete_own(database, of_pool, user) == "pending"
    [row] = await waiting(owner)
    assert row["last_error"] == "EndpointConnectionError"
    await make_due(owner)
    assert of_kind(await upkeep.run(database, of_pool)) == (1, 0)
    assert pool.usernames == {"ada"}


async def test_a_pool_that_is_not_there_is_a_failure(
    database: Database, of_pool: Settings, pool: Pool, owner: Owner
) -> None:
    pool.client.delete_user_pool(UserPoolId=pool.id)
    user = Principal(user_id=uuid4(), role="authenticated", issuer=pool.issuer, subject=pool.subjects["ada"])
    assert await profiles.delete_own(database, of_pool, user) == "pending"
    [row] = await waiting(owner)
    assert row["last_error"] == "ResourceNotFoundException"


async def test_a_subject_that_is_no_users_deletes_nobody(database: Database, of_pool: Settings, pool: Pool) -> None:
    for subject in ("ada", '" or username = "ada', "\\"):
        user = Principal(user_id=uuid4(), role="authenticated", issuer=pool.issuer, subject=subject)
        await profiles.delete_own(database, of_pool, user)
    assert pool.usernames == {"ada", "grace"}
