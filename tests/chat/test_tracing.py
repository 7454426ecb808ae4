"""Traces as a collector gets them: the turn, its agents, its tools, its requests, and no word of what was said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.chat_server import MODELS, ChatServer, running, settings_for
from tests.emulator import Emulator, Reply, ToolCall

CREATE = ToolCall("documentAgent", {"operation": "create", "instruction": "Text: PRIVATE TITLE\nPRIVATE WISH"})


@dataclass
class Collector:
    """What was sent to it."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    got = Collector()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        got.bodies.append(await reader.readexactly(int(length.split(b":")[1])))
        got.heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        got.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield got


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


async def a_turn_with_a_document(server: ChatServer, emulator: Emulator) -> str:
    await server.rows(
        'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
        "where config_key = 'app_settings'"
    )
    emulator.script(
        Reply(tool_calls=[CREATE]), Reply(text="PRIVATE DOCUMENT"), Reply(text="It is PRIVATE, but written.")
    )
    answer = await server.say({"message": "PRIVATE QUESTION", "model": MODELS["openai"]})
    assert answer.is_done
    return answer.headers["x-correlation-id"]


@pytest.mark.parametrize("with_content", [False, True])
async def test_a_turn_is_one_trace_that_the_correlation_id_joins_to_the_logs(
    database_url: str, api_database_url: str, emulator: Emulator, with_content: bool
) -> None:
    async with collector() as got:
        settings = settings_for(
            api_database_url,
            emulator,
            OTEL_EXPORTER_OTLP_ENDPOINT=got.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-team=threadkeep",
            TRACE_CONTENT=str(with_content).lower(),
        )
        async with running(settings, database_url) as server:
            correlation_id = await a_turn_with_a_document(server, emulator)
            logged = await server.rows("select distinct correlation_id from agent_activity_logs")

    assert [str(row["correlation_id"]) for row in logged] == [correlation_id]
    spans = got.spans
    by_id = {span.span_id: span for span in spans}
    [turn] = [span for span in spans if span.name == "turn"]
    assert attributes(turn)["threadkeep.correlation_id"] == correlation_id
    assert attributes(turn)["threadkeep.status"] == "complete"
    assert {span.trace_id for span in spans} == {turn.trace_id}
    assert all(span.parent_span_id in by_id for span in spans if span is not turn)
    names = sorted(span.name for span in spans)
    assert [name for name in names if name.startswith("chat ")] == ["chat gpt-6.1-terra"] * 3
    assert [name for name in names if "agent" in name.lower()] == [
        "execute_tool documentAgent",
        "invoke_agent chat_model_agent",
        "invoke_agent document_agent",
    ]
    [writing] = [span for span in spans if span.name == "invoke_agent document_agent"]
    assert by_id[writing.parent_span_id].name == "execute_tool documentAgent"
    assert (b"PRIVATE" in b"".join(got.bodies)) == with_content
    assert b"x-team: threadkeep" in got.heads[0].lower()


async def test_a_collector_that_is_away_ends_no_turn(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    settings = settings_for(api_database_url, emulator, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    async with running(settings, database_url) as server:
        await a_turn_with_a_document(server, emulator)

        [answer] = await server.rows("select status from \"Message_v2\" where role = 'assistant'")
        assert answer["status"] == "complete"
