"""What can go wrong with a model, in our words: a provider's own may hold keys, prompts or its internals."""

from __future__ import annotations

from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelTimeoutError,
    ModelUnavailableError,
    OutputTokenLimitExceeded,
    RunTimedOut,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
)

from threadkeep.errors import ThreadkeepError
from threadkeep_agents.ledger import CostBoundReachedError

RETRY_AFTER_SECONDS = 10


def as_domain_error(error: BaseException) -> ThreadkeepError:
    """The error that a caller is told about, for whatever ended a turn."""
    match error:
        case ThreadkeepError():
            return error
        case RunTimedOut() | TimeoutError() | ModelTimeoutError():
            return ThreadkeepError("timeout:chat")
        case CostBoundReachedError():
            return ThreadkeepError("rate_limit:budget" if error.is_of_budget else "too_large:cost")
        case UsageLimitExceeded() | OutputTokenLimitExceeded():
            return ThreadkeepError("too_large:turn")
        case ContentFilterError():
            return ThreadkeepError("invalid:content")
        case ModelContextWindowExceededError():
            return ThreadkeepError("too_large:context")
        case ModelAuthenticationError() | ModelNotFoundError() | ModelQuotaExceededError():
            return ThreadkeepError("provider:configuration")
        case ModelRateLimitError() | ModelUnavailableError():
            return ThreadkeepError("unavailable:model", retry_after=RETRY_AFTER_SECONDS)
        case ModelAPIError() | UnexpectedModelBehavior():
            return ThreadkeepError("provider:chat")
        case _:
            return ThreadkeepError("internal:api")
