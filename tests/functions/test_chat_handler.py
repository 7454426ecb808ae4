"""Chat as a Lambda function behind the HTTP API, which answers whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from functions.chat import app
from tests.aws import LambdaContext, recorded
from threadkeep.web import LambdaHandler


@pytest.fixture
def handler(process: asyncio.AbstractEventLoop) -> Iterator[LambdaHandler]:
    made = LambdaHandler(app.router)
    yield made
    process.run_until_complete(made.runtime.database.close())


def rows(database_url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_a_stream_is_answered_whole_and_only_after_its_finish(handler: LambdaHandler, database_url: str) -> None:
    answer = handler(recorded("http_api_chat"), LambdaContext())

    assert answer["statusCode"] == 200
    assert not answer["isBase64Encoded"]
    headers = {name.lower(): value for name, value in answer["headers"].items()}
    assert headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert headers["x-guest-token"]
    assert answer["body"].startswith('data: {"type":"start"')
    assert answer["body"].endswith("data: [DONE]\n\n")
    assert rows(database_url, 'select role, status from "Message_v2" order by seq') == [
        ("user", "complete"),
        ("assistant", "complete"),
    ]
    assert rows(database_url, 'select id::text from "Chat"') == [(headers["x-session-id"],)]


def test_a_warm_environment_answers_a_caller_of_json_again(handler: LambdaHandler, database_url: str) -> None:
    event = recorded("http_api_chat")
    event["headers"]["accept"] = "application/json"

    answers = [handler(event, LambdaContext()) for _ in range(2)]

    bodies = [json.loads(answer["body"]) for answer in answers]
    assert [answer["statusCode"] for answer in answers] == [200, 200]
    assert bodies[0]["sessionId"] != bodies[1]["sessionId"]
    assert all(body["message"]["status"] == "complete" for body in bodies)
    assert rows(database_url, "select count(*) from usage_logs") == [(2,)]
