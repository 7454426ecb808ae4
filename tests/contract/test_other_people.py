"""What anybody sends with the ids of somebody else in it changes nothing of hers and shows nothing of hers.

Ada has one of each thing, with a word in it that only she knows. The routes come from the contract; those of
administrators are tried by a user who is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chat_server import ChatServer
from tests.contract.belongings import SECRET, Belongings, all_rows, hanging
from tests.contract.operations import INSIDE, Operation, operations, positions, with_texts


@pytest.mark.parametrize("caller", ["eve", "guest", "nobody"])
async def test_ids_of_somebody_else_open_nothing(server: ChatServer, ada: Belongings, caller: str) -> None:
    headers = await headers_of(server, caller)
    shown = []
    for operation in operations(server.app):
        if operation.name == "deleteAccount":
            continue
        for url, body in attempts(operation, ada.ids):
            answer = await server.http.request(operation.method, url, json=body, headers=headers)
            assert answer.status_code < 500, f"{operation} {url} {body}: {answer.text}"
            assert not [word for word in INSIDE if word in answer.text.lower() and answer.status_code >= 400]
            if SECRET in answer.text:
                shown.append(f"{operation} {url} {body}: {answer.text}")

    assert shown == []
    assert ada.rows - await all_rows(server) == set()
    assert await hanging(server, ada.ids) == ada.hanging


async def test_their_owner_is_shown_them(server: ChatServer, ada: Belongings) -> None:
    shown = set()
    for operation in (one for one in operations(server.app) if one.method == "GET"):
        [(url, _), *_] = attempts(operation, ada.ids)
        answer = await server.http.get(url, headers=server.headers("ada"))
        if SECRET in answer.text:
            shown.add(operation.name)

    assert shown >= {"readProfile", "listSessions", "readSession", "exportSession", "listMessages", "listRepositories"}
    assert shown >= {"listDocuments", "readDocument", "listVersions", "exportDocument", "listSuggestions"}


def attempts(operation: Operation, ids: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Requests with her ids where they belong, and with each of them in every other place."""
    home = {name: ids[name] for name in operation.path_parameters if name in ids}
    yield operation.url(**home), operation.body
    if operation.is_closed and isinstance(operation.body, dict):
        yield operation.url(**home), operation.body | {"userId": ids["user"]}
    for one in ids.values():
        query = "&".join(f"{name}={one}" for name in operation.texts() if name != "cursor")
        if query or any(positions(operation.body)):
            yield f"{operation.url(**home)}?{query}", with_texts(operation.body, one)
        if operation.body is not None:
            for name in ("id", "sessionId", "messageId", "documentId"):
                yield operation.url(**home), operation.body | {name: one}
        if operation.path_parameters:
            yield operation.url(**dict.fromkeys(operation.path_parameters, one)), operation.body


async def headers_of(server: ChatServer, caller: str) -> dict[str, str]:
    if caller == "guest":
        made = await server.http.post("/api/auth/guest")
        return {"authorization": f"Bearer {made.json()['token']}"}
    return server.headers(caller if caller == "eve" else None)
