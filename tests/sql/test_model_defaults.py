"""Each provider with models has exactly one default, and it is active, whoever changes what at the same time."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.crowd import Owner, at_once
from tests.sql.callers import BECOME

CALLERS = 16
Connection = psycopg.AsyncConnection[Any]
MAKE_DEFAULT = "update public.model_config set is_default = true where model_id = %(model)s"


@pytest.fixture
async def administrators(api_database_url: str) -> AsyncIterator[list[Connection]]:
    connections = [
        await psycopg.AsyncConnection.connect(api_database_url, autocommit=True, prepare_threshold=None)
        for _ in range(CALLERS)
    ]
    yield connections
    for connection in connections:
        await connection.close()


async def change(connection: Connection, *statements: str, role: str = "authenticated", **values: Any) -> int:
    """The statements in one transaction of an administrator (or the service); how many rows the last one touched."""
    claims = json.dumps({"sub": str(uuid4()), "role": role, "app_metadata": {"role": "admin"}})
    async with connection.transaction():
        await connection.execute(BECOME, {"role": role, "claims": claims})
        for statement in statements:
            cursor = await connection.execute(statement.encode(), values)
        return cursor.rowcount


async def refused(connection: Connection, *statements: str, role: str = "authenticated", **values: Any) -> bool:
    """Whether the database refuses the statements with TK409 and nothing else."""
    try:
        await change(connection, *statements, role=role, **values)
    except psycopg.Error as error:
        if error.sqlstate != "TK409":
            raise
        return "conflict:model" in (error.diag.message_detail or "")
    return False


async def defaults(owner: Owner) -> dict[str, list[str]]:
    """The active default models of each provider."""
    rows = await owner.rows(
        """
        select provider, array_agg(model_id) filter (where is_default and is_active) as models
        from public.model_config
        group by provider
        """
    )
    return {row["provider"]: row["models"] for row in rows}


async def models_of(owner: Owner, provider: str) -> list[str]:
    rows = await owner.rows(
        "select model_id from public.model_config where provider = %(provider)s and is_active order by is_default desc",
        {"provider": provider},
    )
    return [row["model_id"] for row in rows]


def always(connection: Connection, models: list[str], times: int) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        for model in random.choices(models, k=times):
            assert await change(connection, MAKE_DEFAULT, model=model) == 1

    return run


async def test_16_callers_change_one_default_without_an_error(administrators: list[Connection], owner: Owner) -> None:
    models = await models_of(owner, "google")
    assert len(models) > 3

    results = await at_once(*[always(connection, models, 10) for connection in administrators])

    assert [result for result in results if result is not None] == []
    assert {provider: len(found) for provider, found in (await defaults(owner)).items()} == {
        "google": 1,
        "openai": 1,
        "anthropic": 1,
    }


async def test_whatever_16_callers_do_a_default_remains_and_nothing_else_is_refused(
    administrators: list[Connection], owner: Owner
) -> None:
    models = await models_of(owner, "openai")
    insert = """
        insert into public.model_config (
            model_id, name, provider, is_default, input_pricing_per_million_tokens, output_pricing_per_million_tokens
        )
        values (%(fresh)s, 'Mine', 'openai', true, 1, 1)
    """
    ways = [
        MAKE_DEFAULT,
        insert,
        "update public.model_config set is_default = false where model_id = %(model)s",
        "update public.model_config set is_active = not is_active where model_id = %(model)s",
        "delete from public.model_config where model_id = %(model)s",
        "update public.model_config set is_default = (model_id = %(model)s) where provider = 'openai'",
        "update public.model_config set is_default = true where provider = 'openai'",
    ]

    def anything(connection: Connection) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            values = [{"model": random.choice(models), "fresh": str(uuid4())} for _ in range(12)]
            return sum([await refused(connection, random.choice(ways), **value) for value in values])

        return run

    results = await at_once(*[anything(connection) for connection in administrators])

    assert all(isinstance(result, int) for result in results), results
    assert 0 < sum(results) < 12 * CALLERS
    assert len((await defaults(owner))["openai"]) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "update public.model_config set is_active = false where model_id = %(default)s",
        "update public.model_config set is_default = false where model_id = %(default)s",
        "delete from public.model_config where model_id = %(default)s",
        "update public.model_config set is_active = false where provider = 'google'",
        "update public.model_config set is_default = false where provider = 'google'",
        "update public.model_config set is_default = true where model_id = %(inactive)s",
    ],
)
async def test_no_provider_is_left_without_an_active_default(
    administrators: list[Connection], owner: Owner, statement: str
) -> None:
    default, other, *_ = await models_of(owner, "google")
    await change(administrators[0], "update public.model_config set is_active = false where model_id = %(o)s", o=other)

    assert await refused(administrators[0], statement, default=default, inactive=other)

    assert (await defaults(owner))["google"] == [default]


async def test_the_default_cannot_be_moved_away_to_another_provider(
    administrators: list[Connection], owner: Owner
) -> None:
    default, *_ = await models_of(owner, "google")
    move = "update public.model_config set provider = 'openai' where model_id = %(model)s"

    assert await refused(administrators[0], move, role="service_role", model=default)

    assert (await defaults(owner))["google"] == [default]


async def test_the_last_model_of_a_provider_may_go_and_one_that_comes_as_default_replaces_the_other(
    administrators: list[Connection], owner: Owner
) -> None:
    default, *others = await models_of(owner, "google")
    keep_one = "delete from public.model_config where provider = 'google' and model_id <> %(model)s"
    move = "update public.model_config set provider = 'openai' where model_id = %(model)s"

    await change(administrators[0], keep_one, move, role="service_role", model=default)

    assert await defaults(owner) == {"openai": [default], "anthropic": (await defaults(owner))["anthropic"]}
    await change(administrators[0], "delete from public.model_config where provider = 'openai'")
    assert set(await defaults(owner)) == {"anthropic"}
    assert others


@pytest.mark.parametrize(
    "statements",
    [
        [MAKE_DEFAULT],
        [MAKE_DEFAULT, "update public.model_config set is_active = false where model_id = %(default)s"],
        ["delete from public.model_config where model_id = %(default)s", MAKE_DEFAULT],
        ["update public.model_config set is_default = not is_default where model_id in (%(default)s, %(model)s)"],
        [
            "update public.model_config set is_default = false where model_id = %(default)s",
            "update public.model_config set is_active = false where model_id = %(default)s",
            MAKE_DEFAULT,
        ],
    ],
)
async def test_a_default_is_changed_in_one_transaction_in_any_order(
    administrators: list[Connection], owner: Owner, statements: list[str]
) -> None:
    default, other, *_ = await models_of(owner, "google")

    await change(administrators[0], *statements, default=default, model=other)

    assert (await defaults(owner))["google"] == [other]
