"""The committed contract is the one that the functions keep."""

from __future__ import annotations

from local.openapi import OPENAPI, contract_text


def test_the_committed_contract_is_current() -> None:
    assert OPENAPI.read_text() == contract_text(), "run `make openapi`"
