"""The emulator is worth what the real SDKs make of it: everything here goes through pydantic-ai over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelServerError,
    ModelTimeoutError,
)
from pydantic_ai.messages import (
    AgentStreamEvent,
    BinaryContent,
    ModelMessage,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    UserContent,
)
from pydantic_ai.models import Model, create_async_httpx2_client
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.native_tools import AbstractNativeTool, CodeExecutionTool, WebFetchTool, WebSearchTool
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.run import AgentRunResultEvent
from pydantic_ai.settings import ModelSettings

from tests.emulator import (
    Attachment,
    Citation,
    CodeExecution,
    Cut,
    Emulator,
    Fault,
    Fixed,
    Garbage,
    Gate,
    Hold,
    Provider,
    Reply,
    Request,
    Silence,
    Source,
    ToolCall,
    UrlContext,
    Usage,
    WebSearch,
    base_url,
)
from tests.emulator.anthropic import Messages
from tests.emulator.dialect import Dialect
from tests.emulator.google import GenerateContent
from tests.emulator.openai import Responses
from tests.emulator.script import FaultKind

Kind = Literal["responses", "chat", "google", "anthropic"]
KINDS: Sequence[Kind] = ("responses", "chat", "google", "anthropic")
WITH_NATIVE_TOOLS: Sequence[Kind] = ("responses", "google", "anthropic")
PROVIDERS: dict[Kind, Provider] = {
    "responses": "openai",
    "chat": "openai",
    "google": "google",
    "anthropic": "anthropic",
}
# What makes each provider show its reasoning; the unified `thinking` asks for the effort only.
SHOW_REASONING: dict[Kind, dict[str, Any]] = {
    "responses": {"openai_reasoning_summary": "auto"},
    "chat": {},
    "google": {"google_thinking_config": {"include_thoughts": True}},
    "anthropic": {"anthropic_thinking": {"type": "adaptive", "display": "summarized"}},
}


@dataclass
class Client:
    """A pydantic-ai model of one kind that talks to an emulator, with SDK retries off."""

    kind: Kind
    model: Model[Any]

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.kind]

    def agent(self, **options: Any) -> Agent[None, str]:
        return Agent(self.model, instructions="Be kind.", **options)

    async def say(
        self,
        prompt: str | Sequence[UserContent] = "Hello there",
        *,
        show_reasoning: bool = False,
        history: Sequence[ModelMessage] | None = None,
        **options: Any,
    ) -> Said:
        """One streamed run, with what was seen on the way also if it failed."""
        said = Said([], None, None)
        settings = cast("ModelSettings", SHOW_REASONING[self.kind]) if show_reasoning else None
        agent = self.agent(**options)
        try:
            async with agent.run_stream_events(prompt, model_settings=settings, message_history=history) as events:
                async for event in events:
                    if isinstance(event, AgentRunResultEvent):
                        said.messages = event.result.all_messages()
                    else:
                        said.events.append(event)
        except ModelAPIError as error:
            said.error = error
        return said


@dataclass
class Said:
    """The events of a run, its messages if it ended well, its error if not."""

    events: list[AgentStreamEvent]
    messages: list[ModelMessage] | None
    error: ModelAPIError | None

    @property
    def deltas(self) -> list[str]:
        """The text as it came, piece by piece."""
        pieces = []
        for event in self.events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                pieces.append(event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                pieces.append(event.delta.content_delta)
        return [piece for piece in pieces if piece]

    @property
    def response(self) -> ModelResponse:
        assert self.messages is not None, self.error
        last = self.messages[-1]
        assert isinstance(last, ModelResponse)
        return last


def client_of(kind: Kind, port: int, http: httpx2.AsyncClient) -> Client:
    url = base_url(PROVIDERS[kind], port)
    match kind:
        case "responses" | "chat":
            openai = AsyncOpenAI(
                base_url=url, api_key="test-key", http_client=http, timeout=http.timeout, max_retries=0
            )
            of_openai = OpenAIProvider(openai_client=openai)
            if kind == "chat":
                return Client(kind, OpenAIChatModel("gpt-6.1-sol", provider=of_openai))
            return Client(kind, OpenAIResponsesModel("gpt-6.1-sol", provider=of_openai))
        case "google":
            of_google = GoogleProvider(base_url=url, api_key="test-key", http_client=http)
            return Client(kind, GoogleModel("gemini-3.8-flash", provider=of_google))
        case "anthropic":
            anthropic = AsyncAnthropic(
                base_url=url, api_key="test-key", http_client=http, timeout=http.timeout, max_retries=0
            )
            of_anthropic = AnthropicProvider(anthropic_client=anthropic)
            return Client(kind, AnthropicModel("claude-sonnet-5-5", provider=of_anthropic))


def http_client(*, read_timeout: float) -> httpx2.AsyncClient:
    # Without TLS there is nothing to verify, and loading the certificates takes longer than most of these tests.
    transport = httpx2.AsyncHTTPTransport(verify=False)
    return create_async_httpx2_client(timeout=httpx2.Timeout(read_timeout, connect=5), transport=transport)


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(read_timeout=10) as client:
        yield client


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, emulator: Emulator, http: httpx2.AsyncClient) -> Client:
    return client_of(request.param, emulator.port, http)


@pytest.fixture(params=WITH_NATIVE_TOOLS)
def native_client(request: pytest.FixtureRequest, emulator: Emulator, http: httpx2.AsyncClient) -> Client:
    return client_of(request.param, emulator.port, http)


class TestWhatTheModelSays:
    async def test_text_streams_delta_by_delta(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(text=["Hel", "lo ", "wörld"]))

        said = await client.say()

        assert said.deltas == ["Hel", "lo ", "wörld"]
        assert said.response.text == "Hello wörld"
        assert said.response.finish_reason == "stop"

    async def test_a_request_without_streaming_gets_the_same_answer(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(text=["Hel", "lo"], usage=Usage(input=7, output=2)))

        result = await client.agent().run("Hello there")

        assert result.output == "Hello"
        assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 2)

    async def test_without_a_script_it_echoes(self, client: Client, emulator: Emulator) -> None:
        said = await client.say("How are you?")

        assert said.deltas == ["You ", "said: ", "How ", "are ", "you?"]
        assert said.response.usage.output_tokens > 0
        assert emulator.unused == 0

    async def test_an_answer_can_depend_on_the_request(self, client: Client, emulator: Emulator) -> None:
        emulator.script(lambda request: Reply(text=request.last_user_text.upper()))

        assert (await client.say("louder")).response.text == "LOUDER"

    async def test_an_answer_that_was_too_long_says_so(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(text="Hel", finish="length"))

        assert (await client.say()).response.finish_reason == "length"


class TestReasoning:
    async def test_it_is_shown_to_those_who_ask(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(reasoning=["Let me ", "think."], text=["Yes."]))

        said = await client.say(show_reasoning=True)

        thought = said.response.parts[0]
        assert isinstance(thought, ThinkingPart)
        assert thought.content == "Let me think."
        assert said.response.text == "Yes."

    async def test_its_signature_comes_back_with_the_history(self, native_client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(reasoning=["Let me think."], text=["Yes."]), Reply(text="Sure."))

        first = await native_client.say(show_reasoning=True)
        await native_client.say("Really?", show_reasoning=True, history=first.messages)

        assert "c2lnbmVkOkxldCBtZSB0aGluay4=" in str(emulator.requests[1].body)

    async def test_it_is_not_shown_to_those_who_only_ask_for_effort(
        self, native_client: Client, emulator: Emulator
    ) -> None:
        emulator.script(Reply(reasoning=["Let me think."], text=["Yes."]))
        agent = native_client.agent(model_settings={"thinking": "low"})

        result = await agent.run("Hello there")

        shown = [part.content for part in result.response.parts if isinstance(part, ThinkingPart)]
        # Google's adapter alone asks for the thoughts with the effort.
        assert shown == (["Let me think."] if native_client.kind == "google" else [""])


class TestFunctionCalls:
    async def test_round_trip(self, client: Client, emulator: Emulator) -> None:
        emulator.script(
            Reply(tool_calls=[ToolCall("weather", {"city": "Zürich"}), ToolCall("weather", {"city": "Bern"})]),
            Reply(text="It is warm."),
        )
        asked = []

        def weather(city: str) -> str:
            asked.append(city)
            return f"21 degrees in {city}"

        said = await client.say("How warm is it?", tools=[weather])

        assert said.response.text == "It is warm."
        assert sorted(asked) == ["Bern", "Zürich"]
        first, second = emulator.requests
        assert first.tools == ("weather",)
        assert first.tool_results == ()
        results = sorted(result.text for result in second.tool_results)
        assert ["21 degrees in Bern" in results[0], "21 degrees in Zürich" in results[1]] == [True, True]
        assert second.last_user_text == "How warm is it?"
        assert [first.returns_tools, second.returns_tools] == [False, True]

    async def test_text_and_calls_in_one_reply(self, client: Client, emulator: Emulator) -> None:
        emulator.script(
            Reply(text=["I will ", "look."], tool_calls=[ToolCall("look", id="call_1")]), Reply(text="Found.")
        )

        said = await client.say(tools=[look])

        assert said.deltas == ["I will ", "look.", "Found."]
        assert emulator.requests[1].tool_results[0].call_id == "call_1"

    @pytest.mark.parametrize("kind", ["responses", "chat", "anthropic"])
    async def test_arguments_may_be_malformed(self, kind: Kind, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        client = client_of(kind, emulator.port, http)
        emulator.script(Reply(tool_calls=[ToolCall("look", '{"where": ')]), Reply(text="Sorry."))

        said = await client.say(tools=[look])

        assert said.response.text == "Sorry."
        assert emulator.requests[1].tool_results


def look() -> str:
    return "nothing"


class TestUsage:
    USAGE = Usage(input=100, cached_read=30, cached_write=20, output=50, reasoning=15)

    @pytest.mark.parametrize("stream", [True, False])
    async def test_pydantic_ai_reads_the_same_from_all(self, client: Client, emulator: Emulator, stream: bool) -> None:
        emulator.script(Reply(text=["Hel", "lo"], usage=self.USAGE))

        if stream:
            usage = (await client.say()).response.usage
        else:
            usage = (await client.agent().run("Hello there")).response.usage

        assert usage.input_tokens == 100
        assert usage.cache_read_tokens == 30
        assert usage.cache_write_tokens == (0 if client.kind == "google" else 20)
        assert usage.output_tokens == 50
        assert (
            usage.details
            == {
                "responses": {"reasoning_tokens": 15},
                "chat": {"reasoning_tokens": 15},
                "google": {
                    "cached_content_tokens": 30,
                    "thoughts_tokens": 15,
                    "text_prompt_tokens": 100,
                    "text_cache_tokens": 30,
                },
                "anthropic": {
                    "input_tokens": 50,
                    "cache_creation_input_tokens": 20,
                    "cache_read_input_tokens": 30,
                    "output_tokens": 50,
                    "thinking_tokens": 15,
                },
            }[client.kind]
        )

    @pytest.mark.parametrize(
        ("dialect", "reported"),
        [
            (
                Responses(),
                {
                    "input_tokens": 100,
                    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
                    "output_tokens": 50,
                    "output_tokens_details": {"reasoning_tokens": 15},
                    "total_tokens": 150,
                },
            ),
            (
                GenerateContent(),
                {
                    "promptTokenCount": 100,
                    "cachedContentTokenCount": 30,
                    "candidatesTokenCount": 35,
                    "thoughtsTokenCount": 15,
                    "totalTokenCount": 150,
                    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
                    "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
                },
            ),
            (
                Messages(),
                {
                    "input_tokens": 50,
                    "cache_read_input_tokens": 30,
                    "cache_creation_input_tokens": 20,
                    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
                    "output_tokens": 50,
                    "output_tokens_details": {"thinking_tokens": 15},
                    "server_tool_use": None,
                    "service_tier": "standard",
                },
            ),
        ],
    )
    def test_each_provider_reports_in_its_own_meaning(self, dialect: Dialect, reported: dict[str, Any]) -> None:
        request = Request(provider="openai", api="responses", path="", model="m", stream=False, body={})

        body = dialect.whole(request, Reply(text="Hello"), self.USAGE)

        assert (body.get("usage") or body.get("usageMetadata")) == reported

    async def test_it_can_be_left_out(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(text="Hello", usage=Usage(reported=False)))

        usage = (await client.say()).response.usage

        assert (usage.input_tokens, usage.output_tokens) == (0, 0)
        # Anthropic has no answer without the fields, so there zeros come instead.
        assert getattr(usage, "unmeasured_requests", 0) == (0 if client.kind == "anthropic" else 1)


class TestFaults:
    @pytest.mark.parametrize(
        ("kind", "error", "statuses"),
        [
            ("rate_limit", ModelRateLimitError, (429, 429, 429)),
            ("quota", ModelQuotaExceededError, (429, 429, 402)),
            ("context_window", ModelContextWindowExceededError, (400, 400, 400)),
            ("server_error", ModelServerError, (500, 500, 500)),
            ("overloaded", ModelOverloadedError, (503, 503, 529)),
        ],
    )
    @pytest.mark.parametrize("after_deltas", [None, 1])
    async def test_the_sdk_knows_it_for_what_it_is(
        self,
        client: Client,
        emulator: Emulator,
        kind: FaultKind,
        error: type[ModelAPIError],
        statuses: tuple[int, int, int],
        after_deltas: int | None,
    ) -> None:
        emulator.script(
            Reply(text=["Hel", "lo"], interruptions=[Fault(kind=kind, retry_after=7, after_deltas=after_deltas)])
        )

        said = await client.say()

        assert isinstance(said.error, error)
        assert said.error.in_stream is (after_deltas is not None)
        assert isinstance(said.error, ModelHTTPError)
        expected = dict(zip(("openai", "google", "anthropic"), statuses, strict=True))
        assert said.error.status_code == expected[client.provider]
        assert said.deltas == ([] if after_deltas is None else ["Hel"])
        assert len(emulator.requests) == 1
        await emulator.until(lambda: emulator.requests[0].outcome == "refused")

    @pytest.mark.parametrize(
        ("status", "error"), [(429, ModelRateLimitError), (500, ModelServerError), (401, ModelAuthenticationError)]
    )
    async def test_it_can_be_given_by_status(
        self, client: Client, emulator: Emulator, status: int, error: type[ModelAPIError]
    ) -> None:
        emulator.script(Fault(status=status, retry_after=7))

        said = await client.say()

        assert isinstance(said.error, error)
        assert isinstance(said.error, ModelHTTPError)
        assert said.error.status_code == status
        assert said.error.retry_after == 7

    async def test_a_wrong_key_is_said_in_the_providers_own_words(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Fault(kind="authentication"))

        said = await client.say()

        assert isinstance(said.error, ModelAuthenticationError)
        assert isinstance(said.error, ModelHTTPError)
        assert said.error.status_code == (400 if client.kind == "google" else 401)

    async def test_no_key_is_an_authentication_error(self, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        body = {"model": "gpt-6.1-sol", "input": "Hello"}

        response = await http.post(f"{emulator.base_url('openai')}/responses", json=body)

        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"

    async def test_an_event_that_is_not_json_fails_the_answer(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Reply(text=["Hel", "lo"], interruptions=[Garbage(after_deltas=1)]))

        said = await client.say()

        assert said.deltas == ["Hel"]
        assert said.error is not None
        assert "JSON" in said.error.message


class TestBrokenConnections:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("after_deltas", "seen", "read_timeout"), [(None, [], 0.1), (1, ["You "], 1)])
    async def test_silence_ends_with_the_clients_timeout(
        self,
        kind: Kind,
        after_deltas: int | None,
        seen: list[str],
        read_timeout: float,
        emulator: Emulator,
    ) -> None:
        emulator.script(Silence(after_deltas=after_deltas))

        async with http_client(read_timeout=read_timeout) as http:
            said = await client_of(kind, emulator.port, http).say()

        assert isinstance(said.error, ModelTimeoutError)
        assert said.error.phase == "read"
        assert said.deltas == seen
        await emulator.until(lambda: emulator.requests[0].outcome == "left")

    async def test_silence_can_pass(self, client: Client, emulator: Emulator) -> None:
        emulator.script(Silence(seconds=0.01, after_deltas=1))

        assert (await client.say()).response.text == "You said: Hello there"

    @pytest.mark.parametrize("how", ["close", "reset"])
    @pytest.mark.parametrize(("after_deltas", "seen"), [(None, []), (0, []), (2, ["Hel", "lo "])])
    async def test_a_cut_connection_is_an_error(
        self,
        client: Client,
        emulator: Emulator,
        how: Literal["close", "reset"],
        after_deltas: int | None,
        seen: list[str],
    ) -> None:
        emulator.script(Reply(text=["Hel", "lo ", "you"], interruptions=[Cut(after_deltas=after_deltas, how=how)]))

        said = await client.say()

        assert isinstance(said.error, ModelConnectionError)
        assert said.deltas == seen
        await emulator.until(lambda: emulator.requests[0].outcome == "cut")

    async def test_a_stream_without_its_end_looks_complete(self, client: Client, emulator: Emulator) -> None:
        """No error says that text is missing; for all but Chat Completions the finish reason does."""
        emulator.script(Reply(text=["Hel", "lo"], interruptions=[Cut(after_deltas=1, how="end")]))

        said = await client.say()

        assert said.response.text == "Hel"
        assert said.response.finish_reason == ("stop" if client.kind == "chat" else None)


class TestHeldReplies:
    async def test_a_reply_waits_for_its_gate(self, client: Client, emulator: Emulator) -> None:
        gate = Gate()
        emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))

        run = asyncio.create_task(client.say())
        await gate.arrived()
        assert not run.done()
        assert emulator.requests[0].deltas_sent == 1
        gate.release()

        assert (await run).deltas == ["Hel", "lo"]
        await emulator.until(lambda: emulator.requests[0].outcome == "answered")

    async def test_a_gate_holds_many(self, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        gate = Gate()
        emulator.script(Hold(gate), always=True)
        clients = [client_of(kind, emulator.port, http) for kind in KINDS]

        runs = [asyncio.create_task(client.say("Hi")) for client in clients]
        await gate.arrived(len(clients))
        gate.release()

        assert [said.response.text for said in await asyncio.gather(*runs)] == ["You said: Hi"] * len(clients)

    async def test_a_client_that_leaves_is_noticed(self, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        gate = Gate()
        emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
        body = {"model": "gpt-6.1-sol", "input": "Hello", "stream": True}
        url = f"{emulator.base_url('openai')}/responses"

        async with http.stream("POST", url, json=body, headers={"authorization": "Bearer test-key"}):
            await gate.arrived()

        await emulator.until(lambda: emulator.requests[0].outcome == "left")
        assert emulator.requests[0].deltas_sent == 1


class TestNativeTools:
    def with_tools(self, *tools: AbstractNativeTool) -> dict[str, Any]:
        return {"capabilities": [NativeTool(tool) for tool in tools]}

    async def test_web_search_comes_with_citations(self, native_client: Client, emulator: Emulator) -> None:
        search = WebSearch("weather Bern", [Source("https://weather.example/bern", "Weather in Bern")])
        emulator.script(
            Reply(
                native=[search],
                text=["In Bern ", "it is wärm", "."],
                citations=[Citation("https://weather.example/bern", "Weather in Bern", delta=1)],
            ),
            Reply(text="You are welcome."),
        )
        tools = self.with_tools(WebSearchTool())

        first = await native_client.say("Weather?", **tools)
        await native_client.say("Thanks", history=first.messages, **tools)

        parts = first.response.parts
        assert [part.tool_name for part in parts if isinstance(part, NativeToolCallPart)] == ["web_search"]
        assert [part.tool_name for part in parts if isinstance(part, NativeToolReturnPart)] == ["web_search"]
        assert first.response.text is not None
        assert first.response.text.replace("\n\n", "") == "In Bern it is wärm."
        cited = [citation for part in parts if isinstance(part, TextPart) for citation in part.citations or ()]
        assert [getattr(source, "url", None) for citation in cited for source in citation.sources] == [
            "https://weather.example/bern"
        ]
        assert first.response.usage.details["web_search_requests"] == 1
        assert emulator.requests[0].native_tools == ("web_search",)
        assert emulator.refusals == []

    async def test_code_execution(self, native_client: Client, emulator: Emulator) -> None:
        emulator.script(
            Reply(native=[CodeExecution("print(6 * 7)", "42\n")], text="It is 42."), Reply(text="You are welcome.")
        )
        tools = self.with_tools(CodeExecutionTool())

        first = await native_client.say(
            "6 * 7?", model_settings={"openai_include_code_execution_outputs": True}, **tools
        )
        await native_client.say("Thanks", history=first.messages, **tools)

        parts = first.response.parts
        calls = [part for part in parts if isinstance(part, NativeToolCallPart)]
        returns = [part for part in parts if isinstance(part, NativeToolReturnPart)]
        assert [call.tool_name for call in calls] == ["code_execution"]
        assert "print(6 * 7)" in str(calls[0].args)
        assert "42" in str(returns[0].content)
        assert emulator.refusals == []

    @pytest.mark.parametrize("kind", ["google", "anthropic"])
    async def test_url_context(self, kind: Kind, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        client = client_of(kind, emulator.port, http)
        page = UrlContext("https://example.org/", "Example", "An example page.")
        emulator.script(
            Reply(native=[page], text=["It is an example."], citations=[Citation(page.url, page.title)]),
            Reply(text="You are welcome."),
        )
        tools = self.with_tools(WebFetchTool())

        first = await client.say("What is at https://example.org/?", **tools)
        await client.say("Thanks", history=first.messages, **tools)

        parts = first.response.parts
        returns = [part for part in parts if isinstance(part, NativeToolReturnPart)]
        assert [part.tool_name for part in returns] == ["web_fetch"]
        cited = [citation for part in parts if isinstance(part, TextPart) for citation in part.citations or ()]
        assert [getattr(source, "url", None) for citation in cited for source in citation.sources] == [page.url]
        assert emulator.refusals == []


class TestWhatReachedTheProvider:
    async def test_the_request_is_recorded(self, client: Client, emulator: Emulator) -> None:
        first = await client.say("Hello there")
        await client.say("And again", history=first.messages)

        request = emulator.requests[1]
        assert request.provider == client.provider
        assert request.model == client.model.model_name
        assert request.stream
        assert request.system == "Be kind."
        assert [(turn.role, turn.text) for turn in request.turns] == [
            ("user", "Hello there"),
            ("assistant", "You said: Hello there"),
            ("user", "And again"),
        ]

    async def test_the_key_is_not_in_the_headers(self, client: Client, emulator: Emulator) -> None:
        await client.say()

        request = emulator.requests[0]
        assert request.key == "test-key"
        assert "test-key" not in str(request.headers)
        assert "test-key" not in repr(request)

    async def test_images_are_recorded(self, client: Client, emulator: Emulator) -> None:
        image = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

        await client.say(["What is this?", BinaryContent(image, media_type="image/png")])

        assert emulator.requests[0].attachments == (Attachment("image/png", data=image),)
        assert emulator.requests[0].last_user_text == "What is this?"

    async def test_thinking_settings_are_recorded(self, client: Client, emulator: Emulator) -> None:
        await client.say(model_settings={"thinking": "low"})

        thinking = emulator.requests[0].thinking
        assert (
            thinking
            == {
                "responses": {"effort": "low", "context": "all_turns"},
                "chat": {"effort": "low"},
                "google": {"include_thoughts": True, "thinking_level": "LOW"},
                "anthropic": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            }[client.kind]
        )

    @pytest.mark.parametrize(
        ("provider", "address", "body"),
        [
            ("openai", "/responses", {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}),
            (
                "openai",
                "/responses",
                {"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": ""}]},
            ),
            ("openai", "/chat/completions", {"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}),
            (
                "anthropic",
                "/v1/messages",
                {
                    "max_tokens": 10,
                    "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}],
                },
            ),
            (
                "google",
                "/v1beta/models/gemini-3.8-flash:generateContent",
                {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}]},
            ),
        ],
    )
    async def test_a_history_with_a_torn_tool_call_is_refused(
        self, provider: Provider, address: str, body: dict[str, Any], emulator: Emulator, http: httpx2.AsyncClient
    ) -> None:
        headers = {"authorization": "Bearer test-key", "anthropic-version": "2023-06-01"}

        response = await http.post(emulator.base_url(provider) + address, json={"model": "m", **body}, headers=headers)

        assert response.status_code == 400
        assert len(emulator.refusals) == 1
        assert emulator.requests == []


class TestScripts:
    async def test_answers_are_chosen_by_what_they_are_for(self, emulator: Emulator, http: httpx2.AsyncClient) -> None:
        openai, google = [client_of(kind, emulator.port, http) for kind in ("responses", "google")]
        emulator.script(Reply(text="to Google"), provider="google")
        emulator.script(Reply(text="to the title"), match=lambda request: "title" in request.last_user_text)
        emulator.script(Reply(text="to the model"), model="gpt-6.1-sol")

        answers = [
            (await openai.say("a title, please")).response.text,
            (await google.say("a title, please")).response.text,
            (await openai.say("something else")).response.text,
        ]

        assert answers == ["to the title", "to Google", "to the model"]
        assert emulator.unused == 0

    async def test_answers_come_in_their_order_and_the_last_one_for_ever(
        self, emulator: Emulator, http: httpx2.AsyncClient
    ) -> None:
        client = client_of("anthropic", emulator.port, http)
        emulator.script(Reply(text="one"), Reply(text="two"), always=True)

        answers = [(await client.say()).response.text for _ in range(4)]

        assert answers == ["one", "two", "two", "two"]

    @pytest.mark.parametrize(
        "impossible",
        [Reply(native=[WebSearch("x")]), Reply(text="Hi", interruptions=[Cut(after_deltas=9)])],
    )
    async def test_a_script_that_cannot_be_played_is_a_problem(
        self, impossible: Reply, http: httpx2.AsyncClient
    ) -> None:
        with Emulator() as emulator:
            client = client_of("google", emulator.port, http)
            emulator.script(impossible)

            said = await client.say()

            assert said.error is not None
            assert len(emulator.problems) == 1


class TestFixedAnswers:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("pace", [0.0, 0.0001])
    async def test_every_answer_has_as_many_deltas(self, kind: Kind, pace: float, http: httpx2.AsyncClient) -> None:
        with Emulator(fixed=Fixed(tokens=50, pace=pace)) as emulator:
            client = client_of(kind, emulator.port, http)

            first, second = [await client.say() for _ in range(2)]

        assert len(first.deltas) == len(second.deltas) == 50
        assert first.response.usage.output_tokens == 50
        assert first.response.model_name == client.model.model_name
        assert first.response.provider_response_id != second.response.provider_response_id or kind == "google"

    async def test_it_runs_as_a_process(self, http: httpx2.AsyncClient) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.emulator", "--fixed-tokens", "50"),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            port = int(await process.stdout.readline())
            client = client_of("responses", port, http)

            said = await client.say()
            stats = await http.get(f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
            await process.wait()

        assert len(said.deltas) == 50
        assert stats.json() == {"served": 1}
