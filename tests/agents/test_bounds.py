"""What the requests of a turn may cost together."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import pytest
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage

from threadkeep.model_metadata import ModelMetadata
from threadkeep_agents.ledger import CostBoundReachedError, Ledger
from threadkeep_agents.priced_models import OFFLINE_MODEL, PricedModel

MODEL = PricedModel("m", "openai", Decimal(1), Decimal(10), ModelMetadata(), thinking_enabled=False)
HELLO: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart("Hello")])]


def test_requests_at_the_same_time_never_exceed_the_bound_together() -> None:
    ledger = Ledger(uuid4(), Decimal("0.5"))
    entries = [ledger.enter("document_agent", MODEL, HELLO, 65_536, shares=True) for _ in range(6)]

    bounds = [entry.output_bound for entry in entries]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] >= 256
    assert sum(entry.most() for entry in entries) <= Decimal("0.5")


def test_what_a_request_did_not_use_is_there_for_the_next_one() -> None:
    ledger = Ledger(uuid4(), Decimal("0.01"))
    first = ledger.enter("chat_model_agent", MODEL, HELLO, 65_536)
    with pytest.raises(CostBoundReachedError):
        ledger.enter("chat_model_agent", MODEL, HELLO, 65_536)

    usage = RequestUsage(input_tokens=2, output_tokens=100)
    ledger.settle(first, ModelResponse(parts=[TextPart("Hi")], usage=usage), is_whole=True)

    assert 850 <= ledger.enter("chat_model_agent", MODEL, HELLO, 65_536).output_bound <= 900


def test_an_input_that_cannot_be_paid_is_not_sent() -> None:
    ledger = Ledger(uuid4(), Decimal("0.01"))
    with pytest.raises(CostBoundReachedError):
        ledger.enter("chat_model_agent", MODEL, [ModelRequest(parts=[UserPromptPart("word " * 20_000)])], 300)
    assert ledger.rows() == []


@pytest.mark.parametrize("bound", [None, Decimal(0)], ids=["no bound", "free"])
def test_what_costs_nothing_is_bounded_by_nothing(bound: Decimal | None) -> None:
    model = MODEL if bound is None else OFFLINE_MODEL
    assert Ledger(uuid4(), bound).enter("chat_model_agent", model, HELLO, 65_536).output_bound == 65_536


def test_a_short_request_needs_no_more_than_it_asks_for() -> None:
    ledger = Ledger(uuid4(), Decimal("0.0011"))
    assert ledger.enter("title", MODEL, HELLO, 40, shares=True).output_bound == 40


def test_what_a_tool_returned_and_the_files_are_input_and_the_instructions_once() -> None:
    def request(*parts: UserPromptPart | ToolReturnPart) -> ModelRequest:
        return ModelRequest(parts=parts, instructions="i" * 4_000)

    pdf = BinaryContent(b"%" * 200_000, media_type="application/pdf")
    asked: list[ModelMessage] = [request(UserPromptPart(["Read it", pdf]))]
    answered: list[ModelMessage] = [
        ModelResponse(parts=[ToolCallPart("gitMcpAgent", {"input": "q" * 4_000}, tool_call_id="1")]),
        request(ToolReturnPart("gitMcpAgent", {"answer": "a" * 40_000}, tool_call_id="1")),
    ]
    ledger = Ledger(uuid4())

    first = ledger.enter("chat_model_agent", MODEL, asked, 65_536).estimated_input
    second = ledger.enter("chat_model_agent", MODEL, asked + answered, 65_536).estimated_input

    assert 11_000 <= first <= 11_010
    assert 11_000 <= second - first <= 11_020
