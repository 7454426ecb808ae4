from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from genai_prices import Usage
from genai_prices.data import providers as price_list
from psycopg.rows import dict_row

from threadkeep.configuration import (
    AGENTS,
    PROVIDERS,
    TOOL_OFF,
    AgentConfiguration,
    AppSettings,
    ChatModelAgent,
    DocumentAgent,
    GitMcpAgent,
    LoggingSettings,
    MermaidAgent,
    Operation,
    ProviderToolsAgent,
    PythonAgent,
    Tool,
    config_key,
    parse_configuration,
)
from threadkeep.model_metadata import Prices, parse_model_metadata

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

SQL: Final = Path(__file__).parents[2] / "sql"
SEEDS: Final = (
    *sorted(SQL.glob("0006_seed_data_*.sql")),
    *sorted(SQL.glob("0007_*.sql")),
    *sorted(SQL.glob("0008_*.sql")),
)

LIMITS: Final = {
    "chat_model_agent": {"google": (10, 100, 1000), "openai": (5, 50, 200), "anthropic": (4, 40, 150)},
    "provider_tools_agent": {"google": (8, 80, 500), "openai": (4, 40, 150), "anthropic": (3, 30, 100)},
    "document_agent": {"google": (5, 50, 200), "openai": (3, 30, 100), "anthropic": (2, 20, 80)},
    "python_agent": {"google": (5, 50, 200), "openai": (2, 20, 80), "anthropic": (2, 15, 60)},
    "mermaid_agent": {"google": (3, 25, 100), "openai": (2, 15, 60), "anthropic": (1, 10, 40)},
    "git_mcp_agent": {"google": (5, 50, 200), "openai": (1, 10, 40), "anthropic": (1, 8, 30)},
}

# What an operation's template has to hand to its model, or its model works on nothing.
NEEDED: Final = {
    "generate": {"instruction"},
    "create": {"title", "instruction"},
    "update": {"currentContent", "updateInstruction"},
    "suggestion": {"currentContent", "updateInstruction"},
    "fix": {"currentContent", "errorInfo"},
    "explain": {"currentContent", "instruction"},
}

SOURCE_MODELS: Final = {
    "google": {"gemini-2.0-flash": True, "gemini-2.5-flash": True, "gemini-2.5-pro": True, "gemma-3": False},
    "openai": {"gpt-4o": True, "gpt-4o-mini": True, "gpt-4-turbo": False},
    "anthropic": {
        "claude-3-5-sonnet-20241022": True,
        "claude-3-5-haiku-20241022": True,
        "claude-3-opus-20240229": False,
    },
}
CURRENT_MODELS: Final = {
    "google": {"gemini-3.8-flash", "gemini-4-argon", "gemini-3.5-flash-lite"},
    "openai": {"gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-luna"},
    "anthropic": {"claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"},
}
SOURCE_DEFAULTS: Final = {
    "google": "gemini-2.0-flash",
    "openai": "gpt-4o",
    "anthropic": "claude-3-5-sonnet-20241022",
}
CURRENT_DEFAULTS: Final = {"google": "gemini-3.8-flash", "openai": "gpt-6.1-terra", "anthropic": "claude-sonnet-5-5"}


