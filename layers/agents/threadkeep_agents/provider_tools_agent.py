"""The agent that searches the web, reads pages and runs code, with the provider's own tools.

It is an agent of its own because some models take no other tools beside these. A provider without a tool for reading
pages gets ours, which reaches no internal address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic_ai import Agent, Tool
from pydantic_ai.capabilities import AbstractCapability, NativeTool
from pydantic_ai.messages import CustomEvent, ModelMessage, ModelResponse, NativeToolCallPart, TextPart
from pydantic_ai.models import Model
from pydantic_ai.native_tools import AbstractNativeTool, CodeExecutionTool, WebFetchTool, WebSearchTool
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.ui.vercel_ai.response_types import SourceUrlChunk

from threadkeep.configuration import ProviderToolsAgent
from threadkeep.errors import ThreadkeepError
from threadkeep_agents.metering import is_whole
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import TOOL_RETRIES, Context, Work, on_record

AGENT: Final = "provider_tools_agent"
FETCH_SECONDS: Final = 20
FETCH_BYTES: Final = 5 * 1024 * 1024
# Characters of a page that the model gets to read.
FETCH_CHARACTERS: Final = 60_000


async def provider_tools_agent(context: Context, input: str) -> dict[str, Any]:  # noqa: A002 - the tool's own name
    """Hands a question to the agent that searches, reads pages and calculates."""
    async with on_record(context, AGENT, "run") as work:
        shape = work.turn.configured(AGENT, work.turn.provider)
        assert isinstance(shape, ProviderToolsAgent)
        await work.consume_limit()
        result = await _run(work, shape, input)
        sources = _sources(result.new_messages())
        for source in sources:
            await context.emit(SourceEvent(url=source["url"], title=source["title"]))
        return {"answer": result.output, "sources": sources}


def is_available(context: Context) -> bool:
    """Whether any of the tools that are on works with the turn's model."""
    turn = context.deps
    if turn.models.is_offline:
        return False
    shape = turn.configured(AGENT, turn.provider)
    assert isinstance(shape, ProviderToolsAgent)
    return bool(_tools(shape, turn.models.for_agent(AGENT).model).names)


async def _run(work: Work, shape: ProviderToolsAgent, question: str) -> AgentRunResult[str]:
    model = work.model().model
    tools = _tools(shape, model)
    work.metadata["offered"] = tools.names
    result: AgentRunResult[str] | None = None
    async with _agent().run_stream_events(
        question,
        model=model,
        model_settings=work.turn.models.settings_of_sub_agents() | _SETTINGS,
        instructions=[shape.system_prompt, tools.note],
        capabilities=[*tools.capabilities(), *work.turn.capabilities],
        toolsets=tools.toolsets(),
        deps=work.turn,
        usage=work.context.usage,
        usage_limits=work.turn.bounds,
    ) as events:
        async for event in events:
            if isinstance(event, AgentRunResultEvent):
                result = event.result
    if result is None or not is_whole(result.response):
        raise ThreadkeepError("provider:chat", "The search broke off before its answer was whole.")
    used = [part.tool_name for part in _native_calls(result.new_messages())]
    work.metadata["used"] = used
    if CodeExecutionTool.kind in used:
        work.category = "code_execution"
    return result


@dataclass(kw_only=True)
class SourceEvent(CustomEvent):
    """A page that an answer rests on; the message keeps it."""

    url: str
    title: str

    def to_payload(self) -> SourceUrlChunk:
        return SourceUrlChunk(source_id=self.url, url=self.url, title=self.title or None)


# What each tool of the configuration is with the providers, and what the model is told if it has none of it.
_NATIVE: Final[dict[str, type[AbstractNativeTool]]] = {
    "google_search": WebSearchTool,
    "url_context": WebFetchTool,
    "code_execution": CodeExecutionTool,
}
_WORDS: Final = {"google_search": "web search", "url_context": "reading pages", "code_execution": "code execution"}
# OpenAI leaves out what a script printed unless it is asked; Anthropic cites pages only if it is asked.
_SETTINGS: Final[ModelSettings] = {  # type: ignore[typeddict-unknown-key]
    "citations": True,
    "openai_include_code_execution_outputs": True,
}


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tools that are on: those that the model has itself, whether ours reads pages, and those that are missing."""

    native: list[str]
    is_reader_ours: bool
    missing: list[str]

    @property
    def names(self) -> list[str]:
        return [*self.native, *(["url_context"] if self.is_reader_ours else [])]

    @property
    def note(self) -> str:
        words = ", ".join(_WORDS[name] for name in self.missing)
        return f"You do not have: {words}. Say so where it matters." if words else ""

    def capabilities(self) -> list[AbstractCapability[TurnContext]]:
        return [NativeTool(_NATIVE[name]()) for name in self.native]

    def toolsets(self) -> list[FunctionToolset[TurnContext]]:
        return [FunctionToolset([web_fetch()])] if self.is_reader_ours else []


def _tools(shape: ProviderToolsAgent, model: Model[Any]) -> _Tools:
    """What of the configuration works with this model."""
    supported = model.profile.get("supported_native_tools", frozenset())
    on = [name for name in _NATIVE if getattr(shape.tools, name).enabled]
    native = [name for name in on if _NATIVE[name] in supported]
    others = [name for name in on if name not in native]
    is_reader_ours = "url_context" in others
    return _Tools(native, is_reader_ours, [name for name in others if not (is_reader_ours and name == "url_context")])


def web_fetch(*, allow_internal_addresses: bool = False) -> Tool[TurnContext]:
    """A tool that reads a page: http and https only, no internal address, not by a redirect or a name either."""
    from pydantic_ai.common_tools.web_fetch import web_fetch_tool

    tool: Tool[TurnContext] = web_fetch_tool(
        max_content_length=FETCH_CHARACTERS,
        max_download_bytes=FETCH_BYTES,
        timeout=FETCH_SECONDS,
        allow_local_urls=allow_internal_addresses,
    )
    return tool


@cache
def _agent() -> Agent[TurnContext, str]:
    return Agent(name=AGENT, deps_type=TurnContext, retries={"tools": TOOL_RETRIES})


def _sources(messages: Iterable[ModelMessage]) -> list[dict[str, str]]:
    """The pages that the answer cites, each once: `{url, title}`."""
    found: dict[str, str] = {}
    for part in _parts(messages):
        if not isinstance(part, TextPart):
            continue
        for citation in part.citations or ():
            for source in citation.sources:
                url = getattr(source, "url", None)
                if url and urlsplit(url).scheme in {"http", "https"}:
                    found.setdefault(url, getattr(source, "title", None) or "")
    return [{"url": url, "title": title} for url, title in found.items()]


def _native_calls(messages: Iterable[ModelMessage]) -> list[NativeToolCallPart]:
    return [part for part in _parts(messages) if isinstance(part, NativeToolCallPart)]


def _parts(messages: Iterable[ModelMessage]) -> list[Any]:
    return [part for message in messages if isinstance(message, ModelResponse) for part in message.parts]
