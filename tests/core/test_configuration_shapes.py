from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel, ValidationError

from threadkeep.configuration import (
    AGENTS,
    PLACEHOLDERS,
    PROVIDERS,
    SHAPES,
    AppSettings,
    ChatModelAgent,
    DocumentAgent,
    OwnTool,
    config_key,
    fill,
    json_schema,
    parse_configuration,
)
from threadkeep.errors import FieldError, ThreadkeepError
from threadkeep.model_metadata import ModelMetadata, Prices, parse_model_metadata

Json = dict[str, Any]
LEAVE_OUT = object()

RATE_LIMIT = {"perMinute": 1, "perHour": 2, "perDay": 3}
TOOL = {"description": "Does something.", "enabled": True}
AGENT: Json = {"enabled": True, "rateLimit": RATE_LIMIT, "tools": {}}
PROMPTED: Json = {**AGENT, "systemPrompt": "Be brief."}
FILE_TYPES = dict.fromkeys(["codeFiles", "textFiles", "pdf", "ppt", "excel", "images"], True)

# The smallest document of each shape.
SMALLEST: dict[str, Json] = {
    "chat_model_agent_google": {**PROMPTED, "capabilities": {}, "fileInputTypes": {}},
    "provider_tools_agent_openai": PROMPTED,
    "document_agent_anthropic": AGENT,
    "python_agent_google": AGENT,
    "mermaid_agent_openai": AGENT,
    "git_mcp_agent_anthropic": PROMPTED,
    "tool_weather": {"enabled": True, "rateLimit": RATE_LIMIT},
    "app_settings": {"activeProvider": "google", "availableProviders": ["google"]},
    "logging_settings": {
        "error_logging_enabled": True,
        "user_activity_logging_enabled": False,
        "agent_activity_logging_enabled": True,
        "log_retention_days": {"error_logs": 90, "user_activity_logs": 30, "agent_activity_logs": 7},
    },
}

# Changes of the smallest documents that leave them valid: key, path, value.
SERVER: Json = {"url": "https://tools.example.com/mcp?team=a", "allowedTools": ["forecast"]}
GOOD: list[tuple[str, str, object]] = [
    ("tool_weather", "server", SERVER),
    ("tool_weather", "server", {**SERVER, "secret": "weather"}),
    ("tool_weather", "server", {**SERVER, "url": "http://localhost:9000"}),
    ("tool_weather", "server", None),
    ("chat_model_agent_google", "enabled", False),
    ("chat_model_agent_google", "rateLimit.perMinute", 0),
    ("chat_model_agent_google", "rateLimit.perDay", 1_000_000),
    ("chat_model_agent_google", "systemPrompt", "Grüße 🙂 {anything} \n" * 1000),
    ("chat_model_agent_google", "capabilities", {"fileInput": True}),
    ("chat_model_agent_google", "fileInputTypes", FILE_TYPES),
    ("chat_model_agent_google", "tools.gitMcpAgent", TOOL),
    ("chat_model_agent_google", "tools.providerToolsAgent", {**TOOL, "enabled": False}),
    ("provider_tools_agent_openai", "tools", {"googleSearch": TOOL, "urlContext": TOOL, "codeExecution": TOOL}),
    ("document_agent_anthropic", "tools.create", TOOL),
    ("document_agent_anthropic", "tools.update", {**TOOL, "systemPrompt": "x", "userPromptTemplate": "{title}"}),
    ("document_agent_anthropic", "tools.revert", {**TOOL, "systemPrompt": None, "userPromptTemplate": None}),
    ("document_agent_anthropic", "tools.suggestion", {**TOOL, "userPromptTemplate": 'As JSON: {"a": {}} {a-b} {'}),
    ("python_agent_google", "tools.explain", TOOL),
    ("mermaid_agent_openai", "tools.fix", {**TOOL, "userPromptTemplate": "{currentContent}{errorInfo}"}),
    ("git_mcp_agent_anthropic", "tools", {"pull_requests": TOOL, "code_search": TOOL}),
    ("app_settings", "availableProviders", ["anthropic", "google"]),
    ("app_settings", "guests", {}),
    ("app_settings", "guests", {"enabled": False, "perAddressPerHour": 0}),
    ("app_settings", "turn", {"maxRequests": 1, "maxToolCalls": 0, "maxSeconds": 840, "maxCostUsd": 0.25}),
    ("app_settings", "budgets", {"perUserMonthlyUsd": None, "guestsMonthlyUsd": 12.5}),
    ("app_settings", "fallback", {"enabled": True, "models": ["gpt-4o", "claude-opus-5-5"]}),
    ("logging_settings", "category_toggles", {"log_auth_events": False}),
    ("logging_settings", "performance_settings", {"sampling_enabled": True, "sampling_rate": 0.1}),
    ("logging_settings", "performance_settings.sampling_rate", 1),
    ("logging_settings", "privacy_settings", {"exclude_sensitive_paths": ["/api/me", "/api/files"]}),
    ("logging_settings", "log_retention_days.error_logs", 3650),
]