@pytest.fixture
def database(database_url: str) -> Iterator[Connection]:
    """Each statement a transaction of its own, as a migration of one file or a change by hand is."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def configurations(database: Connection) -> dict[str, Row]:
    rows = database.execute("select config_key, config_data from public.admin_config").fetchall()
    return {row["config_key"]: row["config_data"] for row in rows}


def models(database: Connection) -> dict[str, Row]:
    rows = database.execute("select * from public.model_config").fetchall()
    return {row["model_id"]: row for row in rows}


def defaults(database: Connection) -> dict[str, str]:
    return {row["provider"]: row["model_id"] for row in models(database).values() if row["is_default"]}


def agents(database: Connection) -> Iterator[tuple[str, str, AgentConfiguration]]:
    rows = configurations(database)
    for agent in AGENTS:
        for provider in PROVIDERS:
            key = config_key(agent, provider)
            settings = parse_configuration(key, rows[key])
            assert isinstance(settings, AgentConfiguration)
            yield agent, provider, settings


def tools_of(settings: AgentConfiguration) -> dict[str, Tool]:
    assert isinstance(
        settings, ChatModelAgent | ProviderToolsAgent | DocumentAgent | PythonAgent | MermaidAgent | GitMcpAgent
    )
    return dict(settings.tools)


def test_the_seeded_rows_are_the_eighteen_agents_and_two_settings(database: Connection) -> None:
    keys = {config_key(agent, provider) for agent in AGENTS for provider in PROVIDERS}
    assert set(configurations(database)) == keys | {"app_settings", "logging_settings"}


def test_every_agent_is_complete_and_enabled_with_its_limits(database: Connection) -> None:
    for agent, provider, settings in agents(database):
        assert settings.enabled
        limits = settings.rate_limit
        assert (limits.per_minute, limits.per_hour, limits.per_day) == LIMITS[agent][provider], (agent, provider)
        tools = tools_of(settings)
        assert all(tool.enabled for tool in tools.values()), (agent, provider)
        assert all(tool.description != TOOL_OFF.description for tool in tools.values()), (agent, provider)


def test_every_operation_that_asks_a_model_tells_it_what_to_do_with_what(database: Connection) -> None:
    for agent, provider, settings in agents(database):
        for name, operation in tools_of(settings).items():
            if not isinstance(operation, Operation):
                continue
            where = (agent, provider, name)
            if name == "revert":
                assert operation.system_prompt is operation.user_prompt_template is None, where
                continue
            assert operation.system_prompt, where
            assert NEEDED[name] <= set(re.findall(r"\{(\w+)\}", operation.user_prompt_template or "")), where


def test_every_prompt_keeps_instructions_in_content_apart_from_the_request(database: Connection) -> None:
    for agent, provider, settings in agents(database):
        prompts = [getattr(settings, "system_prompt", None)]
        prompts += [getattr(tool, "system_prompt", None) for tool in tools_of(settings).values()]
        for prompt in filter(None, prompts):
            assert "not followed" in " ".join(prompt.split()), (agent, provider)


def test_what_does_not_depend_on_the_provider_is_the_same_with_all(database: Connection) -> None:
    rows = configurations(database)
    for agent in ("document_agent", "python_agent", "mermaid_agent", "git_mcp_agent"):
        versions = [{**rows[f"{agent}_{provider}"], "rateLimit": None} for provider in PROVIDERS]
        assert versions[0] == versions[1] == versions[2], agent


def test_the_application_settings_are_the_documented_ones(database: Connection) -> None:
    settings = parse_configuration("app_settings", configurations(database)["app_settings"])
    assert settings == AppSettings.model_validate({"activeProvider": "google", "availableProviders": [*PROVIDERS]})


def test_the_logging_settings_are_the_documented_ones(database: Connection) -> None:
    row = configurations(database)["logging_settings"]
    assert parse_configuration("logging_settings", row) == LoggingSettings.model_validate(
        {
            "error_logging_enabled": True,
            "user_activity_logging_enabled": False,
            "agent_activity_logging_enabled": True,
            "log_retention_days": {"error_logs": 90, "user_activity_logs": 30, "agent_activity_logs": 7},
        }
    )
    assert len(row["category_toggles"]) == 10
    assert all(row["category_toggles"].values())
    assert len(row["performance_settings"]) == 6
    assert len(row["privacy_settings"]) == 4


def test_the_models_are_those_of_the_source_design_and_the_current_ones(database: Connection) -> None:
    found = models(database)
    source = {name: active for names in SOURCE_MODELS.values() for name, active in names.items()}
    # Shut down by its provider since the source design was written.
    source["gemini-2.0-flash"] = False
    assert {
        name: row["is_active"] for name, row in found.items() if name not in set().union(*CURRENT_MODELS.values())
    } == source
    for provider, names in CURRENT_MODELS.items():
        for name in names:
            assert found[name]["provider"] == provider
            assert found[name]["is_active"]
            assert found[name]["thinking_enabled"]
    for row in found.values():
        metadata = parse_model_metadata(row["metadata"])
        assert metadata.context_window
        assert metadata.max_output_tokens
        assert row["description"]


def test_each_provider_has_its_balanced_current_model_as_default(database: Connection) -> None:
    assert defaults(database) == CURRENT_DEFAULTS


def test_every_model_costs_what_the_price_list_says_now_and_after_each_announced_change(database: Connection) -> None:
    firsts = [date(2026, 12, 1), *(date(2027, month, 1) for month in range(1, 13))]
    days = {*firsts, *(first - timedelta(days=1) for first in firsts)}
    for row in models(database).values():
        days |= {change.starts_on for change in parse_model_metadata(row["metadata"]).price_changes}
    for name, row in models(database).items():
        for day in sorted(days):
            for input_tokens in (10_000, 99_999, 100_001, 199_999, 200_001, 271_999, 272_001, 900_000):
                usage = Usage(
                    input_tokens=input_tokens, cache_read_tokens=4_000, cache_write_tokens=1_000, output_tokens=3_000
                )
                assert our_cost(row, usage, day) == listed_cost(row["provider"], name, usage, day), (name, day, usage)


def our_cost(row: Row, usage: Usage, day: date) -> Decimal:
    prices: Prices = parse_model_metadata(row["metadata"]).prices(
        row["input_pricing_per_million_tokens"],
        row["output_pricing_per_million_tokens"],
        day=day,
        input_tokens=int(usage.input_tokens),
    )
    uncached = int(usage.input_tokens) - int(usage.cache_read_tokens) - int(usage.cache_write_tokens)
    micro_dollars = (
        uncached * prices.input
        + int(usage.cache_read_tokens) * prices.cached_input
        + int(usage.cache_write_tokens) * prices.cache_write
        + int(usage.output_tokens) * prices.output
    )
    return micro_dollars / 1_000_000


def listed_cost(provider_id: str, model_id: str, usage: Usage, day: date) -> Decimal:
    provider = next(provider for provider in price_list if provider.id == provider_id)
    model = provider.find_model(model_id)
    assert model is not None, model_id
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return model.calc_price(usage, provider, genai_request_timestamp=noon).total_price


def test_every_seeded_row_satisfies_the_database(database: Connection) -> None:
    wrong = database.execute(
        """
        select config_key as name, private.admin_config_problem(config_key, config_data) as problem
        from public.admin_config
        where private.admin_config_problem(config_key, config_data) is not null
        union all
        select model_id, private.model_metadata_problem(metadata)
        from public.model_config
        where private.model_metadata_problem(metadata) is not null
        """
    ).fetchall()
    assert wrong == []


def test_seeding_again_changes_nothing_that_somebody_changed(database: Connection) -> None:
    database.execute(
        """
        update public.admin_config
        set config_data = jsonb_set(config_data, '{enabled}', 'false')
        where config_key = 'python_agent_openai'
        """
    )
    database.execute("update public.model_config set is_active = false where model_id = 'gpt-6.1-sol'")
    database.execute("update public.model_config set is_default = (model_id = 'gpt-4o') where provider = 'openai'")
    before = configurations(database), models(database)
    for seed in SEEDS:
        run(database, seed)
    assert (configurations(database), models(database)) == before


def test_the_default_moves_only_from_a_default_that_nobody_touched(database: Connection) -> None:
    as_before_the_current_models(database)
    database.execute(
        "update public.model_config set is_default = (model_id = 'gemini-2.5-pro') where provider = 'google'"
    )
    database.execute("update public.model_config set input_pricing_per_million_tokens = 2.4 where model_id = 'gpt-4o'")
    run(database, SQL / "0008_seed_data_current_models.sql")
    assert defaults(database) == {
        "google": "gemini-2.5-pro",
        "openai": "gpt-4o",
        "anthropic": CURRENT_DEFAULTS["anthropic"],
    }


def test_a_current_model_that_somebody_added_before_stays_as_it_was_made(database: Connection) -> None:
    as_before_the_current_models(database)
    database.execute(
        """
        insert into public.model_config (
            model_id, name, provider, is_active, input_pricing_per_million_tokens, output_pricing_per_million_tokens
        )
        values ('gpt-6.1-terra', 'Ours', 'openai', false, 9, 9)
        """
    )
    run(database, SQL / "0008_seed_data_current_models.sql")
    row = models(database)["gpt-6.1-terra"]
    assert (row["name"], row["is_active"], row["is_default"]) == ("Ours", False, False)
    assert defaults(database)["openai"] == SOURCE_DEFAULTS["openai"]


def as_before_the_current_models(database: Connection) -> None:
    database.execute("delete from public.model_config")
    run(database, SQL / "0007_seed_data_model_config.sql")
    assert defaults(database) == SOURCE_DEFAULTS


def run(database: Connection, seed: Path) -> None:
    with database.transaction():
        database.execute(seed.read_bytes())
