"""What is not a message gets a clear 4xx, and nothing of it is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chat_server import ChatServer, user_message

JSON = "application/json"
HELLO: dict[str, Any] = {"message": "Hello"}


def body(**members: Any) -> bytes:
    return json.dumps(HELLO | members).encode()


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        pytest.param(b'{"message":', JSON, 400, id="cut off"),
        pytest.param(b"\xff\xfe{}", JSON, 400, id="not UTF-8"),
        pytest.param(b"hello", "text/plain", 415, id="another type"),
        pytest.param(b"x" * (5 * 1024 * 1024), JSON, 413, id="too large"),
        pytest.param(b'{"message":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400, id="nested deep"),
        pytest.param(b'{"message":"x","context":{"a":NaN}}', JSON, 400, id="NaN"),
        pytest.param(b'{"message":"x","context":{"a":-Infinity}}', JSON, 400, id="infinity"),
        pytest.param(b'{"message":"x","context":{"a":1e999}}', JSON, 400, id="beyond a float"),
        pytest.param(b'{"message":"a\\u0000b"}', JSON, 422, id="U+0000"),
        pytest.param(b'{"message":"\\ud800"}', JSON, 422, id="lone surrogate"),
        pytest.param(b"[]", JSON, 422, id="a list"),
        pytest.param(b"null", JSON, 422, id="null"),
        pytest.param(b"{}", JSON, 422, id="no message"),
        pytest.param(body(message=""), JSON, 422, id="empty"),
        pytest.param(body(message=7), JSON, 422, id="a number"),
        pytest.param(body(message={"role": "assistant", "parts": []}), JSON, 422, id="not the user's"),
        pytest.param(body(message={"parts": [7]}), JSON, 422, id="a part that is none"),
        pytest.param(body(message={"parts": [{"type": "text"}]}), JSON, 422, id="text without text"),
        pytest.param(
            body(message={"id": "../x", "parts": [{"type": "text", "text": "x"}]}), JSON, 422, id="message id"
        ),
        pytest.param(body(id="a b"), JSON, 422, id="session id"),
        pytest.param(body(id="x" * 65), JSON, 422, id="long session id"),
        pytest.param(body(message="x" * 200_001), JSON, 422, id="long text"),
        pytest.param(body(context={"a": "x" * 9000}), JSON, 422, id="large context"),
        pytest.param(body(context=[]), JSON, 422, id="context that is no object"),
        pytest.param(body(visibility="secret"), JSON, 422, id="visibility"),
        pytest.param(body(trigger="do-it"), JSON, 422, id="trigger"),
        pytest.param(body(messageId="a/b"), JSON, 422, id="target"),
    ],
)
async def test_rubbish_is_refused_clearly(server: ChatServer, content: bytes, content_type: str, status: int) -> None:
    response = await server.http.post(
        "/api/chat", content=content, headers=server.headers("ada") | {"content-type": content_type}
    )

    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["correlationId"] == response.headers["x-correlation-id"]
    assert ("errors" in problem) == (status == 422)
    assert await server.rows('select * from "Chat"') == []
    assert await server.rows("select * from error_logs") == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png;base64,!!!",
        "data:image/png;base64," + "A" * 1_500_000,
        "attachment:0",
        "",
    ],
    ids=["metadata", "another server", "a file", "svg", "no base64", "too large", "nothing kept", "empty"],
)
async def test_a_file_comes_along_or_not_at_all(server: ChatServer, url: str) -> None:
    message = user_message("Look")
    message["parts"].append({"type": "file", "mediaType": "image/png", "url": url})

    answer = await server.say({"message": message})

    assert answer.status in {404, 422}
    assert await server.rows('select * from "Chat"') == []


async def test_words_that_look_like_numbers_or_escapes_are_text(server: ChatServer) -> None:
    for text in ("NaN and Infinity", "1e999", "\\u0000", "\\ud800 😀", "'; drop table x; --"):
        answer = await server.say(text)

        assert answer.text == f"You said: {text}"


async def test_fields_of_the_sdk_that_are_not_known_here_are_let_pass(server: ChatServer) -> None:
    answer = await server.say({"message": "Hello", "body": {"a": 1}, "experimental": True})

    assert answer.text == "You said: Hello"


async def test_a_bad_cookie_is_taken_back_so_that_the_next_call_makes_a_guest(server: ChatServer) -> None:
    cookie = {"cookie": "threadkeep_guest=nonsense", "origin": "http://localhost:5173"}

    refused = await server.say("Hello", user=None, headers=cookie)

    assert refused.status == 401
    assert "threadkeep_guest=;" in refused.headers["set-cookie"]
    assert "Max-Age=0" in refused.headers["set-cookie"]
    with_token = await server.say("Hello", user=None, headers={"authorization": "Bearer nonsense"})
    assert "set-cookie" not in with_token.headers
