"""Secrets that change in Secrets Manager while a process runs are taken up when the five minutes are over."""

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


async def test_a_rotated_password_of_the_database_is_taken_up_and_until_then_told_as_unavailable(
    secrets_manager: Any, cluster: dict[str, Any], later: Later
) -> None:
    old, new = "an old one " + secrets.token_hex(4), "a new/one?@:%' " + secrets.token_hex(4)
    apply(cluster["dsn"], SQL, api_password=old)
    secret = secrets_manager.create_secret(Name=str(uuid4()), SecretString=as_rds_writes_it(cluster, old))["ARN"]
    settings = Settings.load({"DATABASE_URL_SECRET_ARN": secret})
    database = Database(settings.database_url.get_secret_value)
    try:
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]
        apply(cluster["dsn"], SQL, api_password=new)
        secrets_manager.put_secret_value(SecretId=secret, SecretString=as_rds_writes_it(cluster, new))
        # Who is connected stays it.
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]

        end_connections(cluster)
        with pytest.raises(ThreadkeepError, match="unavailable:database"):
            await database.rows(SERVICE, "select 1 as one")
        with pytest.raises(ThreadkeepError, match="unavailable:database"):
            await database.rows(SERVICE, "select 1 as one")

        later(FETCHED_SECRET_SECONDS + 1)
        assert await database.rows(SERVICE, "select 1 as one") == [{"one": 1}]
    finally:
        await database.close()


def end_connections(cluster: dict[str, Any]) -> None:
    with psycopg.connect(cluster["dsn"], autocommit=True) as owner:
        ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s"
        assert owner.execute(ended, [API_ROLE]).fetchall() == [(True,)]


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
