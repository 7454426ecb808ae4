"""JSON merge patches, as RFC 7396 has them."""

from __future__ import annotations

from typing import Any

import pytest

from threadkeep import patches
from threadkeep.errors import ThreadkeepError


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_does_what_the_examples_of_the_rfc_say(target: Any, patch: Any, result: Any) -> None:
    assert patches.merged(target, patch) == result


async def test_a_change_is_repeated_for_what_came_between_and_for_nothing_else() -> None:
    outcomes = iter(
        [
            ThreadkeepError("precondition_failed:api"),
            ThreadkeepError("precondition_failed:model"),
            ThreadkeepError("not_found:model"),
        ]
    )

    async def change() -> None:
        raise next(outcomes)

    with pytest.raises(ThreadkeepError) as refusal:
        await patches.until_unchanged(change)

    assert refusal.value.code == "not_found:model"
