"""How the reports for administrators are read: from the months that were asked for, by indexes, at a bounded cost."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from bench.admin_pages import Explaining
from tests.crowd import Owner, somebody
from threadkeep import activity_reports, people, usage_reports
from threadkeep.activity_reports import Filter

ROOT = somebody(is_admin=True)
NOW = datetime.now(UTC)


@pytest.fixture
async def explaining(api_database_url: str, owner: Owner) -> AsyncIterator[Explaining]:
    await owner.rows("insert into public.user_profiles (id) select gen_random_uuid() from generate_series(1, 300)")
    for log, of_log in (
        ("user_activity_logs", "activity_type, activity_category"),
        ("agent_activity_logs", "agent_type, operation_type, operation_category"),
    ):
        texts = ", ".join(["'a'"] * len(of_log.split(",")))
        await owner.rows(f"""
            insert into public.{log} (user_id, correlation_id, created_at, {of_log})
            select p.id, gen_random_uuid(), now() + n * interval '1 day', {texts}
            from public.user_profiles as p
            cross join generate_series(0, 75, 5) as n
        """)
    await owner.rows("""
        insert into public.usage_user_daily (user_id, day, agent_type, provider, model_used)
        select p.id, current_date - n, 'a', 'p', 'm'
        from public.user_profiles as p
        cross join generate_series(1, 60) as n
    """)
    await owner.rows("analyze")
    database = Explaining(api_database_url)
    database.plans = []
    yield database
    await database.close()


def partitions(plans: list[str]) -> set[str]:
    """The partitions that were read, and not only planned for."""
    read = re.compile(r"on (\w+_activity_logs_(?:\d{4}_\d\d|default))\b(?: \w+)? \(actual")
    return {match[1] for plan in plans for match in read.finditer(plan)}


async def test_only_the_months_that_were_asked_for_are_read(explaining: Explaining) -> None:
    since = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    wanted = Filter(since=since, until=since + timedelta(days=27))
    await activity_reports.page(explaining, ROOT, wanted, limit=10, cursor=None)
    month = since.strftime("%Y_%m")
    assert partitions(explaining.plans) == {f"user_activity_logs_{month}", f"agent_activity_logs_{month}"}


async def test_a_page_deep_in_the_list_reads_no_newer_month(explaining: Explaining) -> None:
    wanted = Filter(source="user")
    page = await activity_reports.page(explaining, ROOT, wanted, limit=200, cursor=None)
    while page.next_cursor is not None:
        newest = page.items[-1].created_at.strftime("user_activity_logs_%Y_%m")
        explaining.plans = []
        page = await activity_reports.page(explaining, ROOT, wanted, limit=200, cursor=page.next_cursor)
        assert max(partitions(explaining.plans) - {"user_activity_logs_default"}) <= newest


async def test_performance_reads_the_months_of_its_range(explaining: Explaining) -> None:
    since = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    await activity_reports.performance(explaining, ROOT, ["agent"], since=since, until=since + timedelta(days=27))
    assert partitions(explaining.plans) == {since.strftime("agent_activity_logs_%Y_%m")}


async def test_the_newest_activity_is_read_in_its_order_and_not_sorted(explaining: Explaining) -> None:
    await activity_reports.page(explaining, ROOT, Filter(source="user"), limit=10, cursor=None)
    plan, _ = explaining.plans
    assert "Seq Scan" not in plan
    assert "created_at_id_idx" in plan


async def test_the_figures_of_users_are_looked_up_for_those_of_the_page_alone(explaining: Explaining) -> None:
    await people.page(explaining, ROOT, words=None, kind=None, disabled=None, limit=20, cursor=None)
    plan, _ = explaining.plans
    assert "idx_user_profiles_created" in plan
    assert "Seq Scan on usage_user_monthly" not in plan


async def test_the_usage_of_a_year_by_user_reads_its_months_and_the_days_at_its_edges(explaining: Explaining) -> None:
    wanted = usage_reports.Filter(first=NOW.date() - timedelta(days=400), last=NOW.date())
    await usage_reports.read(explaining, ROOT, ["user"], wanted, limit=20, cursor=None)
    plan = max(explaining.plans, key=len)
    assert "on usage_user_monthly" in plan
    assert "Seq Scan on usage_user_daily" not in plan
