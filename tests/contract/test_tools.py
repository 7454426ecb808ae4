"""A prompt that has a tool work on a document of somebody else: the call fails, and nothing is told or changed."""

from __future__ import annotations

import pytest

from functions.documents import app as documents
from tests.chat_server import ChatServer, running, settings_for
from tests.contract.belongings import SECRET
from tests.contract.operations import everything
from tests.emulator import Emulator, Reply, ToolCall

# Every operation that takes a document which is there already.
CALLS = [
    ("documentAgent", "documentId", "text", ("update", "suggestion", "revert")),
    ("pythonAgent", "codeId", "python code", ("update", "fix", "explain", "revert")),
    ("mermaidAgent", "diagramId", "mermaid code", ("update", "fix", "revert")),
]


@pytest.mark.parametrize(("tool", "argument", "kind", "operations"), CALLS, ids=[call[0] for call in CALLS])
async def test_a_tool_reaches_no_document_of_somebody_else(
    database_url: str,
    api_database_url: str,
    emulator: Emulator,
    tool: str,
    argument: str,
    kind: str,
    operations: tuple[str, ...],
) -> None:
    async with running(settings_for(api_database_url, emulator), database_url, documents.router) as server:
        hers = await a_document(server, kind)
        before = set((await everything(server))['public."Document"'])
        calls = [
            ToolCall(tool, {"operation": operation, "instruction": "Go.", argument: hers, "targetVersion": 1})
            for operation in operations
        ]
        emulator.script(
            *(reply for call in calls for reply in (Reply(tool_calls=[call]), Reply(text="That did not work.")))
        )
        await server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )

        for operation in operations:
            answer = await server.say(f"{operation} the document {hers}", user="eve")

            assert answer.text == "That did not work."
            assert "tool-output-error" in answer.types
            assert SECRET not in str(answer.events)
        assert SECRET not in str([request.body for request in emulator.requests])
        assert set((await everything(server))['public."Document"']) == before
        assert await server.rows('select * from "Suggestion"') == []


async def a_document(server: ChatServer, kind: str) -> str:
    body = {"title": SECRET, "kind": kind, "content": SECRET}
    made = await server.http.post("/api/documents", json=body, headers=server.headers("ada"))
    assert made.status_code == 201
    return str(made.json()["id"])
