"""Changes of a part: JSON merge patches (RFC 7396), and how they get along with the changes of others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from threadkeep.errors import ThreadkeepError

Result = TypeVar("Result")

# Of callers at once one gets through in every round.
_ROUNDS: Final = 64


def merged(target: Any, patch: Any) -> Any:
    """The target with a patch applied; null takes a member away, and a list replaces the whole of another one."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


async def until_unchanged(change: Callable[[], Awaitable[Result]]) -> Result:
    """Repeats a change of what was read, as long as it fails because somebody else came in between."""
    for _ in range(_ROUNDS - 1):
        try:
            return await change()
        except ThreadkeepError as error:
            if not error.code.startswith("precondition_failed:"):
                raise
    return await change()
