"""The model that answers when no provider has a key: deterministic, streaming, and open about what it is.

It stands behind the same agents as the real ones, so that all of the system but the model can be seen at work: asked
for a text, a sheet, a script or a diagram, it calls the agent that writes it; asked to change it, it lets that agent
change the last one of the session.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from threadkeep_agents import offline_writing
from threadkeep_agents.activity import CHAT_AGENT

QUOTED_CHARACTERS: Final = 200
TITLE_CHARACTERS: Final = 60


def offline_model(agent: str) -> FunctionModel:
    """A model that needs no network, for one of the agents."""
    decide = _decide if agent == CHAT_AGENT else offline_writing.decide

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        decided = decide(messages, info)
        if isinstance(decided, str):
            return ModelResponse(parts=[TextPart(decided)])
        return ModelResponse(parts=[ToolCallPart(decided[0], decided[1])])

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        decided = decide(messages, info)
        if isinstance(decided, str):
            for word in re.findall(r"\s*\S+\s*?(?=\s|\Z)|\s+", decided):
                yield word
        else:
            yield {0: DeltaToolCall(name=decided[0], json_args=json.dumps(decided[1]))}

    return FunctionModel(answer, stream_function=stream, model_name="offline")


@dataclass(frozen=True, slots=True)
class Craft:
    """What people call a thing, and the tool that makes and changes it."""

    words: str
    tool: str
    first_line: str
    parameter: str
    kinds: tuple[str, ...]
    operations: tuple[str, ...]


_OF_TEXTS: Final = ("update", "suggestion", "revert")
_OF_SCRIPTS: Final = ("update", "fix", "explain", "revert")
_OF_DIAGRAMS: Final = ("update", "fix", "revert")
_CRAFTS: Final = (
    Craft("sheet|spreadsheet|table|csv", "documentAgent", "Sheet", "documentId", ("sheet",), _OF_TEXTS),
    Craft("script|program|python|code|function", "pythonAgent", "Python", "codeId", ("python code",), _OF_SCRIPTS),
    Craft("diagram|flowchart|chart|drawing", "mermaidAgent", "Diagram", "diagramId", ("mermaid code",), _OF_DIAGRAMS),
    Craft(
        "document|text|report|letter|essay|article|story|poem|plan|note",
        "documentAgent",
        "Text",
        "documentId",
        ("text",),
        _OF_TEXTS,
    ),
)
_MAKE: Final = re.compile(
    r"\b(write|make|create|draw|draft|generate|need|want|give me|show me|please)\b|^\W*an?\b", re.IGNORECASE
)
_MAKE_ANEW: Final = re.compile(r"\b(write|create|draw|draft)\b", re.IGNORECASE)
_IT: Final = re.compile(r"\b(?:it|this)\b|\bthat\W*\Z", re.IGNORECASE)
_CHANGE_WORDS: Final = "make it|change|update|revise|shorten|shorter|longer|add|remove|replace|rewrite|rename|translate"
_CHANGES: Final = (
    ("revert", re.compile(r"\b(revert|undo|go back|earlier version|previous version)\b", re.IGNORECASE)),
    ("suggestion", re.compile(r"\b(suggest\w*|proofread|improvements?)\b", re.IGNORECASE)),
    ("explain", re.compile(r"\bexplain\b", re.IGNORECASE)),
    ("fix", re.compile(r"\b(fix|repair|broken|fails?|error)\b", re.IGNORECASE)),
    ("update", re.compile(rf"\b({_CHANGE_WORDS})\b", re.IGNORECASE)),
)
_VERSION: Final = re.compile(r"\bversion (\d{1,6})\b|\b(?:first|original) version\b", re.IGNORECASE)
_ABOUT: Final = re.compile(r"\b(?:about|on|of|that|for|called|titled|which)\b\s*(.+)", re.IGNORECASE | re.DOTALL)

Decision = str | tuple[str, dict[str, Any]]


def _decide(messages: list[ModelMessage], info: AgentInfo) -> Decision:
    """What the chat agent does: reports what a tool did, calls one, or says what it is."""
    results = _results(messages[-1])
    if results:
        return _report(results)
    said = _last_prompt(messages)
    wanted = _wanted(said, messages)
    if wanted is None:
        return _introduction(said)
    if isinstance(wanted, str):
        return wanted
    tool = wanted[0]
    if all(offered.name != tool for offered in info.function_tools):
        return f"That needs {tool}, which is switched off here, or its limit is used up for now."
    return wanted


def _wanted(said: str, messages: Sequence[ModelMessage]) -> Decision | None:
    if re.search(r"\bwhat(?:'s| is)? (?:the )?(?:time|date|day)\b", said, re.IGNORECASE):
        return "current_time", {}
    craft = next((craft for craft in _CRAFTS if re.search(rf"\b(?:{craft.words})s?\b", said, re.IGNORECASE)), None)
    change = next((operation for operation, words in _CHANGES if words.search(said)), None)
    if change is not None and not (craft and _is_new(craft, said)):
        made = _last_document(messages, craft)
        if made is None and _IT.search(said):
            made = _last_document(messages, None)
        if made is not None:
            return _change(made, change, said)
    if craft is not None and _MAKE.search(said):
        return craft.tool, {"operation": "create", "instruction": f"{craft.first_line}: {_title(said)}\n{said}"}
    return None


def _is_new(craft: Craft, said: str) -> bool:
    """Whether another one is asked for: “a script that can add”, and not “add a remark to the script”."""
    named = rf"\b(?:an?|another|new)\s+(?:[\w-]+\s+){{0,1}}(?:{craft.words})\b"
    return bool(_MAKE_ANEW.search(said) or (re.search(named, said, re.IGNORECASE) and not _IT.search(said)))


def _change(made: dict[str, Any], operation: str, said: str) -> Decision:
    craft = next(craft for craft in _CRAFTS if made["kind"] in craft.kinds)
    if operation not in craft.operations:
        if operation != "fix":
            return f"“{made['title']}” stays as it is: {craft.tool} has no operation for that."
        operation = "update"
    arguments = {"operation": operation, "instruction": said, craft.parameter: made["id"]}
    if operation == "revert" and (named := _VERSION.search(said)) is not None:
        arguments["targetVersion"] = int(named[1] or 1)
    return craft.tool, arguments


def _title(said: str) -> str:
    found = _ABOUT.search(said)
    words = " ".join((found[1] if found else said).split()).strip(" .!?\"'“”")
    title = words[:TITLE_CHARACTERS].strip() or "Untitled"
    return title[0].upper() + title[1:]


def _report(results: Sequence[ToolReturnPart | RetryPromptPart]) -> str:
    return "\n\n".join(_report_of(result) for result in results)


def _report_of(result: ToolReturnPart | RetryPromptPart) -> str:
    content = result.content
    if isinstance(result, RetryPromptPart) or result.outcome == "failed" or not isinstance(content, dict):
        return f"{result.tool_name} said: {content}"
    if "explanation" in content:
        return str(content["explanation"])
    if "code" in content:
        return f"```\n{content['code']}\n```"
    if "suggestions" in content:
        number = len(content["suggestions"])
        return f"{number} suggestion(s) for “{content['title']}” wait for you to accept or reject them."
    if "version" in content:
        state = f", but it is not valid: {content['invalid']}" if content.get("invalid") else ""
        return f"“{content['title']}” ({content['kind']}) is stored as version {content['version']}{state}."
    return json.dumps(content, ensure_ascii=False)


def _results(message: ModelMessage) -> list[ToolReturnPart | RetryPromptPart]:
    if not isinstance(message, ModelRequest):
        return []
    return [part for part in message.parts if isinstance(part, ToolReturnPart | RetryPromptPart)]


def _last_document(messages: Sequence[ModelMessage], craft: Craft | None) -> dict[str, Any] | None:
    """What was made or changed last in this session, of a craft if one is named, as a tool returned it."""
    for message in reversed(messages):
        for result in reversed(_results(message)):
            made = result.content
            if not isinstance(made, dict) or not {"id", "kind", "version"} <= made.keys():
                continue
            if craft is None or made["kind"] in craft.kinds:
                return made
    return None


def _introduction(said: str) -> str:
    quoted = said[:QUOTED_CHARACTERS] + ("…" if len(said) > QUOTED_CHARACTERS else "")
    return (
        "I am Threadkeep's offline model: no provider has a key here, so nothing thinks behind these words. "
        f"You said: “{quoted}” "
        "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY and start again to talk to a real model. "
        "What works without one: “Write a document about lighthouses”, then “Make it shorter”; a sheet, "
        "“a script that counts words”, “a diagram of a login”, suggestions, “undo that”."
    )


def _last_prompt(messages: Sequence[ModelMessage]) -> str:
    for message in reversed(messages):
        if not isinstance(message, ModelRequest):
            continue
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                pieces = [part.content] if isinstance(part.content, str) else part.content
                return " ".join(piece for piece in pieces if isinstance(piece, str))
    return ""
