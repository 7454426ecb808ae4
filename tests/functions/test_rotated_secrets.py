"""Secrets that change in Secrets Manager while a process runs are taken up by it: a password at once, keys later."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.databases import API_ROLE, SQL, own_cluster
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import issue_guest
from threadkeep.identity import SERVICE, Authenticator
from threadkeep.migrations import apply
from threadkeep.settings import FETCHED_SECRET_SECONDS, Settings

Later = Callable[[float], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Moves the clock of the cache, by seconds."""

    def move(seconds: float) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Clock:
                moved = datetime.now(tz) + timedelta(seconds=seconds)
                return cls.fromtimestamp(moved.timestamp(), tz)

        monkeypatch.setattr("aws_lambda_powertools.utilities.parameters.base.datetime", Clock)

    return move


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    """A migrated server of its own that asks for passwords: the members of its owner's address."""
    with own_cluster(listen_tcp=True) as server:
        apply(server.dsn(), SQL)
        yield {**conninfo_to_dict(server.tcp_dsn()), "dsn": server.dsn()}


def as_rds_writes_it(cluster: dict[str, Any], password: str) -> str:
    return json.dumps(
        {
            "username": API_ROLE,
            "password": password,
            "engine": "postgres",
            "host": cluster["host"],
            "port": int(cluster["port"]),
            "dbname": cluster["dbname"],
            "dbClusterIdentifier": "threadkeep",
            "sslmode": "disable",
        }
    )


async def test_a_rotated_password_of_the_database_is_taken_up_by_the_next_connection(
    secrets_manager: Any, cluster: dict[str, Any]
) -> None:
    old, new = "an old one " + secrets.token_hex(4), "a new/one?@:%' " + secrets.token_hex(4)
    apply(cluster["dsn"], SQL, api_password=old)
    secret = secrets_manager.create_secret(Name=str(uuid4()), SecretString=as_rds_writes_it(cluster, old))["ARN"]
    settings = Settings.load({"DATABASE_URL_SECRET_ARN": secret})
    database = Database(settings.database_url)
    try:
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]
        apply(cluster["dsn"], SQL, api_password=new)
        secrets_manager.put_secret_value(SecretId=secret, SecretString=as_rds_writes_it(cluster, new))
        # Who is connected stays it.
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]

        end_connections(cluster)
        with pytest.raises(ThreadkeepError, match="unavailable:database"):
            await database.rows(SERVICE, "select 1 as one")
        # The kept address is refused, the next try asks for it again: less than five minutes, and no request fails.
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]
    finally:
        await database.close()


async def test_a_database_that_is_away_has_its_address_asked_for_once_more_and_not_by_each_try(
    secrets_manager: Any, cluster: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = as_rds_writes_it(cluster | {"port": "9"}, "a password")
    secret = secrets_manager.create_secret(Name=str(uuid4()), SecretString=nowhere)["ARN"]
    database = Database(Settings.load({"DATABASE_URL_SECRET_ARN": secret}).database_url)
    with caplog.at_level("INFO"):
        caplog.clear()
        try:
            with pytest.raises(ThreadkeepError, match="unavailable:database"):
                await database.rows(SERVICE, "select 1")
        finally:
            await database.close()
    tries = [each for each in caplog.messages if "error connecting" in each]
    answers = [each for each in caplog.messages if '"POST / HTTP/1.1" 200' in each]
    assert len(tries) > len(answers) == 2


def end_connections(cluster: dict[str, Any]) -> None:
    with psycopg.connect(cluster["dsn"], autocommit=True) as owner:
        ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s"
        assert owner.execute(ended, [API_ROLE]).fetchall() == [(True,)]


@pytest.mark.parametrize("step", range(1, 4))
async def test_while_the_keys_of_guests_change_no_function_refuses_what_another_signed(step: int) -> None:
    """For five minutes some have the keys of this step and some those of the step before."""
    steps = [{"k1": "o" * 32}, {"k1": "o" * 32, "k2": "n" * 32}, {"k2": "n" * 32, "k1": "o" * 32}, {"k2": "n" * 32}]
    environment = {"DATABASE_URL": "postgresql://localhost/x"}
    before, after = (
        Settings.load(environment | {"GUEST_TOKEN_KEYS": json.dumps(keys)}) for keys in steps[step - 1 : step + 1]
    )
    for signs, verifies in ((before, after), (after, before)):
        guest = issue_guest(signs)
        assert (await Authenticator(verifies).authenticate(guest.token, None)).user_id == guest.user_id


async def test_a_new_key_of_guest_tokens_signs_after_five_minutes_and_the_old_one_still_verifies(
    secrets_manager: Any, later: Later
) -> None:
    old, new = {"k1": "o" * 32}, {"k2": "n" * 32, "k1": "o" * 32}
    secret = secrets_manager.create_secret(Name=str(uuid4()), SecretString=json.dumps(old))["ARN"]
    settings = Settings.load({"DATABASE_URL": "postgresql://localhost/x", "GUEST_TOKEN_KEYS_SECRET_ARN": secret})
    authenticator = Authenticator(settings)
    before = issue_guest(settings)

    secrets_manager.put_secret_value(SecretId=secret, SecretString=json.dumps(new))
    assert settings.guest_keys() == old
    later(FETCHED_SECRET_SECONDS + 1)
    assert settings.guest_keys() == new

    for guest in (before, issue_guest(settings)):
        assert (await authenticator.authenticate(guest.token, None)).user_id == guest.user_id
    secrets_manager.put_secret_value(SecretId=secret, SecretString=json.dumps({"k2": "n" * 32}))
    later(2 * FETCHED_SECRET_SECONDS + 2)
    with pytest.raises(ThreadkeepError, match="unauthorized:auth"):
        await authenticator.authenticate(before.token, None)
