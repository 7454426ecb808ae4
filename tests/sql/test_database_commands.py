"""What the commands print, and how they end."""

from __future__ import annotations

import psycopg
import pytest

from local.database_commands import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def on_this_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_verify_prints_a_line_for_each_kind(capsys: Capture) -> None:
    assert main(["verify"]) == 0

    printed = capsys.readouterr().out
    assert "PASSED - Tables (" in printed
    assert "PASSED - Seed data (" in printed
    assert "FAILED" not in printed


def test_verify_names_what_is_off_and_fails(database_url: str, capsys: Capture) -> None:
    execute(database_url, "drop index idx_chat_user_created")

    assert main(["verify"]) == 1
    assert "missing: public.idx_chat_user_created" in capsys.readouterr().out


def test_an_import_is_refused_then_repaired_then_migrated(database_url: str, capsys: Capture) -> None:
    execute(
        database_url,
        """
        alter table "Message_v2" drop constraint "Message_v2_chatId_fkey", disable trigger user;
        insert into "Message_v2" ("chatId", seq, role, parts) values (gen_random_uuid(), 1, 'user', '[]');
        """,
    )

    assert main(["migrate"]) == 1
    assert "db-repair" in capsys.readouterr().err
    assert main(["repair", "--dry-run"]) == 0
    assert "Nothing was changed." in capsys.readouterr().out
    assert main(["repair"]) == 0
    assert "1 rows went to private.quarantine" in capsys.readouterr().out
    assert main(["migrate"]) == 0
    assert main(["verify"]) == 0


def test_reset_without_its_flag_does_nothing(capsys: Capture) -> None:
    assert main(["reset"]) == 1
    assert "--yes-delete-everything" in capsys.readouterr().out
    assert main(["verify"]) == 0


def test_reset_with_its_flag_leaves_a_database_that_migrates(capsys: Capture) -> None:
    assert main(["reset", "--yes-delete-everything"]) == 0
    assert main(["migrate"]) == 0
    assert main(["verify"]) == 0


def test_a_database_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    assert main(["verify"]) == 1
    assert "The database refused" in capsys.readouterr().err