# Changes that break them: key, path, value, and the field that the refusal names.
BAD: list[tuple[str, str, object, str]] = [
    ("tool_weather", "enabled", "yes", "enabled"),
    ("tool_weather", "rateLimit", LEAVE_OUT, "rateLimit"),
    ("tool_weather", "server", {"allowedTools": []}, "server.url"),
    ("tool_weather", "server", {**SERVER, "url": "ftp://tools.example.com"}, "server.url"),
    ("tool_weather", "server", {**SERVER, "url": "https://ada:secret@tools.example.com"}, "server.url"),
    ("tool_weather", "server", {**SERVER, "url": "https://"}, "server.url"),
    ("tool_weather", "server", {**SERVER, "allowedTools": ["a", "a"]}, "server.allowedTools"),
    ("tool_weather", "server", {**SERVER, "allowedTools": "forecast"}, "server.allowedTools"),
    *((key, "enabled", LEAVE_OUT, "enabled") for key in SMALLEST if "agent" in key),
    *((key, "rateLimit", LEAVE_OUT, "rateLimit") for key in SMALLEST if "agent" in key),
    *((key, "tools", LEAVE_OUT, "tools") for key in SMALLEST if "agent" in key),
    *((key, "unknown", 1, "unknown") for key in SMALLEST),
    *((key, f"tools.{name}", TOOL, f"tools.{name}") for key in SMALLEST if "agent" in key for name in ("delete", "")),
    ("chat_model_agent_google", "systemPrompt", LEAVE_OUT, "systemPrompt"),
    ("provider_tools_agent_openai", "systemPrompt", LEAVE_OUT, "systemPrompt"),
    ("git_mcp_agent_anthropic", "systemPrompt", LEAVE_OUT, "systemPrompt"),
    ("python_agent_google", "systemPrompt", "Only operations have one.", "systemPrompt"),
    ("chat_model_agent_google", "capabilities", LEAVE_OUT, "capabilities"),
    ("chat_model_agent_google", "fileInputTypes", LEAVE_OUT, "fileInputTypes"),
    ("chat_model_agent_google", "capabilities", {"fileInput": "yes"}, "capabilities.fileInput"),
    ("chat_model_agent_google", "capabilities", {"voice": True}, "capabilities.voice"),
    ("chat_model_agent_google", "fileInputTypes", {"exe": True}, "fileInputTypes.exe"),
    ("chat_model_agent_google", "fileInputTypes", ["pdf"], "fileInputTypes"),
    ("chat_model_agent_google", "enabled", "true", "enabled"),
    ("chat_model_agent_google", "enabled", 1, "enabled"),
    ("chat_model_agent_google", "enabled", None, "enabled"),
    ("chat_model_agent_google", "rateLimit", None, "rateLimit"),
    ("chat_model_agent_google", "rateLimit", [1, 2, 3], "rateLimit"),
    ("chat_model_agent_google", "rateLimit.perHour", LEAVE_OUT, "rateLimit.perHour"),
    ("chat_model_agent_google", "rateLimit.perMinute", -1, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", 1_000_001, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", 10**30, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", 1.5, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", 5.0, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", "5", "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perMinute", True, "rateLimit.perMinute"),
    ("chat_model_agent_google", "rateLimit.perWeek", 1, "rateLimit.perWeek"),
    ("chat_model_agent_google", "rate_limit", RATE_LIMIT, "rate_limit"),
    ("chat_model_agent_google", "systemPrompt", " \n\t", "systemPrompt"),
    ("chat_model_agent_google", "systemPrompt", "x" * 100_001, "systemPrompt"),
    ("chat_model_agent_google", "systemPrompt", {"text": "x"}, "systemPrompt"),
    ("chat_model_agent_google", "tools", [TOOL], "tools"),
    ("chat_model_agent_google", "tools.documentAgent", True, "tools.documentAgent"),
    ("chat_model_agent_google", "tools.documentAgent", {"description": "x"}, "tools.documentAgent.enabled"),
    ("chat_model_agent_google", "tools.documentAgent", {"enabled": True}, "tools.documentAgent.description"),
    (
        "chat_model_agent_google",
        "tools.documentAgent",
        {**TOOL, "systemPrompt": "x"},
        "tools.documentAgent.systemPrompt",
    ),
    ("provider_tools_agent_openai", "tools.create", TOOL, "tools.create"),
    ("document_agent_anthropic", "tools.fix", TOOL, "tools.fix"),
    ("mermaid_agent_openai", "tools.explain", TOOL, "tools.explain"),
    ("git_mcp_agent_anthropic", "tools.pullRequests", TOOL, "tools.pullRequests"),
    *(
        (
            "document_agent_anthropic",
            "tools.create",
            {**TOOL, "userPromptTemplate": template},
            "tools.create.userPromptTemplate",
        )
        for template in ("{titel}", "{current_content}", "{title} { title }", "{0}", "{{instructions}}", "", 1)
    ),
    ("app_settings", "activeProvider", "mistral", "activeProvider"),
    ("app_settings", "activeProvider", LEAVE_OUT, "activeProvider"),
    ("app_settings", "activeProvider", "openai", "availableProviders"),
    ("app_settings", "availableProviders", [], "availableProviders"),
    ("app_settings", "availableProviders", "google", "availableProviders"),
    ("app_settings", "availableProviders", ["google", "google"], "availableProviders"),
    ("app_settings", "availableProviders", ["google", "Google"], "availableProviders[1]"),
    ("app_settings", "guests", None, "guests"),
    ("app_settings", "guests", {"enabled": None}, "guests.enabled"),
    ("app_settings", "guests", {"totalPerHour": -1}, "guests.totalPerHour"),
    ("app_settings", "turn", {"maxRequests": 0}, "turn.maxRequests"),
    ("app_settings", "turn", {"maxSeconds": 841}, "turn.maxSeconds"),
    ("app_settings", "turn", {"maxCostUsd": None}, "turn.maxCostUsd"),
    ("app_settings", "budgets", {"perUserMonthlyUsd": -0.01}, "budgets.perUserMonthlyUsd"),
    ("app_settings", "budgets", {"perUserMonthlyUsd": "10"}, "budgets.perUserMonthlyUsd"),
    ("app_settings", "budgets", {"perUserMonthlyUsd": True}, "budgets.perUserMonthlyUsd"),
    ("app_settings", "fallback", {"models": ["gpt-4o", "gpt-4o"]}, "fallback.models"),
    ("app_settings", "fallback", {"models": ["gpt-4o", 4]}, "fallback.models[1]"),
    ("app_settings", "fallback", {"models": [str(number) for number in range(101)]}, "fallback.models"),
    ("logging_settings", "log_retention_days", LEAVE_OUT, "log_retention_days"),
    ("logging_settings", "log_retention_days.error_logs", 0, "log_retention_days.error_logs"),
    ("logging_settings", "log_retention_days.error_logs", 3651, "log_retention_days.error_logs"),
    ("logging_settings", "log_retention_days.agent_activity_logs", 7.5, "log_retention_days.agent_activity_logs"),
    ("logging_settings", "log_retention_days.agent_activity_logs", None, "log_retention_days.agent_activity_logs"),
    ("logging_settings", "errorLoggingEnabled", True, "errorLoggingEnabled"),
    ("logging_settings", "category_toggles", {"log_everything": True}, "category_toggles.log_everything"),
    ("logging_settings", "performance_settings", {"sampling_rate": 1.01}, "performance_settings.sampling_rate"),
    ("logging_settings", "performance_settings", {"sampling_rate": "1"}, "performance_settings.sampling_rate"),
    ("logging_settings", "performance_settings", {"sampling_rate": False}, "performance_settings.sampling_rate"),
    ("logging_settings", "performance_settings", {"batch_size": 0}, "performance_settings.batch_size"),
    (
        "logging_settings",
        "privacy_settings",
        {"exclude_sensitive_paths": "/"},
        "privacy_settings.exclude_sensitive_paths",
    ),
    (
        "logging_settings",
        "privacy_settings",
        {"exclude_sensitive_paths": ["/a", "b"]},
        "privacy_settings.exclude_sensitive_paths[1]",
    ),
]

NOT_OBJECTS: list[object] = [None, True, 3, "text", [], [{}]]

PRICE_CHANGE = {"from": "2027-01-01", "inputPrice": 1, "outputPrice": 2}
LONG_CONTEXT = {"aboveInputTokens": 200_000, "inputPrice": 2.5, "outputPrice": 15}

GOOD_METADATA: list[Json] = [
    {},
    {"contextWindow": 1_048_576, "maxOutputTokens": 65_536, "capabilities": ["images", "pdf", "tools"]},
    {"contextWindow": None, "cachedInputPrice": None, "longContext": None},
    {"cachedInputPrice": 0, "cacheWritePrice": 10_000, "longContext": LONG_CONTEXT},
    {"priceChanges": [PRICE_CHANGE, {**PRICE_CHANGE, "from": "2028-02-29", "longContext": LONG_CONTEXT}]},
]

BAD_METADATA: list[tuple[object, str]] = [
    ([], "metadata"),
    ({"context_window": 1}, "metadata.context_window"),
    ({"contextWindow": 0}, "metadata.contextWindow"),
    ({"contextWindow": "1000"}, "metadata.contextWindow"),
    ({"capabilities": ["magic"]}, "metadata.capabilities[0]"),
    ({"cachedInputPrice": -0.1}, "metadata.cachedInputPrice"),
    ({"cachedInputPrice": 10_000.5}, "metadata.cachedInputPrice"),
    ({"cachedInputPrice": "0.1"}, "metadata.cachedInputPrice"),
    ({"longContext": {}}, "metadata.longContext.inputPrice"),
    ({"longContext": {**LONG_CONTEXT, "outputPrice": None}}, "metadata.longContext.outputPrice"),
    ({"priceChanges": PRICE_CHANGE}, "metadata.priceChanges"),
    ({"priceChanges": None}, "metadata.priceChanges"),
    ({"priceChanges": [{**PRICE_CHANGE, "inputPrice": -1}]}, "metadata.priceChanges[0].inputPrice"),
    *(
        ({"priceChanges": [{**PRICE_CHANGE, "from": day}]}, "metadata.priceChanges[0].from")
        for day in ("2027-02-29", "2027-1-1", "0000-01-01", "soon", "2027-01-01T00:00", 1_800_000_000, None)
    ),
    ({"priceChanges": [PRICE_CHANGE, PRICE_CHANGE]}, "metadata.priceChanges"),
    ({"priceChanges": [PRICE_CHANGE, {**PRICE_CHANGE, "from": "2026-12-31"}]}, "metadata.priceChanges"),
]


def good_documents() -> Iterator[tuple[str, object]]:
    yield from SMALLEST.items()
    for key, path, value in GOOD:
        yield key, changed(SMALLEST[key], path, value)


def bad_documents() -> Iterator[tuple[str, object, str]]:
    for key, path, value, field in BAD:
        yield key, changed(SMALLEST[key], path, value), field
    for key in SMALLEST:
        for document in NOT_OBJECTS:
            yield key, document, "configData"
    for key in (
        "",
        "chat_model_agent",
        "chat_model_agent_mistral",
        "chat_model_agent_google_",
        "_google",
        "limits",
        "tool_",
        "tool_Weather",
        "tool_9",
        "tool_" + "x" * 41,
    ):
        yield key, AGENT, "configKey"


def changed(document: Json, path: str, value: object) -> Json:
    result = copy.deepcopy(document)
    *above, last = path.split(".")
    place = result
    for name in above:
        place = place.setdefault(name, {})
    if value is LEAVE_OUT:
        del place[last]
    else:
        place[last] = value
    return result


def refused_fields(key: str, document: object) -> tuple[FieldError, ...]:
    with pytest.raises(ThreadkeepError) as refusal:
        parse_configuration(key, document)
    assert refusal.value.code == "invalid:api"
    return refusal.value.fields


def test_every_agent_of_every_provider_and_two_settings_have_a_shape() -> None:
    assert len(AGENTS) * len(PROVIDERS) == 18
    assert set(SHAPES) == {config_key(agent, provider) for agent in AGENTS for provider in PROVIDERS} | {
        "app_settings",
        "logging_settings",
    }


@pytest.mark.parametrize(("key", "document"), [*good_documents()])
def test_a_valid_document_is_read(key: str, document: object) -> None:
    assert isinstance(parse_configuration(key, document), SHAPES.get(key, OwnTool))


@pytest.mark.parametrize(("key", "document", "field"), [*bad_documents()])
def test_a_wrong_document_is_refused_with_the_field(key: str, document: object, field: str) -> None:
    refused = refused_fields(key, document)
    assert field in [error.field for error in refused]
    assert all(error.message for error in refused)


def test_the_database_and_this_code_judge_every_document_alike(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for key, document in good_documents():
            assert problem(connection, key, document) is None, (key, document)
        for key, bad, field in bad_documents():
            found = problem(connection, key, bad)
            assert found is not None, (key, bad)
            assert found.partition(": ")[0] == field, (key, bad)


def test_the_database_and_this_code_judge_the_metadata_of_models_alike(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for metadata in GOOD_METADATA:
            parse_model_metadata(metadata)
            assert metadata_problem(connection, metadata) is None, metadata
        for bad, field in BAD_METADATA:
            with pytest.raises(ThreadkeepError) as refusal:
                parse_model_metadata(bad)
            assert field in [error.field for error in refusal.value.fields], bad
            found = metadata_problem(connection, bad)
            assert found is not None, bad
            # Of several missing members each names another one first.
            assert found.partition(": ")[0] in [error.field for error in refusal.value.fields], bad


@pytest.mark.parametrize("key", SMALLEST)
def test_the_database_knows_every_member_and_bound_that_this_code_knows(key: str, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select private.admin_config_shape(%(key)s)",
            {"key": key},
        ).fetchone()
    assert row is not None
    schema = json_schema(key)
    assert same_words(row[0]) == in_words(schema, schema["$defs"])


def in_words(schema: Json, definitions: Json) -> Any:
    """A JSON Schema in the notation of the database's shapes, with every kind of text called text."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    kind = schema["type"]
    if "enum" in schema:
        return "one of " + " ".join(schema["enum"])
    if kind == "object":
        return {
            name + marks(name, schema): in_words(of_anything_but_null(member), definitions)
            for name, member in schema["properties"].items()
        }
    if kind == "array":
        assert schema["maxItems"] == 100
        return [in_words(schema["items"], definitions)]
    if kind in ("integer", "number"):
        return f"{kind} {schema['minimum']:g} {schema['maximum']:.0f}"
    return f"text {schema['maxLength']}" if kind == "string" else kind


def marks(name: str, schema: Json) -> str:
    if name in schema.get("required", []):
        return ""
    return "??" if {"type": "null"} in schema["properties"][name].get("anyOf", []) else "?"


def of_anything_but_null(member: Json) -> Json:
    for choice in member.get("anyOf", [member]):
        if choice != {"type": "null"}:
            return choice  # type: ignore[no-any-return]
    raise AssertionError(member)


def same_words(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: same_words(member) for name, member in shape.items()}
    if isinstance(shape, list):
        return [same_words(entry) for entry in shape]
    return re.sub("^(template|path|address) ", "text ", shape)


def problem(connection: psycopg.Connection[Any], key: str, document: object) -> str | None:
    return scalar(
        connection,
        "select private.admin_config_problem(%(key)s, %(document)s)",
        {"key": key, "document": json.dumps(document)},
    )


def metadata_problem(connection: psycopg.Connection[Any], metadata: object) -> str | None:
    return scalar(connection, "select private.model_metadata_problem(%(metadata)s)", {"metadata": json.dumps(metadata)})


def scalar(connection: psycopg.Connection[Any], query: Any, parameters: dict[str, str]) -> str | None:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return None if row[0] is None else str(row[0])


def test_a_broken_row_written_by_hand_is_refused_with_field_and_reason(database_url: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.InvalidParameterValue) as refusal,
    ):
        connection.execute(
            """
            update public.admin_config
            set config_data = jsonb_set(config_data, '{rateLimit,perHour}', '-5')
            where config_key = 'chat_model_agent_google'
            """
        )
    assert refusal.value.sqlstate == "22023"
    reason = "must be from 0 to 1000000"
    assert refusal.value.diag.message_primary == f"chat_model_agent_google: rateLimit.perHour: {reason}"
    assert json.loads(refusal.value.diag.message_detail or "") == {
        "code": "invalid:api",
        "fields": [{"field": "rateLimit.perHour", "message": reason}],
    }


def test_text_that_the_database_cannot_hold_is_refused() -> None:
    for text in ("a\x00b", "a\ud800b"):
        document = {**SMALLEST["chat_model_agent_google"], "systemPrompt": text}
        assert [error.field for error in refused_fields("chat_model_agent_google", document)] == ["systemPrompt"]


def test_all_wrong_fields_are_named_at_once_and_not_without_end() -> None:
    document = {"activeProvider": "x", "availableProviders": [], "guests": {"enabled": 1}}
    assert refused_fields("app_settings", document) == (
        FieldError("activeProvider", "must be 'google', 'openai' or 'anthropic'"),
        FieldError("guests.enabled", "must be true or false"),
    )
    assert len(refused_fields("app_settings", {str(number): 1 for number in range(1000)})) == 20


def test_numbers_that_are_none_are_refused() -> None:
    for number in (float("nan"), float("inf")):
        for shape, member in (("turn", "maxCostUsd"), ("budgets", "guestsMonthlyUsd")):
            document = {**SMALLEST["app_settings"], shape: {member: number}}
            assert [error.field for error in refused_fields("app_settings", document)] == [f"{shape}.{member}"]


def test_what_a_row_does_not_name_has_its_default() -> None:
    settings = parse_configuration("app_settings", SMALLEST["app_settings"])
    assert settings.guests.model_dump() == {"enabled": True, "per_address_per_hour": 20, "total_per_hour": 2000}
    assert (settings.turn.max_requests, settings.turn.max_tool_calls, settings.turn.max_seconds) == (8, 16, 600)
    assert settings.titles.enabled
    assert settings.budgets.model_dump() == {"per_user_monthly_usd": None, "guests_monthly_usd": None}
    assert settings.fallback.model_dump() == {"enabled": False, "models": ()}
    chat = parse_configuration("chat_model_agent_google", SMALLEST["chat_model_agent_google"])
    assert isinstance(chat, ChatModelAgent)
    assert not chat.tools.document_agent.enabled
    assert not chat.capabilities.file_input
    documents = parse_configuration("document_agent_google", AGENT)
    assert isinstance(documents, DocumentAgent)
    assert not documents.tools.create.enabled
    assert documents.tools.create.system_prompt is None
    logging = parse_configuration("logging_settings", SMALLEST["logging_settings"])
    assert logging.category_toggles.log_auth_events
    assert logging.performance_settings.sampling_rate == 1


def test_what_was_read_does_not_change() -> None:
    settings = parse_configuration("app_settings", SMALLEST["app_settings"])
    with pytest.raises(ValidationError):
        settings.guests.enabled = False  # type: ignore[misc]


@pytest.mark.parametrize("key", SHAPES)
def test_the_json_schema_describes_the_document_and_its_defaults(key: str) -> None:
    schema = json_schema(key)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    shape: type[BaseModel] = SHAPES[key]
    assert {field.alias or name for name, field in shape.model_fields.items()} == set(schema["properties"])
    json.dumps(schema)


def test_a_document_that_was_read_is_written_back_as_it_was() -> None:
    document = {**SMALLEST["app_settings"], "turn": {"maxCostUsd": 0.1}}
    settings = parse_configuration("app_settings", document)
    assert settings.model_dump(mode="json", by_alias=True, exclude_unset=True) == document
    assert AppSettings.model_validate_json(settings.model_dump_json(by_alias=True)) == settings
    assert settings.turn.max_cost_usd == Decimal("0.1")


@pytest.mark.parametrize("key", SMALLEST)
def test_what_was_read_is_valid_when_written_with_its_defaults(key: str) -> None:
    settings = parse_configuration(key, SMALLEST[key])
    assert parse_configuration(key, settings.model_dump(mode="json", by_alias=True)) == settings


def test_an_unknown_key_has_no_schema() -> None:
    with pytest.raises(ThreadkeepError) as refusal:
        json_schema("limits")
    assert [error.field for error in refusal.value.fields] == ["configKey"]


def test_a_template_is_filled_with_every_placeholder() -> None:
    template = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    filled = fill(template, title="T", instruction="I", current_content="C", update_instruction="U", error_info="E")
    assert filled == "T I C U E"


def test_the_instruction_is_also_the_update_instruction() -> None:
    assert fill("{updateInstruction}|{title}|{errorInfo}", instruction="shorter") == "shorter||"


def test_braces_in_a_persons_content_are_never_filled() -> None:
    content = "{title} {instruction} {0} {} {{errorInfo}} \\1 \\g<0> %s"
    assert (
        fill("{title}: {currentContent}", title="{currentContent}", instruction="secret", current_content=content)
        == f"{{currentContent}}: {content}"
    )


def test_other_braces_of_a_template_stay() -> None:
    assert fill('{"a": {}} {a-b} {other} {{ {', instruction="x") == '{"a": {}} {a-b} {other} {{ {'


def prices(metadata: Json, *, day: date = date(2026, 11, 20), input_tokens: int = 1000) -> Prices:
    return parse_model_metadata(metadata).prices(Decimal(2), Decimal(10), day=day, input_tokens=input_tokens)


def test_input_without_a_price_of_its_own_pays_the_input_price() -> None:
    assert prices({}) == Prices(input=Decimal(2), cached_input=Decimal(2), cache_write=Decimal(2), output=Decimal(10))
    assert prices({"cachedInputPrice": 0.1, "cacheWritePrice": 2.5}) == Prices(
        input=Decimal(2), cached_input=Decimal("0.1"), cache_write=Decimal("2.5"), output=Decimal(10)
    )
    assert prices({"cachedInputPrice": 0}).cached_input == 0


def test_a_long_request_pays_the_long_price_as_a_whole() -> None:
    metadata = {"cachedInputPrice": 0.1, "longContext": LONG_CONTEXT}
    assert prices(metadata, input_tokens=200_000).input == 2
    long = prices(metadata, input_tokens=200_001)
    assert long == Prices(
        input=Decimal("2.5"), cached_input=Decimal("2.5"), cache_write=Decimal("2.5"), output=Decimal(15)
    )


def test_an_announced_price_holds_from_its_day_and_replaces_all_earlier_ones() -> None:
    metadata = {
        "cachedInputPrice": 0.1,
        "longContext": LONG_CONTEXT,
        "priceChanges": [PRICE_CHANGE, {**PRICE_CHANGE, "from": "2027-06-01", "inputPrice": 7}],
    }
    assert prices(metadata, day=date(2026, 12, 31)).cached_input == Decimal("0.1")
    changed_prices = prices(metadata, day=date(2027, 1, 1), input_tokens=500_000)
    assert changed_prices == Prices(
        input=Decimal(1), cached_input=Decimal(1), cache_write=Decimal(1), output=Decimal(2)
    )
    assert prices(metadata, day=date(2030, 1, 1)).input == 7


def test_the_smallest_metadata_is_none() -> None:
    assert parse_model_metadata({}) == ModelMetadata()


def test_importing_the_shapes_loads_nothing_beyond_pydantic() -> None:
    program = "import sys, threadkeep.configuration; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "psycopg", "boto3", "pydantic_ai", "genai_prices", "mangum"} & set(loaded)
